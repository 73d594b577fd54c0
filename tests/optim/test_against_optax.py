"""Fromage, LARS, NovoGrad and signSGD beside those of optax, an implementation that shares nothing with this one.

Where the definitions differ, and what makes them equal:

- ``optax.fromage`` raises both norms to at least ``min_norm`` (1e-6), where ours takes a plain gradient step if a norm
  is zero. With ``min_norm=0`` it does so too. It adds ``-lr/sqrt(1+lr^2) |W|/|g| g`` and ``(1/sqrt(1+lr^2) - 1) W``:
  the same up to rounding. It has no ``p_bound``, which is the projection of each tensor onto a ball
  (``optax.projections.projection_l2_ball``).
- ``optax.lars`` is that of You et al.: without momentum and with a trust coefficient of 1 it is the papers' ablation.
- ``optax.novograd`` has other defaults (0.9, 0.25, 1e-6 for 0.95, 0.98, 1e-8), which are given here, and ``eps_root``
  under the root, which is left at 0. Its first step (v = |g|^2, no bias correction) is the same. It has no
  ``grad_averaging``, which is a learning rate times 1 - beta1. With ``eps=0`` a gradient that was always zero makes it
  divide by zero, where ours stays in place.
- ``optax.sign_sgd`` is the same, sign(0) = 0 included.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.optim import Optimizer

from reltrust.optim import LARS, Fromage, NovoGrad, SignSGD

Array = NDArray[np.float64]
Trajectories = list[list[Array]]  # by step and tensor

pytestmark = [
    pytest.mark.skipif(find_spec("optax") is None, reason="optax is not installed (it is in the extra dev)"),
    pytest.mark.xdist_group("optax"),  # one process has it all
]

STEPS = 50
SHAPES = [(4, 3), (5,), (2, 3, 2), (), (4, 3), (3, 2, 2, 2)]


@cache
def step_of_optax(name: str) -> Callable[..., Any]:
    """(arguments, gradients, state, weights) -> (weights, state), compiled once for all arguments."""
    import jax
    import optax

    def step(arguments: dict[str, Any], gradients: Any, state: Any, weights: Any) -> tuple[Any, Any]:
        updates, state = getattr(optax, name)(**arguments).update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state

    return jax.jit(step)


def follow_optax(
    name: str, arguments: dict[str, Any], starts: list[Array], gradients: Trajectories, p_bound: float | None = None
) -> Trajectories:
    """The weights after every step of ``optax.<name>(**arguments)``, in float64."""
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    weights = [jax.numpy.asarray(w) for w in starts]
    state = getattr(optax, name)(**arguments).init(weights)
    trajectories = []
    for now in gradients:
        weights, state = step_of_optax(name)(arguments, [jax.numpy.asarray(g) for g in now], state, weights)
        if p_bound is not None:
            radii = [p_bound * np.linalg.norm(w) for w in starts]
            weights = [optax.projections.projection_l2_ball(w, r) for w, r in zip(weights, radii, strict=True)]
        assert all(w.dtype == np.float64 for w in weights)
        trajectories.append([np.asarray(w) for w in weights])
    return trajectories


def follow_ours(
    optimizer: Callable[..., Optimizer], arguments: dict[str, Any], starts: list[Array], gradients: Trajectories
) -> Trajectories:
    params = [torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in starts]
    opt = optimizer(params, **arguments)
    trajectories = []
    for now in gradients:
        for p, g in zip(params, now, strict=True):
            p.grad = torch.tensor(g, dtype=torch.float64)
        opt.step()
        trajectories.append([p.detach().numpy().copy() for p in params])
    return trajectories


@pytest.fixture(scope="module")
def optax() -> Iterator[Callable[..., Trajectories]]:
    """``follow_optax`` in a process of its own: one that has started JAX can no longer be forked by other tests."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda *arguments: pool.submit(follow_optax, *arguments).result()


def start(seed: int = 0) -> list[Array]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for shape in SHAPES]


def pulls(size: float = 1.0, zeros: bool = True) -> Trajectories:
    """Gradients of unequal sizes, with zeros in them; zero are all of the third step, and the second tensor's first."""
    generator = np.random.default_rng(1)
    gradients = []
    for step in range(STEPS):
        now = [size * 10 ** generator.uniform(-2, 2) * generator.standard_normal(shape) for shape in SHAPES]
        if zeros:
            now = [g * (generator.random(g.shape) > 0.2) * (step != 2) for g in now]
            now[1] = now[1] * (step > 0)
        gradients.append(now)
    return gradients


def assert_equal(ours: Trajectories, theirs: Trajectories, tolerance: float = 1e-13) -> None:
    """Relative to the largest weight of the tensor so far."""
    assert len(ours) == len(theirs) == STEPS
    largest = [0.0 for _ in SHAPES]
    for step, (xs, ys) in enumerate(zip(ours, theirs, strict=True), start=1):
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            largest[i] = max(largest[i], np.abs(y).max())
            assert np.abs(x - y).max() <= tolerance * largest[i], f"step {step}, shape {x.shape}"


Optax = Callable[..., Trajectories]


@pytest.mark.parametrize(("lr", "size"), [(0.01, 1.0), (0.3, 1e-12), (0.001, 1e12)])
def test_fromage_is_that_of_optax_without_its_floor_under_the_norms(optax: Optax, lr: float, size: float) -> None:
    weights, gradients = start(), pulls(size)
    theirs = optax("fromage", {"learning_rate": lr, "min_norm": 0.0}, weights, gradients)
    assert_equal(follow_ours(Fromage, {"lr": lr}, weights, gradients), theirs)


def test_fromage_is_that_of_optax_where_its_floor_is_not_reached(optax: Optax) -> None:
    weights, gradients = start(), pulls(zeros=False)
    theirs = optax("fromage", {"learning_rate": 0.01}, weights, gradients)
    assert_equal(follow_ours(Fromage, {}, weights, gradients), theirs)


def test_fromage_differs_from_that_of_optax_by_the_floor_where_it_is_reached(optax: Optax) -> None:
    weights, gradients = start(), pulls(zeros=False)
    gradients = [[1e-9 * g / np.linalg.norm(g) for g in now] for now in gradients]  # of norm 1e-9, below 1e-6
    theirs = optax("fromage", {"learning_rate": 0.01}, weights, gradients)
    ours = follow_ours(Fromage, {"lr": 0.01}, weights, gradients)
    shrink = 1 / np.sqrt(1 + 0.01**2)
    for w, x, y in zip(weights, ours[0], theirs[0], strict=True):  # a thousandth of our step
        np.testing.assert_allclose(y - shrink * w, 1e-3 * (x - shrink * w), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("p_bound", [0.5, 1.0, 1.05])
def test_fromage_with_a_bound_is_that_of_optax_projected_onto_a_ball(optax: Optax, p_bound: float) -> None:
    weights = start()
    outward = [
        [g / np.linalg.norm(g) - w / np.linalg.norm(w) for g, w in zip(now, weights, strict=True)]
        for now in pulls(zeros=False)
    ]
    theirs = optax("fromage", {"learning_rate": 0.03, "min_norm": 0.0}, weights, outward, p_bound)
    ours = follow_ours(Fromage, {"lr": 0.03, "p_bound": p_bound}, weights, outward)
    assert_equal(ours, theirs)
    for w, x in zip(weights, ours[-1], strict=True):
        np.testing.assert_allclose(np.linalg.norm(x), p_bound * np.linalg.norm(w), rtol=0.01)


@pytest.mark.parametrize("lr", [0.01, 0.3])
def test_lars_is_that_of_optax_without_momentum_and_coefficient(optax: Optax, lr: float) -> None:
    weights, gradients = start(), pulls()
    theirs = optax("lars", {"learning_rate": lr, "trust_coefficient": 1.0, "momentum": 0.0}, weights, gradients)
    assert_equal(follow_ours(LARS, {"lr": lr}, weights, gradients), theirs)


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e8])
@pytest.mark.parametrize(
    ("b1", "b2", "eps", "weight_decay"), [(0.95, 0.98, 1e-8, 0.0), (0.9, 0.25, 1e-3, 0.1), (0.0, 0.0, 0.1, 0.5)]
)
def test_novograd_is_that_of_optax(
    optax: Optax, b1: float, b2: float, eps: float, weight_decay: float, size: float
) -> None:
    weights, gradients = start(), pulls(size)
    shared = {"eps": eps, "weight_decay": weight_decay}
    theirs = optax("novograd", {"learning_rate": 0.01, "b1": b1, "b2": b2, **shared}, weights, gradients)
    assert_equal(follow_ours(NovoGrad, {"lr": 0.01, "betas": (b1, b2), **shared}, weights, gradients), theirs)


def test_novograd_without_eps_is_that_of_optax_for_gradients_that_are_not_zero(optax: Optax) -> None:
    weights, gradients = start(), pulls(zeros=False)
    theirs = optax("novograd", {"learning_rate": 0.01, "b1": 0.9, "b2": 0.25, "eps": 0.0}, weights, gradients)
    assert_equal(follow_ours(NovoGrad, {"lr": 0.01, "betas": (0.9, 0.25), "eps": 0.0}, weights, gradients), theirs)


def test_novograd_that_averages_is_that_of_optax_with_a_smaller_learning_rate(optax: Optax) -> None:
    weights, gradients = start(), pulls()
    shared = {"eps": 1e-8, "weight_decay": 0.1}
    theirs = optax("novograd", {"learning_rate": 0.005, "b1": 0.95, "b2": 0.98, **shared}, weights, gradients)
    arguments = {"lr": 0.1, "betas": (0.95, 0.98), "grad_averaging": True, **shared}
    assert_equal(follow_ours(NovoGrad, arguments, weights, gradients), theirs)


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_signsgd_is_that_of_optax(optax: Optax, size: float) -> None:
    weights, gradients = start(), pulls(size)
    theirs = optax("sign_sgd", {"learning_rate": 0.01}, weights, gradients)
    assert_equal(follow_ours(SignSGD, {"lr": 0.01}, weights, gradients), theirs)


def test_a_tensor_of_zeros_is_moved_as_optax_moves_it(optax: Optax) -> None:
    weights, gradients = [np.zeros(shape) for shape in SHAPES], pulls()
    for name, arguments, optimizer, ours in [
        ("fromage", {"learning_rate": 0.01, "min_norm": 0.0}, Fromage, {"lr": 0.01}),
        ("lars", {"learning_rate": 0.01, "trust_coefficient": 1.0, "momentum": 0.0}, LARS, {"lr": 0.01}),
        ("novograd", {"learning_rate": 0.01, "b1": 0.95, "b2": 0.98, "eps": 1e-8}, NovoGrad, {"lr": 0.01}),
    ]:
        theirs = optax(name, arguments, weights, gradients)
        assert_equal(follow_ours(optimizer, ours, weights, gradients), theirs)
