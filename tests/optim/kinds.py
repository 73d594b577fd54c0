"""The optimizers that the tests of the contract are about, in one list: how each is made, what it may be given, and its
equations; and what those tests do with them: parameters, gradients, steps, comparisons."""

import inspect
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

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
    return pytest.mark.parametrize("make", list(kinds), ids=lambda kind: kind.name)


EACH = each(KINDS)
# What the driver does is the same for all that share a rule, and what a constructor does for all of a class.
EACH_RULE = each(
    kind
    for kind in KINDS
    if kind.name in ("fromage", "fromage_p_bound", "madam", "integer_madam_12bit", "novograd_averaging", "signsgd")
)
ONE_OF_EACH_CLASS = list({kind.optimizer: kind for kind in reversed(KINDS)}.values())[::-1]
EACH_CLASS = each(ONE_OF_EACH_CLASS)


# --- parameters and gradients ----------------------------------------------------------------------------------------

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
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


def learn(optimizer: Optimizer, loss_of: Callable[[], Tensor], steps: int) -> tuple[float, float]:
    """Trains; the losses of the first step and of the last."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


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


def by_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded
