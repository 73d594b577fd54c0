"""Defects of optimizers under reparametrisation, rules made natural: exact in float64 where mathematics is."""

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from reltrust.optim import Fromage, Madam, SignSGD
from reltrust.theory.natural import Natural, NaturalMomentum, Newton, outputs_and_jacobian, second_derivative
from reltrust.theory.naturality import Defect, Model, defect, defects, order_of, way
from reltrust.theory.reparametrisation import Reparametrisation, distance, elementwise, linear

SHAPES = [(3, 2), (2, 3)]
SINH = elementwise(torch.sinh, torch.asinh)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(n: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(n, n, seed=seed)).Q


X = normal(12, 2, seed=0)
START = [normal(*shape, seed=2 + i) for i, shape in enumerate(SHAPES)]
Y = (X @ (START[0] + 0.3 * normal(3, 2, seed=4)).mT).tanh() @ (START[1] + 0.3 * normal(2, 3, seed=5)).mT
MODEL = Model(lambda w: (X @ w[0].mT).tanh() @ w[1].mT, lambda f: (f - Y).square().sum() / 2)
AFFINE = linear([normal(6, 6, seed=9), normal(6, 6, seed=10)], SHAPES, [normal(*shape, seed=11) for shape in SHAPES])
SCALING = linear([torch.diag(normal(6, seed=12).exp()) for _ in SHAPES], SHAPES)
PERMUTATION = linear([torch.eye(6, dtype=torch.float64)[[3, 0, 5, 1, 2, 4]] * -1.0 for _ in SHAPES], SHAPES)
TENSOR_SCALE = linear([3.0 * torch.eye(6, dtype=torch.float64) for _ in SHAPES], SHAPES)
ROTATION = linear([orthogonal(6, 13), orthogonal(6, 14)], SHAPES)
PROJECTION = linear([normal(6, 12, seed=15), normal(6, 12, seed=16)], SHAPES)


def natural(params: list[Tensor], model: Model, lr: float = 0.01) -> Optimizer:
    return Natural(params, model, lambda f: SGD([f], lr=lr))


def plain(kind: Callable[..., Optimizer], lr: float = 0.01, **keys: float) -> Callable[..., Optimizer]:
    """An optimizer that has no use for the model."""
    return lambda params, model: kind(params, lr=lr, **keys)


# --- the tables' exact entries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [AFFINE, SCALING, ROTATION, PROJECTION])
@pytest.mark.parametrize(
    "make",
    [
        natural,
        partial(Newton, lr=0.01),
        partial(NaturalMomentum, lr=0.02, transport="coordinates"),
        partial(NaturalMomentum, lr=0.02, transport="geodesic"),
        lambda params, model: Natural(params, model, lambda f: Adam([f], lr=0.01)),
    ],
)
def test_what_is_natural_for_affine_maps_is_so_to_rounding_and_along_projections(
    make: Callable[..., Optimizer], phi: Reparametrisation
) -> None:
    assert defect(make, MODEL, START, phi, steps=10).relative <= 1e-8


def halving(make: Callable[..., Optimizer], phi: Reparametrisation, lr: float, steps: int) -> list[Defect]:
    return [defect(partial(make, lr=lr / 2**k), MODEL, START, phi, steps=steps * 2**k) for k in range(3)]


@pytest.mark.parametrize(
    ("make", "lr"), [(natural, 0.01), (partial(NaturalMomentum, friction=2.0, transport="geodesic"), 0.02)]
)
def test_under_sinh_the_defect_of_a_natural_flow_halves_with_the_step(
    make: Callable[..., Optimizer], lr: float
) -> None:
    found = halving(make, SINH, lr, 20)
    assert found[0].relative < 0.1
    for before, after in itertools.pairwise(found):
        assert before.distance / after.distance == pytest.approx(2, rel=0.15)
    assert order_of(found) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("make", "phi"),
    [
        (lambda params, model, lr: SGD(params, lr=lr), AFFINE),
        (lambda params, model, lr: SGD(params, lr=lr), SINH),
        (lambda params, model, lr: SignSGD(params, lr=lr), SCALING),
        (lambda params, model, lr: Madam(params, lr=lr, p_scale=1e9, g_bound=1e9), ROTATION),
        (lambda params, model, lr: Fromage(params, lr=lr), SCALING),
        (Newton, SINH),
        (partial(NaturalMomentum, friction=2.0, transport="coordinates"), SINH),
    ],
)
def test_a_defect_that_is_none_of_the_step_size_does_not_vanish(
    make: Callable[..., Optimizer], phi: Reparametrisation
) -> None:
    found = halving(make, phi, 0.01, 20)
    assert found[2].relative > 1e-4
    assert abs(order_of(found)) < 0.35


@pytest.mark.parametrize(
    ("make", "phi"),
    [
        (plain(Madam, p_scale=1e9, g_bound=1e9), SCALING),
        (plain(Madam, p_scale=1e9, g_bound=1e9), PERMUTATION),
        (plain(SignSGD), PERMUTATION),
        (plain(Fromage), ROTATION),
        (plain(Fromage), TENSOR_SCALE),
        (plain(SGD), ROTATION),
    ],
)
def test_what_commutes_with_a_map_does_so_at_every_step(make: Callable[..., Optimizer], phi: Reparametrisation) -> None:
    found = defect(make, MODEL, START, phi, steps=40)
    assert found.travelled > 0.1
    assert found.relative <= 1e-12


# --- function space --------------------------------------------------------------------------------------------------


def test_natural_gradient_descent_is_the_inverse_of_the_fisher_information_times_the_gradient() -> None:
    params = [w.clone().requires_grad_() for w in START]
    optimizer = natural(params, MODEL, lr=0.1)
    _, jacobian = outputs_and_jacobian(MODEL, params)
    MODEL.of(params).backward()
    gradient = torch.cat([p.grad.flatten() for p in params if p.grad is not None])
    expected = torch.cat([w.flatten() for w in START]) - 0.1 * torch.linalg.solve(jacobian.mT @ jacobian, gradient)
    optimizer.step()
    assert torch.allclose(torch.cat([p.detach().flatten() for p in params]), expected, rtol=1e-9)


def test_derivatives_of_the_outputs_are_those_of_differences() -> None:
    velocity = [normal(*shape, seed=20) for shape in SHAPES]
    h = 1e-4
    along = [MODEL.outputs([w + s * h * v for w, v in zip(START, velocity, strict=True)]) for s in (-1, 0, 1)]
    assert torch.allclose(
        second_derivative(MODEL, START, velocity), (along[0] - 2 * along[1] + along[2]) / h**2, atol=1e-5
    )
    _, jacobian = outputs_and_jacobian(MODEL, START)
    flat = torch.cat([v.flatten() for v in velocity])
    assert torch.allclose((jacobian @ flat).view_as(along[0]), (along[2] - along[0]) / (2 * h), atol=1e-5)


def test_without_a_force_the_way_is_a_geodesic_at_constant_speed() -> None:
    """On w = (theta, phi) of a sphere: the outputs go along a great circle."""
    sphere = Model(
        lambda w: torch.stack([w[0].sin() * w[1].cos(), w[0].sin() * w[1].sin(), w[0].cos()]), lambda f: 0.0 * f.sum()
    )
    start = [torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)]
    params = [w.clone().requires_grad_() for w in start]
    optimizer = NaturalMomentum(params, sphere, lr=1e-2, friction=0.0)
    for p, v in zip(params, (0.4, 1.1), strict=True):
        optimizer.state[p]["velocity"] = torch.tensor(v, dtype=torch.float64)
    first = sphere.outputs(start)
    tangent = torch.func.jvp(
        lambda *w: sphere.outputs(w), tuple(start), (torch.tensor(0.4).double(), torch.tensor(1.1).double())
    )[1]
    for _ in range(100):
        optimizer.step()
    speed = tangent.norm()
    expected = first * speed.cos() + tangent / speed * speed.sin()
    assert torch.allclose(sphere.outputs(params).detach(), expected, atol=2e-2)


def test_a_dead_unit_changes_nothing_and_a_doubled_one_in_the_limit_nothing() -> None:
    """Different architectures: the pseudo-inverse goes the same way in function space."""
    small = [w.clone() for w in START]
    dead = [torch.cat([small[0], torch.zeros(1, 2).double()]), torch.cat([small[1], torch.zeros(2, 1).double()], 1)]
    outputs = [MODEL.outputs(way(natural, MODEL, start, steps=10)) for start in (small, dead)]
    assert torch.allclose(*outputs, atol=1e-9)
    doubled = [torch.cat([small[0], small[0][:1]]), torch.cat([small[1], small[1][:, :1]], 1)]
    doubled[1][:, [0, 3]] /= 2
    assert torch.allclose(MODEL.outputs(doubled), MODEL.outputs(small))
    away = []
    for k in range(2):
        make = partial(natural, lr=0.02 / 2**k)
        ends = [MODEL.outputs(way(make, MODEL, start, steps=10 * 2**k)) for start in (small, doubled)]
        away.append(float((ends[0] - ends[1]).norm()))
    assert away[0] < 0.05
    # On some CPUs the doubled units stay equal, and the ways differ by rounding alone; on others in proportion to lr.
    assert away[1] < max(0.65 * away[0], 1e-9)


def test_a_rule_made_natural_goes_on_from_its_saved_state() -> None:
    def make(params: list[Tensor], model: Model) -> Natural:
        return Natural(params, model, lambda f: Adam([f], lr=0.01))

    whole = way(make, MODEL, START, steps=8)
    params = [w.clone().requires_grad_() for w in START]
    first = make(params, MODEL)
    for _ in range(4):
        first.step()
    again = make(params, MODEL)
    again.load_state_dict(first.state_dict())
    for _ in range(4):
        again.step()
    assert distance(params, whole) < 1e-12


# --- the tool --------------------------------------------------------------------------------------------------------


def test_defects_of_several_maps_are_those_of_each() -> None:
    together = defects(plain(SGD), MODEL, START, {"a": AFFINE, "b": SINH}, steps=3)
    assert together == {
        name: defect(plain(SGD), MODEL, START, phi, steps=3) for name, phi in (("a", AFFINE), ("b", SINH))
    }


def test_the_order_is_the_mean_power_of_the_step_size() -> None:
    assert order_of([Defect(0.8, 2.0), Defect(0.4, 2.0), Defect(0.05, 1.0)]) == pytest.approx(math.log2(8) / 2)
    assert math.isnan(order_of([Defect(0.0, 1.0), Defect(0.1, 1.0)]))
    assert math.isnan(Defect(0.0, 0.0).relative)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear([torch.ones(6, 6)], [(3, 2)]), r"matrices\[0\]: rank 1: must be 6"),
        (lambda: linear([torch.eye(5)], [(3, 2)]), r"matrices\[0\]: shape \(5, 5\): must be \(6, m\)"),
        (lambda: linear([torch.ones(6, 9)], [(3, 2)]), r"matrices\[0\]: shape \(6, 9\): must be \(6, m\), m a mul"),
        (
            lambda: defect(plain(SGD), MODEL, START, elementwise(torch.square, torch.sqrt), steps=1),
            "phi: phi\\(to_q\\(w\\)\\) is nan away from w",
        ),
        (lambda: way(plain(SGD), MODEL, START, steps=0), "steps=0: must be at least 1"),
        (lambda: order_of([Defect(1.0, 1.0)]), "defects: 1 given, must be at least 2"),
        (lambda: NaturalMomentum([], MODEL, lr=0.0), "lr=0.0: must be above 0"),
        (lambda: NaturalMomentum([], MODEL, lr=0.1, friction=-1.0), "friction=-1.0: must be at least 0"),
        (lambda: NaturalMomentum([], MODEL, lr=0.1, transport="none"), "transport=none: must be coordinates"),  # type: ignore
        (lambda: Newton([], MODEL, lr=-1.0), "lr=-1.0: must be above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
