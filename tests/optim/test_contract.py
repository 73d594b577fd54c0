"""What every optimizer owes to whoever calls it: one list of optimizers, and every test for each of them.

How a step is carried out (stacked, compiled, differentiated, in other dtypes) is tested in test_contract_paths.py.
"""

import copy
import inspect
import io
import math
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from reltrust.optim import LARS, Fromage, IntegerMadam, Madam, NovoGrad, SignSGD

Memory = dict[str, Any]
Settings = dict[str, Any]
Equations = Callable[[Tensor, Tensor, Memory, Settings], Tensor]


# --- the equations, for settings that may differ at every step -------------------------------------------------------


def lars_by_equations(w: Tensor, g: Tensor, memory: Memory, settings: Settings, shrink: float = 1.0) -> Tensor:
    after = (w - settings["lr"] * w.norm() / g.norm() * g) * shrink
    if settings["p_bound"] is not None:
        largest = settings["p_bound"] * memory.setdefault("norm", w.norm())
        after = after * min(1.0, float(largest / after.norm()))
    return after


def fromage_by_equations(w: Tensor, g: Tensor, memory: Memory, settings: Settings) -> Tensor:
    return lars_by_equations(w, g, memory, settings, shrink=1 / math.sqrt(1 + settings["lr"] ** 2))


def clipped_normalised_gradient(g: Tensor, memory: Memory, settings: Settings) -> Tensor:
    beta = settings["beta"]
    memory["t"] += 1
    memory["v"] = beta * memory["v"] + (1 - beta) * g * g
    return (g / (memory["v"] / (1 - beta ** memory["t"])).sqrt()).clamp(-settings["g_bound"], settings["g_bound"])


def madam_by_equations(w: Tensor, g: Tensor, memory: Memory, settings: Settings) -> Tensor:
    if not memory:
        memory.update(t=0, v=0.0, rms=w.square().mean().sqrt())
    w_max = settings["p_scale"] * memory["rms"]
    exponent = -settings["lr"] * clipped_normalised_gradient(g, memory, settings) * w.sign()
    return (w * exponent.exp()).clamp(-w_max, w_max)


def integer_madam_by_equations(w: Tensor, g: Tensor, memory: Memory, settings: Settings) -> Tensor:
    b, last = settings["base_lr"], settings["levels"] - 1
    first = not memory
    if first:
        memory.update(t=0, v=0.0, rms=w.square().mean().sqrt())
    w_max = settings["p_scale"] * memory["rms"]
    if first:
        memory["n"] = ((w_max / w.abs()).log() / b).round().clamp(min=0)
    move = (settings["lr"] / b * clipped_normalised_gradient(g, memory, settings)).round() * w.sign()
    memory["n"] = (memory["n"].clamp(max=last) + move).clamp(0, last)  # the scale may have become shorter
    return w.sign() * w_max * (-b * memory["n"]).exp()


def novograd_by_equations(w: Tensor, g: Tensor, memory: Memory, settings: Settings) -> Tensor:
    beta1, beta2 = settings["betas"]
    squared = g.square().sum()
    memory["v"] = beta2 * memory["v"] + (1 - beta2) * squared if memory else squared
    added = g / (memory["v"].sqrt() + settings["eps"]) + settings["weight_decay"] * w
    memory["m"] = beta1 * memory.get("m", 0.0) + ((1 - beta1) * added if settings["grad_averaging"] else added)
    return w - settings["lr"] * memory["m"]


def signsgd_by_equations(w: Tensor, g: Tensor, memory: Memory, settings: Settings) -> Tensor:
    return w - settings["lr"] * g.sign()


# --- the list --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Kind:
    """An optimizer with its arguments, and what is to be expected of it."""

    name: str
    optimizer: Callable[..., Optimizer]
    equations: Equations
    arguments: dict[str, Any]  # beside lr
    others: dict[str, Any]  # of every hyperparameter another value, and it makes a difference
    state: dict[str, torch.dtype] = field(default_factory=dict)  # of parameters in float32 or less precise
    invalid: dict[str, list[Any]] = field(default_factory=dict)  # beside those of lr
    scale_free: dict[str, Any] = field(default_factory=dict)  # with it, the size of all gradients does not matter
    training: dict[str, Any] = field(default_factory=dict)  # with it, small problems are solved soon
    supports_complex: bool = False
    differentiable: bool = True

    def __call__(self, params: Any, lr: float | Tensor = 0.01, **arguments: Any) -> Any:
        return self.optimizer(params, **{"lr": lr, **self.arguments, **arguments})

    def __repr__(self) -> str:
        return self.name


INF, NAN = float("inf"), float("nan")
SHARED = {"foreach": None, "maximize": False, "capturable": False, "differentiable": False, "fused": None}

BOUND_INVALID = {"p_bound": [-1, -1e-9, NAN, INF]}
MADAM_INVALID: dict[str, list[Any]] = {
    "g_bound": [0, -1.0, NAN],
    "p_scale": [0, -1.0, NAN, INF],
    "beta": [1, 1.5, -0.1, NAN],
}
INTEGER_INVALID: dict[str, list[Any]] = MADAM_INVALID | {
    "base_lr": [0, -0.001, NAN, INF],
    "levels": [1, 0, -256, 65537, 256.0, 2.5, True],
    "init": ["zeros", ""],
}
NOVOGRAD_INVALID: dict[str, list[Any]] = {
    "betas": [(1, 0.9), (-0.1, 0.9), (0.9, 1.0), (0.9, -0.1), (NAN, 0.9), (0.9, NAN), (0.9,)],
    "eps": [-1e-8, NAN, INF],
    "weight_decay": [-0.1, NAN, INF],
}

MADAM_STATE = {"step": torch.float64, "init_rms": torch.float64, "exp_avg_rms": torch.float32}
MADAM_OTHERS = {"lr": 0.05, "p_scale": 0.9, "g_bound": 0.5, "beta": 0.5, "maximize": True}
NOVOGRAD_STATE = {"grad_norm": torch.float64, "exp_avg": torch.float32}

# No quotient of a learning rate used here and a base_lr lies halfway between two integers, where rounding is a toss-up.
KINDS = [
    Kind(
        "fromage",
        Fromage,
        fromage_by_equations,
        {},
        {"lr": 0.05, "p_bound": 0.97, "maximize": True},
        invalid=BOUND_INVALID,
        supports_complex=True,
    ),
    Kind(
        "fromage_p_bound",
        Fromage,
        fromage_by_equations,
        {"p_bound": 0.9},
        {"lr": 0.05, "p_bound": 0.8, "maximize": True},
        {"init_norm": torch.float64},
        BOUND_INVALID,
        supports_complex=True,
    ),
    Kind(
        "lars",
        LARS,
        lars_by_equations,
        {},
        {"lr": 0.05, "p_bound": 0.97, "maximize": True},
        invalid=BOUND_INVALID,
        supports_complex=True,
    ),
    Kind("madam", Madam, madam_by_equations, {}, MADAM_OTHERS, MADAM_STATE, MADAM_INVALID),
    Kind(
        "integer_madam_8bit",
        IntegerMadam,
        integer_madam_by_equations,
        {"levels": 256, "base_lr": 0.009},
        MADAM_OTHERS | {"base_lr": 0.007, "levels": 4096},
        {**MADAM_STATE, "level": torch.uint8},
        INTEGER_INVALID,
        training={"lr": 0.04},
        differentiable=False,
    ),
    Kind(
        "integer_madam_12bit",
        IntegerMadam,
        integer_madam_by_equations,
        {},
        MADAM_OTHERS | {"base_lr": 0.0007, "levels": 256},
        {**MADAM_STATE, "level": torch.int16},
        INTEGER_INVALID,
        differentiable=False,
    ),
    Kind(
        "integer_madam_16bit",
        IntegerMadam,
        integer_madam_by_equations,
        {"levels": 65536, "base_lr": 1e-4},
        MADAM_OTHERS | {"base_lr": 0.0007, "levels": 4096},
        {**MADAM_STATE, "level": torch.uint16},
        INTEGER_INVALID,
        differentiable=False,
    ),
    Kind(
        "novograd",
        NovoGrad,
        novograd_by_equations,
        {},
        {
            "lr": 0.05,
            "betas": (0.5, 0.3),
            "eps": 0.5,
            "weight_decay": 0.1,
            "grad_averaging": True,
            "maximize": True,
        },
        NOVOGRAD_STATE,
        NOVOGRAD_INVALID,
        {"eps": 0.0},
    ),
    Kind(
        "novograd_averaging",
        NovoGrad,
        novograd_by_equations,
        {"betas": (0.8, 0.9), "weight_decay": 0.1, "grad_averaging": True},
        {
            "lr": 0.05,
            "betas": (0.5, 0.3),
            "eps": 0.5,
            "weight_decay": 0.0,
            "grad_averaging": False,
            "maximize": True,
        },
        NOVOGRAD_STATE,
        NOVOGRAD_INVALID,
        {"eps": 0.0},
    ),
    Kind("signsgd", SignSGD, signsgd_by_equations, {}, {"lr": 0.05, "maximize": True}),
]


def each(kinds: Iterable[Kind]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", kinds, ids=lambda kind: kind.name)


EACH = each(KINDS)


# --- parameters and gradients ----------------------------------------------------------------------------------------

SHAPES: list[tuple[int, ...]] = [(4, 3), (3,), (), (3,), (4, 3)]


def draw(shape: Iterable[int], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """The same normal numbers in every dtype."""
    precise = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(tuple(shape), generator=generator, dtype=precise).to(dtype)


def parameters(
    seed: int = 0, dtype: torch.dtype = torch.float32, shapes: Iterable[tuple[int, ...]] = SHAPES
) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(draw(shape, generator, dtype)) for shape in shapes]


def copies(params: Iterable[Tensor]) -> list[nn.Parameter]:
    return [nn.Parameter(p.detach().clone()) for p in params]


def give_gradients(params: Iterable[Tensor], step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = scale * draw(p.shape, generator, p.dtype)


def take_steps(optimizer: Optimizer, steps: Iterable[int], scale: float = 1.0) -> None:
    """The gradients of a step depend on its number alone."""
    for step in steps:
        give_gradients([p for group in optimizer.param_groups for p in group["params"]], step, scale)
        optimizer.step()


def values(params: Iterable[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def same(xs: Iterable[Tensor], ys: Iterable[Tensor]) -> bool:
    """Equal to the bit, NaNs included."""
    pairs = zip(xs, ys, strict=True)
    return all(
        x.dtype == y.dtype and torch.equal(x.isnan(), y.isnan()) and x.eq(y).logical_or(x.isnan()).all()
        for x, y in pairs
    )


def assert_close(xs: Iterable[Tensor], ys: Iterable[Tensor], tolerance: float) -> None:
    """``tolerance`` is relative to the largest weight of each tensor."""
    for x, y in zip(xs, ys, strict=True):
        largest = float(y.detach().abs().max()) if y.numel() else 0.0
        torch.testing.assert_close(x.detach(), y.detach(), rtol=0, atol=tolerance * largest, check_stride=False)


def tensors_of_state(optimizer: Optimizer) -> dict[tuple[int, str], Tensor]:
    """By the index of the parameter and the name."""
    saved = optimizer.state_dict()["state"]
    return {(i, key): value for i, state in saved.items() for key, value in state.items()}


def default_arguments(kind: Kind) -> dict[str, Any]:
    """Of the constructor."""
    arguments = inspect.signature(kind.optimizer).parameters
    return {key: a.default for key, a in arguments.items() if a.default is not inspect.Parameter.empty}


def hyperparameters(kind: Kind) -> list[str]:
    """The arguments that are the optimizer's own."""
    return [key for key in inspect.signature(kind.optimizer).parameters if key != "params" and key not in SHARED]


def test_the_list_has_another_value_and_invalid_values_of_every_hyperparameter() -> None:
    for kind in KINDS:
        own = set(hyperparameters(kind))
        assert set(kind.others) - {"maximize"} == own - {"init"}, kind.name
        assert set(kind.invalid) == own - {"lr", "grad_averaging"}, kind.name
        usual = {**default_arguments(kind), "lr": 0.01, **kind.arguments}
        assert all(other != usual[key] for key, other in kind.others.items()), kind.name


@EACH
def test_every_argument_is_a_default_and_in_every_group(make: Kind) -> None:
    optimizer = make(parameters())
    arguments = {**default_arguments(make), "lr": 0.01, **make.arguments, "stacked": False}
    assert set(SHARED.items()) <= set(arguments.items())
    assert optimizer.defaults == arguments
    assert {key: value for key, value in optimizer.param_groups[0].items() if key != "params"} == arguments


# --- a step ----------------------------------------------------------------------------------------------------------


@EACH
def test_a_step_moves_every_parameter_in_place(make: Kind) -> None:
    params = parameters()
    before, addresses = values(params), [p.data_ptr() for p in params]
    take_steps(make(params), [0])
    assert not any(torch.equal(p, old) for p, old in zip(params, before, strict=True))
    assert [p.data_ptr() for p in params] == addresses
    assert all(p.isfinite().all() and p.requires_grad and p.is_leaf for p in params)


@EACH
def test_autograd_notices_that_weights_have_moved_between_forward_and_backward(make: Kind) -> None:
    separate, in_one_buffer = parameters(shapes=[(3,)] * 3), parameters(shapes=[(3,)] * 3)
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(in_one_buffer).detach(), in_one_buffer)
    for params in (separate, in_one_buffer):
        products = [(p * p).sum() for p in params]
        take_steps(make(params), [0])
        for product in products:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                product.backward()


@EACH
def test_the_closures_loss_is_returned_and_its_gradients_are_used(make: Kind) -> None:
    by_closure, by_hand = parameters(), parameters()
    enabled = []

    def loss_of(params: list[nn.Parameter]) -> Tensor:
        return torch.stack([(p**2).sum() for p in params]).sum()

    def closure() -> Tensor:
        enabled.append(torch.is_grad_enabled())
        for p in by_closure:
            p.grad = None
        loss = loss_of(by_closure)
        loss.backward()
        return loss

    expected = loss_of(by_hand)
    expected.backward()
    make(by_hand).step()
    optimizer = make(by_closure)
    with torch.no_grad():
        returned = optimizer.step(closure)
    assert enabled == [True]
    assert returned.item() == expected.item()
    assert same(by_closure, by_hand)


@EACH
def test_without_a_closure_a_step_returns_none(make: Kind) -> None:
    params = parameters()
    give_gradients(params, 0)
    assert make(params).step() is None


@pytest.mark.parametrize("maximize", [False, True])
@EACH
def test_a_step_does_not_write_to_the_gradients(make: Kind, maximize: bool) -> None:
    params = parameters()
    optimizer = make(params, maximize=maximize)
    for step in range(3):
        give_gradients(params, step)
        if step == 2:  # gradients that lie one after another in one buffer, as some wrappers keep them
            flat = torch.cat([p.grad.flatten() for p in params])
            for p, part in zip(params, flat.split([p.numel() for p in params]), strict=True):
                p.grad = part.view(p.shape)
        grads: list[Any] = [p.grad for p in params]
        before, versions = values(grads), [g._version for g in grads]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert same(grads, before)
        assert [g._version for g in grads] == versions


@EACH
def test_a_step_does_not_write_to_a_tensor_lr(make: Kind) -> None:
    lr = torch.tensor([0.02])
    take_steps(make(parameters(), lr=lr, maximize=True), range(2))
    assert lr.item() == torch.tensor(0.02).item()
    assert lr._version == 0


@EACH
def test_zero_grad_removes_the_gradients_or_fills_them_with_zeros(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    give_gradients(params, 0)
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


@EACH
def test_hooks_run_before_and_after_a_step(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    start = values(params)
    seen = []

    def hook(name: str) -> Callable[..., None]:
        return lambda opt, args, kwargs: seen.append((name, opt is optimizer, same(params, start)))

    handles = [optimizer.register_step_pre_hook(hook("before")), optimizer.register_step_post_hook(hook("after"))]
    take_steps(optimizer, [0])
    assert seen == [("before", True, True), ("after", True, False)]
    for handle in handles:
        handle.remove()
    take_steps(optimizer, [1])
    assert len(seen) == 2


@EACH
def test_maximize_descends_on_the_negated_gradients(make: Kind) -> None:
    ascending, descending = parameters(), parameters()
    up, down = make(ascending, maximize=True), make(descending)
    for step in range(4):
        take_steps(up, [step])
        take_steps(down, [step], scale=-1.0)
        assert same(ascending, descending)


def test_the_weight_decay_of_novograd_keeps_its_sign_under_maximize() -> None:
    for maximize in (False, True):
        p = nn.Parameter(torch.ones(2))
        p.grad = torch.zeros(2)
        NovoGrad([p], lr=0.1, weight_decay=0.5, maximize=maximize).step()
        torch.testing.assert_close(p.detach(), torch.full((2,), 0.95))


@EACH
def test_a_gradient_that_is_an_expanded_view_counts_like_its_copy(make: Kind) -> None:
    viewed, copied = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    viewed.grad = torch.tensor(0.5).expand(3, 2)
    copied.grad = viewed.grad.clone()
    make([viewed]).step()
    make([copied]).step()
    assert torch.equal(viewed, copied)
    assert torch.equal(viewed.grad, copied.grad)


@EACH
def test_parameters_without_a_gradient_are_left_alone(make: Kind) -> None:
    params = parameters()
    before = values(params)
    optimizer = make(params)
    give_gradients(params, 0)
    params[1].grad = None
    optimizer.step()
    assert torch.equal(params[1], before[1])
    assert params[1] not in optimizer.state
    assert not any(torch.equal(params[i], before[i]) for i in (0, 2, 3, 4))


@EACH
def test_a_parameter_whose_gradient_comes_later_moves_as_if_the_steps_before_had_not_been(make: Kind) -> None:
    late, alone = parameters(), parameters()
    optimizer = make(late)
    for step in range(3):
        give_gradients(late, step)
        late[0].grad = None
        optimizer.step()
    for params, opt in ((late, optimizer), (alone, make(alone))):
        give_gradients(params, 3)
        opt.step()
    assert_close(late[:1], alone[:1], 1e-6)


@EACH
def test_a_step_without_any_gradient_does_nothing(make: Kind) -> None:
    params = parameters()
    before = values(params)
    optimizer = make(params)
    assert optimizer.step() is None
    assert same(params, before)
    assert not optimizer.state


@pytest.mark.parametrize("before", [0, 3])  # the first step too: it may bring no weight onto a grid or into bounds
@pytest.mark.parametrize("zero", [0, 0.0, torch.tensor(0.0), torch.tensor([0.0])], ids=repr)
@EACH
def test_a_step_of_length_zero_moves_nothing_and_still_counts_for_the_state(
    make: Kind, zero: float | Tensor, before: int
) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(before))
    resting = values(params)
    state = {key: value.clone() for key, value in tensors_of_state(optimizer).items()}
    optimizer.param_groups[0]["lr"] = zero
    for step in range(before, before + 3):
        take_steps(optimizer, [step])
        assert same(params, resting)
    after = tensors_of_state(optimizer)
    assert {key for _, key in after} == set(make.state)
    assert make.name == "fromage_p_bound" or not after or not state or not same(after.values(), state.values())


@EACH
def test_a_least_squares_problem_is_driven_downhill(make: Kind) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=generator)
    y = x @ torch.tensor([1.0, 0.5, 2.0, 1.5, 0.7])
    w = nn.Parameter(torch.full((5,), 1.6))  # of the signs of the solution, and larger than it
    optimizer = make([w], **make.training)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = ((x @ w - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


# --- unusual tensors -------------------------------------------------------------------------------------------------


@EACH
def test_tensors_without_elements_move_nowhere_and_do_not_disturb_the_others(make: Kind) -> None:
    shapes = [(0,), (2, 0), (0,), (3,), (0, 4)]
    params, alone = parameters(shapes=shapes), parameters(shapes=[(3,)])
    only_empty = parameters(shapes=[(0, 2)])
    take_steps(make(params), range(3))
    take_steps(make(alone), range(3))
    take_steps(make(only_empty), range(3))
    assert same([params[3]], alone)
    assert [tuple(p.shape) for p in params] == shapes


@EACH
def test_a_number_moves_like_a_vector_of_length_one(make: Kind) -> None:
    number, vector = parameters(shapes=[()]), parameters(shapes=[(1,)])
    take_steps(make(number), range(4))
    take_steps(make(vector), range(4))
    assert same(number, [vector[0][0]])


@EACH
def test_tensors_that_are_not_contiguous_move_like_their_contiguous_copies(make: Kind) -> None:
    images, matrices, columns = parameters(shapes=[(2, 3, 4, 4), (5, 3), (4, 6)], dtype=torch.float64)
    scattered = [
        nn.Parameter(images.detach().to(memory_format=torch.channels_last)),
        nn.Parameter(matrices.detach().t()),
        nn.Parameter(matrices.detach().clone().t()),  # of one shape with the one before, so they are stacked
        nn.Parameter(columns.detach()[:, ::2]),
    ]
    assert not any(p.is_contiguous() for p in scattered)
    strides = [p.stride() for p in scattered]
    contiguous = [nn.Parameter(p.detach().contiguous()) for p in scattered]
    untouched = columns.detach()[:, 1::2].clone()
    optimizer, other = make(scattered), make(contiguous)
    for step in range(4):
        take_steps(optimizer, [step])
        take_steps(other, [step])
        assert_close(scattered, contiguous, 1e-13)
    assert [p.stride() for p in scattered] == strides
    assert torch.equal(columns.detach()[:, 1::2], untouched)


@EACH
def test_gradients_that_are_not_contiguous_count_like_their_contiguous_copies(make: Kind) -> None:
    params, others = parameters(shapes=[(4, 3), (4, 3)]), parameters(shapes=[(4, 3), (4, 3)])
    optimizer, other = make(params), make(others)
    for step in range(3):
        give_gradients(params, step)
        give_gradients(others, step)
        for p in params:
            p.grad = p.grad.t().contiguous().t()
        optimizer.step()
        other.step()
        assert same(params, others)


@EACH
def test_parameters_of_several_dtypes_in_one_group_each_move_as_in_a_group_of_their_own(make: Kind) -> None:
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
    alone = [parameters(dtype=dtype) for dtype in dtypes]
    together = [copies(params) for params in alone]
    mixed = [p for same_index in zip(*together, strict=True) for p in same_index]
    optimizer, others = make(mixed), [make(params) for params in alone]
    for step in range(3):
        for params in [*alone, *together]:
            give_gradients(params, step)
        for opt in [optimizer, *others]:
            opt.step()
    for params, expected in zip(together, alone, strict=True):
        assert same(params, expected)


# --- unusual numbers -------------------------------------------------------------------------------------------------


@EACH
def test_a_nan_in_the_gradient_shows_in_the_weights_from_then_on(make: Kind) -> None:
    params = parameters(shapes=[(3,), (3,), (4, 3)])
    optimizer = make(params)
    take_steps(optimizer, [0])
    give_gradients(params, 1)
    params[0].grad[1] = NAN
    optimizer.step()
    assert params[0][1].isnan()
    take_steps(optimizer, [2, 3])
    assert params[0][1].isnan()
    assert all(p.isfinite().all() for p in params[1:])


@EACH
def test_a_nan_in_the_gradient_lets_no_other_weight_jump(make: Kind) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = make([p])
    for step in range(3):
        p.grad = torch.tensor([1.0, NAN if step == 0 else 1.0, 1e6])
        optimizer.step()
        assert all(w.isnan() or abs(w - 1) < 1 for w in p.detach()), p


@EACH
def test_a_nan_in_the_weights_stays(make: Kind) -> None:
    p = nn.Parameter(torch.tensor([1.0, NAN, 1.0]))
    p.grad = torch.ones(3)
    make([p]).step()
    assert p[1].isnan()


@pytest.mark.parametrize("exponent", [-100, 83])  # about 1e-30 and 1e25
@EACH
def test_the_size_of_all_gradients_does_not_matter(make: Kind, exponent: int) -> None:
    plain, scaled = parameters(), parameters()
    optimizer, other = make(plain, **make.scale_free), make(scaled, **make.scale_free)
    for step in range(4):
        take_steps(optimizer, [step])
        take_steps(other, [step], scale=2.0**exponent)
        assert_close(scaled, plain, 1e-6)


@EACH
def test_the_largest_gradients_of_float32_leave_the_weights_finite(make: Kind) -> None:
    plain, scaled = parameters(shapes=[(4, 3), (5,)]), parameters(shapes=[(4, 3), (5,)])
    optimizer, other = make(plain, **make.scale_free), make(scaled, **make.scale_free)
    for _ in range(2):
        for p, q in zip(plain, scaled, strict=True):
            p.grad, q.grad = p.detach().sign(), 3e38 * q.detach().sign()
        optimizer.step()
        other.step()
    assert_close(scaled, plain, 1e-5)


@EACH
def test_gradients_smaller_than_normal_numbers_leave_the_weights_finite(make: Kind) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = make([p], **make.scale_free)
    for _ in range(3):
        p.grad = torch.tensor([1e-40, 0.0, -1e-45])
        optimizer.step()
    assert p.isfinite().all()
    assert (p - 1).abs().max() < 0.5


@EACH
def test_gradients_of_zero_leave_the_weights_finite(make: Kind) -> None:
    params = parameters()
    optimizer = make(params, **make.scale_free)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(p.isfinite().all() for p in params)


# --- state -----------------------------------------------------------------------------------------------------------


def by_deepcopy(state: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(state)


def by_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("carry", [by_deepcopy, by_file])
@EACH
def test_a_saved_optimizer_continues_bit_for_bit(
    make: Kind, carry: Callable[..., dict[str, Any]], dtype: torch.dtype
) -> None:
    params = parameters(dtype=dtype)
    optimizer = make(params, lr=0.02)
    take_steps(optimizer, range(5))
    continued = copies(params)
    restored = make(continued, lr=0.5)
    restored.load_state_dict(carry(optimizer.state_dict()))
    for step in range(5, 10):
        take_steps(optimizer, [step])
        take_steps(restored, [step])
        assert same(params, continued)
    before, after = tensors_of_state(optimizer), tensors_of_state(restored)
    assert list(before) == list(after)
    assert same(before.values(), after.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@EACH
def test_state_has_its_own_dtype_whatever_that_of_the_parameters_and_keeps_it(make: Kind, dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    optimizer = make(params)
    take_steps(optimizer, range(2))
    restored = make(copies(params))
    restored.load_state_dict(by_file(optimizer.state_dict()))
    for opt in (optimizer, restored):
        for _ in range(2):
            found = tensors_of_state(opt)
            assert set(found) == {(i, key) for i in range(len(params)) for key in make.state}
            for (_, key), value in found.items():
                moment = torch.float64 if dtype == torch.float64 else torch.float32
                assert value.dtype == (moment if make.state[key] == torch.float32 else make.state[key]), key
            take_steps(opt, [2])


@EACH
def test_state_comes_into_being_at_the_first_step_of_each_parameter(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    assert not optimizer.state
    give_gradients(params, 0)
    params[0].grad = None
    optimizer.step()
    assert {i for i, _ in tensors_of_state(optimizer)} == (set(range(1, len(params))) if make.state else set())
    take_steps(optimizer, [1])
    assert {i for i, _ in tensors_of_state(optimizer)} == (set(range(len(params))) if make.state else set())


@pytest.mark.parametrize("stacked", [True, False])
@EACH
def test_to_look_at_the_state_of_a_parameter_changes_nothing(make: Kind, stacked: bool) -> None:
    looked_at, left_alone = parameters(), parameters()
    optimizers = [make(params, foreach=stacked) for params in (looked_at, left_alone)]
    for step in range(4):
        for params, optimizer in zip((looked_at, left_alone), optimizers, strict=True):
            give_gradients(params, step)
            if step < 2:
                params[0].grad = params[3].grad = None
            if params is looked_at:
                assert all(optimizer.state[p] is not None for p in params)  # torch's dict makes an empty entry
            optimizer.step()
        assert same(looked_at, left_alone)


@each([kind for kind in KINDS if kind.state])
def test_the_state_that_is_saved_is_what_makes_it_continue(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(5))
    assert len(optimizer.state_dict()["state"]) == len(params)
    continued = copies(params)
    forgetful = make(continued)
    take_steps(optimizer, [5])
    take_steps(forgetful, [5])
    assert not same(params, continued)


@EACH
def test_a_copied_optimizer_and_its_copied_parameters_continue_alike(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(3))
    twins, twin = copy.deepcopy((params, optimizer))
    take_steps(optimizer, range(3, 6))
    assert not same(params, twins)
    take_steps(twin, range(3, 6))
    assert same(params, twins)


def by_pickle(optimizer: Optimizer) -> Any:
    return pickle.loads(pickle.dumps(optimizer))


@pytest.mark.parametrize("carry", [copy.deepcopy, by_pickle])
@EACH
def test_an_optimizer_that_is_copied_or_pickled_brings_its_parameters_along(
    make: Kind, carry: Callable[[Optimizer], Optimizer]
) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(3))
    twin = carry(optimizer)
    twins = twin.param_groups[0]["params"]
    assert same(params, twins)
    assert not any(p is q for p, q in zip(params, twins, strict=True))
    take_steps(optimizer, range(3, 6))
    take_steps(twin, range(3, 6))
    assert same(params, twins)
    calls: list[Any] = []
    twin.register_step_post_hook(lambda *_: calls.append(None))
    twin.step()
    assert len(calls) == 1


def forget(kind: Kind, groups: list[dict[str, Any]]) -> list[str]:
    """Deletes from groups what has its default, as if the keywords had been added to the optimizer since."""
    forgotten = [key for key, default in default_arguments(kind).items() if groups[0][key] == default]
    for group in groups:
        for key in forgotten:
            del group[key]
    return forgotten


@EACH
def test_a_state_dict_of_before_some_keywords_existed_continues_with_their_defaults(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(3))
    old = copy.deepcopy(optimizer.state_dict())
    forgotten = forget(make, old["param_groups"])
    assert set(SHARED) <= set(forgotten)
    assert make.optimizer is SignSGD or len(forgotten) > len(SHARED) or make.name == "novograd_averaging"
    continued = copies(params)
    restored = make(continued)
    restored.load_state_dict(old)
    assert restored.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    take_steps(optimizer, range(3, 6))
    take_steps(restored, range(3, 6))
    assert same(params, continued)


@EACH
def test_an_optimizer_pickled_before_some_keywords_existed_continues_with_their_defaults(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(3))
    twins, twin = copy.deepcopy((params, optimizer))
    forget(make, twin.param_groups)
    twin = pickle.loads(pickle.dumps(twin))
    twins = twin.param_groups[0]["params"]
    take_steps(optimizer, range(3, 6))
    take_steps(twin, range(3, 6))
    assert same(params, twins)


@EACH
def test_a_hook_may_rewrite_the_state_dict_that_is_loaded(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(3))
    old = copy.deepcopy(optimizer.state_dict())
    old["state"] = {i: {f"old_{key}": x for key, x in state.items()} for i, state in old["state"].items()}

    def rename(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        named = {i: {k.removeprefix("old_"): x for k, x in s.items()} for i, s in state_dict["state"].items()}
        return {**state_dict, "state": named}

    continued = copies(params)
    restored = make(continued)
    restored.register_load_state_dict_pre_hook(rename)
    restored.load_state_dict(old)
    take_steps(optimizer, range(3, 6))
    take_steps(restored, range(3, 6))
    assert same(params, continued)


@EACH
def test_a_state_dict_of_other_groups_is_refused(make: Kind) -> None:
    params = parameters()
    state = make(params).state_dict()
    with pytest.raises(ValueError, match="different number of parameter groups"):
        make([{"params": params[:1]}, {"params": params[1:]}]).load_state_dict(state)
    with pytest.raises(ValueError, match="doesn't match the size"):
        make(params[1:]).load_state_dict(state)


@EACH
def test_parameters_that_are_given_with_names_are_saved_with_them(make: Kind) -> None:
    net = nn.Linear(3, 2)
    optimizer = make(net.named_parameters())
    take_steps(optimizer, [0])
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    restored = make(copy.deepcopy(net).named_parameters())
    restored.load_state_dict(by_file(optimizer.state_dict()))
    take_steps(optimizer, [1])
    take_steps(restored, [1])
    assert same(net.parameters(), restored.param_groups[0]["params"])


# --- hyperparameters -------------------------------------------------------------------------------------------------

CHANGES = [(kind, key) for kind in KINDS for key in kind.others]
EACH_CHANGE = pytest.mark.parametrize(("make", "key"), CHANGES, ids=lambda x: getattr(x, "name", x))


@EACH_CHANGE
def test_every_hyperparameter_is_read_from_the_group_at_each_step(make: Kind, key: str) -> None:
    params = parameters(dtype=torch.float64)
    group = (optimizer := make(params, lr=0.04)).param_groups[0]
    usual, other = group[key], make.others[key]
    expected, unchanged = values(params), values(params)
    memories: list[Memory] = [{} for _ in range(2 * len(params))]
    differed = False
    for step in range(9):
        group[key] = other if 3 <= step < 6 else usual
        take_steps(optimizer, [step])
        for twins, value, own in ((expected, group[key], memories[::2]), (unchanged, usual, memories[1::2])):
            settings = {**group, key: value}
            for i, (p, memory) in enumerate(zip(params, own, strict=True)):
                g = -p.grad if settings["maximize"] else p.grad
                twins[i] = make.equations(twins[i], g, memory, settings)
        assert_close(params, expected, 1e-11)
        differed = differed or not same(expected, unchanged)
    assert differed


@EACH_CHANGE
def test_a_hyperparameter_set_in_the_group_counts_like_one_given_at_construction(make: Kind, key: str) -> None:
    changed, fixed, unchanged = parameters(), parameters(), parameters()
    optimizer = make(changed)
    optimizer.param_groups[0][key] = make.others[key]
    take_steps(optimizer, range(3))
    take_steps(make(fixed, **{key: make.others[key]}), range(3))
    take_steps(make(unchanged), range(3))
    assert same(changed, fixed)
    assert not same(changed, unchanged)


@EACH_CHANGE
def test_every_hyperparameter_may_differ_between_groups(make: Kind, key: str) -> None:
    grouped, usual, other = parameters(), parameters()[:2], parameters()[2:]
    optimizer = make([{"params": grouped[:2]}, {"params": grouped[2:], key: make.others[key]}])
    for step in range(3):
        for params in (grouped, [*usual, *other]):
            give_gradients(params, step)
        if step == 0:
            others = [make(usual), make(other, **{key: make.others[key]})]
        for each_optimizer in (optimizer, *others):
            each_optimizer.step()
    assert same(grouped, [*usual, *other])


@pytest.mark.parametrize("other", [300, 2])  # of the dtype of 32768, and of a smaller one
def test_weights_beyond_a_scale_that_becomes_shorter_move_from_its_last_level(other: int) -> None:
    params = parameters(dtype=torch.float64)
    optimizer = IntegerMadam(params, levels=32768)
    expected = values(params)
    memories: list[Memory] = [{} for _ in params]
    for step in range(6):
        optimizer.param_groups[0]["levels"] = 32768 if step < 3 else other
        take_steps(optimizer, [step])
        for i, (p, memory) in enumerate(zip(params, memories, strict=True)):
            expected[i] = integer_madam_by_equations(expected[i], p.grad, memory, optimizer.param_groups[0])
        assert_close(params, expected, 1e-11)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_levels_are_kept_in_the_smallest_dtype_that_holds_them_now(dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    optimizer = IntegerMadam(params)
    for step, levels in enumerate([256, 4096, 256, 65536, 32768, 257, 2]):
        optimizer.param_groups[0]["levels"] = levels
        take_steps(optimizer, [step])
        expected = torch.uint8 if levels <= 256 else torch.int16 if levels <= 32768 else torch.uint16
        for p in params:
            held = optimizer.state[p]["level"]
            assert held.dtype == expected
            assert int(held.to(torch.int32).max()) < levels
            assert int(held.to(torch.int32).min()) >= 0


@pytest.mark.parametrize("levels", [256, 2048])
def test_integer_madam_knows_no_levels_of_a_weight_that_is_beyond_a_scale_made_shorter(levels: int) -> None:
    params = parameters()
    optimizer = IntegerMadam(params)
    take_steps(optimizer, range(2))
    assert all(optimizer.quantized(p) is not None for p in params)
    optimizer.param_groups[0]["levels"] = levels
    for p in params:
        held = optimizer.quantized(p)
        assert held is None or int(held[0].level.max()) < levels
    take_steps(optimizer, [2])
    assert all(optimizer.quantized(p) is not None for p in params)


def test_the_init_of_integer_madam_is_read_at_the_first_step_of_each_parameter() -> None:
    set_later, given, quantized = parameters(), parameters(), parameters()
    optimizer = IntegerMadam(set_later)
    optimizer.param_groups[0]["init"] = "random"
    for opt in (optimizer, IntegerMadam(given, init="random"), IntegerMadam(quantized)):
        torch.manual_seed(0)
        take_steps(opt, range(2))
    assert same(set_later, given)
    assert not same(set_later, quantized)
    assert all(torch.equal(p.sign(), q.sign()) for p, q in zip(set_later, quantized, strict=True))


# --- learning rates and groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,)])
@EACH
def test_a_learning_rate_in_a_tensor_counts_like_the_number(make: Kind, shape: tuple[int, ...]) -> None:
    by_tensor, by_number = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    lr = torch.full(shape, 0.02, dtype=torch.float64)
    tensor_optimizer, number_optimizer = make(by_tensor, lr=lr), make(by_number, lr=0.02)
    take_steps(tensor_optimizer, range(3))
    take_steps(number_optimizer, range(3))
    lr.fill_(0.05)
    number_optimizer.param_groups[0]["lr"] = 0.05
    take_steps(tensor_optimizer, range(3, 6))
    take_steps(number_optimizer, range(3, 6))
    assert_close(by_tensor, by_number, 1e-12)
    assert tensor_optimizer.param_groups[0]["lr"] is lr


@EACH
def test_a_learning_rate_in_a_tensor_that_wants_a_gradient_is_taken_without_a_warning(make: Kind) -> None:
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer = make(parameters(), lr=torch.tensor(0.01, requires_grad=True))
            take_steps(optimizer, range(2))
    finally:
        torch.set_warn_always(always)
    assert all(p.is_leaf and p.grad_fn is None for p in optimizer.param_groups[0]["params"])


Schedule = Callable[[Optimizer], Any]

SCHEDULES: dict[str, Schedule] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.7**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.8),
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.6),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, milestones=[1, 4], gamma=0.6),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.7, total_iters=3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, start_factor=0.3, total_iters=5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.8),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.3, total_iters=3), lr_scheduler.ExponentialLR(o, gamma=0.8)], milestones=[3]
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=7),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, factor=0.7, total_iters=3), lr_scheduler.ExponentialLR(o, gamma=0.8)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.6, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.08, step_size_up=3, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.08, total_steps=9, cycle_momentum=False),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=8, power=2.0),
}


@pytest.mark.parametrize("in_a_tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@EACH
def test_every_schedule_of_torch_drives_it(make: Kind, schedule: Schedule, in_a_tensor: bool) -> None:
    """SGD tells which learning rates the schedule asks for; these are set by hand."""
    scheduled, by_hand, model = parameters(), parameters(), parameters()

    def start() -> float | Tensor:
        return torch.tensor(0.08, dtype=torch.float64) if in_a_tensor else 0.08

    optimizer, other = make(scheduled, lr=start()), make(by_hand, lr=start())
    sgd = torch.optim.SGD(model, lr=start())
    schedulers = [schedule(optimizer), schedule(sgd)]
    seen = []
    for step in range(8):
        seen.append(float(sgd.param_groups[0]["lr"]))
        assert float(optimizer.param_groups[0]["lr"]) == seen[-1]
        other.param_groups[0]["lr"] = torch.tensor(seen[-1], dtype=torch.float64) if in_a_tensor else seen[-1]
        take_steps(optimizer, [step])
        take_steps(other, [step])
        assert same(scheduled, by_hand)
        sgd.step()
        for scheduler in schedulers:
            scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
    assert len(set(seen)) > 1


@EACH
def test_gradients_clipped_before_the_step_are_those_that_count(make: Kind) -> None:
    clipped, by_hand = parameters(), parameters()
    optimizer, other = make(clipped), make(by_hand)
    for step in range(4):
        give_gradients(clipped, step)
        give_gradients(by_hand, step)
        total = nn.utils.clip_grad_norm_(clipped, max_norm=0.1 * 2**step)
        assert total > 1
        for p in by_hand:
            p.grad = p.grad * (0.1 * 2**step / (total + 1e-6))
        optimizer.step()
        other.step()
        assert_close(clipped, by_hand, 1e-6)


@EACH
def test_a_group_added_later_moves_with_its_own_learning_rate_and_its_own_start(make: Kind) -> None:
    first, second = parameters(0), parameters(1)
    first_alone, second_alone = parameters(0), parameters(1)
    optimizer = make(first, lr=0.01)
    take_steps(optimizer, range(3))
    optimizer.add_param_group({"params": second, "lr": 0.05})

    one, other = make(first_alone, lr=0.01), make(second_alone, lr=0.05)
    take_steps(one, range(3))
    for step in range(3, 6):
        for params in (first, second, first_alone, second_alone):
            give_gradients(params, step)
        for each_optimizer in (optimizer, one, other):
            each_optimizer.step()
    assert same(first, first_alone)
    assert same(second, second_alone)


@EACH
def test_parameter_groups_given_at_the_start_have_their_own_learning_rates(make: Kind) -> None:
    grouped, slow, fast = parameters(), parameters()[:1], parameters()[1:]
    optimizer = make([{"params": grouped[:1]}, {"params": grouped[1:], "lr": 0.1}], lr=0.01)
    for params in (grouped, [*slow, *fast]):
        give_gradients(params, 0)
    for each_optimizer in (optimizer, make(slow, lr=0.01), make(fast, lr=0.1)):
        each_optimizer.step()
    assert same(grouped, [*slow, *fast])


@EACH
def test_a_group_of_no_parameters_is_allowed_and_no_parameters_at_all_are_not(make: Kind) -> None:
    params, alone = parameters(), parameters()
    optimizer = make([{"params": []}, {"params": params}])
    take_steps(optimizer, range(2))
    take_steps(make(alone), range(2))
    assert same(params, alone)
    empty = make([{"params": []}])
    assert empty.step() is None
    empty.load_state_dict(by_file(empty.state_dict()))
    with pytest.raises(ValueError, match="empty parameter list"):
        make([])


# --- refusals --------------------------------------------------------------------------------------------------------


@EACH
def test_a_sparse_gradient_is_refused_before_anything_moves(make: Kind) -> None:
    dense, first, p = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(4, 2))
    dense.grad, first.grad = torch.ones(2), torch.ones(2)
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (4, 2), check_invariants=True)
    optimizer = make([{"params": [first]}, {"params": [dense, p]}])
    with pytest.raises(RuntimeError, match=f"{type(optimizer).__name__}.*sparse"):
        optimizer.step()
    assert all(torch.equal(x, torch.ones_like(x)) for x in (first, dense, p))
    assert not optimizer.state_dict()["state"]


@each([kind for kind in KINDS if not kind.supports_complex])
def test_a_complex_parameter_is_refused_before_anything_moves(make: Kind) -> None:
    real, p = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.complex64))
    real.grad, p.grad = torch.ones(2), torch.ones(2, dtype=torch.complex64)
    optimizer = make([real, p])
    with pytest.raises(RuntimeError, match=f"{type(optimizer).__name__}.*complex"):
        optimizer.step()
    assert all(torch.equal(x, torch.ones_like(x)) for x in (real, p))
    assert not optimizer.state_dict()["state"]


LR_INVALID = [-0.1, -1, NAN, INF, torch.tensor(-0.1), torch.tensor(NAN), torch.tensor([INF]), torch.tensor([0.1, 0.1])]
REFUSED = [
    (kind, key, value)
    for kind in {kind.optimizer: kind for kind in reversed(KINDS)}.values()  # the first of each class
    for key, invalid in {"lr": LR_INVALID, **kind.invalid}.items()
    for value in invalid
]
EACH_REFUSED = pytest.mark.parametrize(
    ("make", "key", "value"), REFUSED, ids=[f"{kind.name}-{key}={value!r}" for kind, key, value in REFUSED]
)


@EACH_REFUSED
def test_an_argument_outside_its_range_is_refused_with_its_name_value_and_range(
    make: Kind, key: str, value: Any
) -> None:
    params = parameters()
    pattern = f"^{re.escape(f'{key}={value!r} ')}.*: .*(number|one of|integer|finite)"
    with pytest.raises(ValueError, match=pattern):
        make(params, **{key: value})
    with pytest.raises(ValueError, match=pattern):
        make([{"params": params[:1]}, {"params": params[1:], key: value}])


@EACH_REFUSED
def test_a_group_with_an_argument_outside_its_range_is_refused_and_not_added(make: Kind, key: str, value: Any) -> None:
    params, more, alone = parameters(0), parameters(1), parameters(0)
    optimizer = make(params)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{key}={value!r} ')}"):
        optimizer.add_param_group({"params": more, key: value})
    assert len(optimizer.param_groups) == 1
    take_steps(optimizer, [0])
    take_steps(make(alone), [0])
    assert same(params, alone)
    optimizer.add_param_group({"params": more})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(
    "excluded", [{"foreach": True, "fused": True}, {"differentiable": True, "fused": True}], ids=str
)
@EACH
def test_keywords_that_exclude_each_other_are_refused(make: Kind, excluded: dict[str, bool]) -> None:
    pattern = ".*".join(excluded)
    with pytest.raises(RuntimeError, match=pattern):
        make(parameters(), **excluded)
    optimizer = make(parameters())
    with pytest.raises(RuntimeError, match=pattern):
        optimizer.add_param_group({"params": parameters(1), **excluded})
    assert len(optimizer.param_groups) == 1


@EACH
def test_a_parameter_may_not_be_in_two_groups(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": params[:1]})
    assert len(optimizer.param_groups) == 1


@EACH
def test_a_group_that_is_no_dict_is_refused_with_torchs_words(make: Kind) -> None:
    with pytest.raises(TypeError, match="param_group must be a dict"):
        make(parameters()).add_param_group(parameters())


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        (Fromage, {"lr": 0, "p_bound": 0}),
        (LARS, {"lr": 0.0, "p_bound": None}),
        (Madam, {"lr": 0.0, "p_scale": 1e-3, "g_bound": 1e-3, "beta": 0}),
        (Madam, {"g_bound": INF}),
        (IntegerMadam, {"lr": 0.0, "levels": 2, "base_lr": 1e-6, "beta": 0.0}),
        (IntegerMadam, {"levels": 65536, "init": "random"}),
        (NovoGrad, {"lr": 0.0, "betas": (0, 0), "eps": 0, "weight_decay": 0}),
        (SignSGD, {"lr": 0}),
    ],
)
def test_arguments_at_the_edge_of_their_ranges_are_allowed(
    optimizer: Callable[..., Optimizer], arguments: dict[str, Any]
) -> None:
    params = parameters()
    opt = optimizer(params, **arguments)
    assert {key: opt.param_groups[0][key] for key in arguments} == arguments
    take_steps(opt, range(3))
    assert all(p.isfinite().all() for p in params)


def test_the_defaults_are_those_of_the_papers() -> None:
    madam = {"lr": 0.01, "p_scale": 3.0, "g_bound": 10.0, "beta": 0.999}
    novograd = {"betas": (0.95, 0.98), "eps": 1e-8, "weight_decay": 0.0, "grad_averaging": False}
    for optimizer, defaults in (
        (Fromage, {"lr": 0.01, "p_bound": None}),
        (LARS, {"lr": 0.01, "p_bound": None}),
        (Madam, madam),
        (IntegerMadam, {**madam, "base_lr": 0.001, "levels": 4096, "init": "quantize"}),
        (NovoGrad, novograd),
        (SignSGD, {}),
    ):
        arguments = inspect.signature(optimizer).parameters
        given = {key: a.default for key, a in arguments.items() if a.default is not inspect.Parameter.empty}
        assert given == defaults | SHARED


# --- the package -----------------------------------------------------------------------------------------------------


def test_importing_the_optimizers_imports_no_other_part_of_reltrust_and_none_of_its_dependencies() -> None:
    code = "import sys, reltrust.optim; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    modules = found.stdout.split()
    ours = {name for name in modules if name.split(".")[0] == "reltrust"}
    assert {"reltrust", "reltrust.optim", "reltrust.optim.fromage", "reltrust.optim.madam"} <= ours
    assert {name for name in ours if name != "reltrust" and not f"{name}.".startswith("reltrust.optim.")} == set()
    heavy = {"hydra", "omegaconf", "pydantic", "pandas", "matplotlib", "sklearn", "torchvision", "wandb", "mlxtend"}
    assert heavy & {name.split(".")[0] for name in modules} == set()
