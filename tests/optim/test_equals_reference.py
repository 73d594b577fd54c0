"""Every optimizer, in every way it can carry out a step, 100 steps long beside its slow twin."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from reltrust.optim import LARS, Fromage, IntegerMadam, Madam, NovoGrad, SignSGD, _blocks

from .internals import cpu_slice, use_sizes
from .reference import fromage, integer_madam, madam, novograd, signsgd

Array = NDArray[np.float64]
Twin = Generator[Array, Array | None, None]
STEPS = 100

# Tensors of equal shapes are stacked; where they stand beside each other in memory, without a copy.
SMALL = [(4, 3), (5,), (2, 3, 2), (), (4, 3), (6, 1), (5,), (1,), (4, 3)]
LARGE = [(300, 300), (250, 200), (7,), ()]  # too large to be stacked, and smaller than a slice
FEW = [(4, 3), (4, 3), (5,), ()]  # each kind of shape takes a compilation: many or one row, of many or one weight


@dataclass(frozen=True)
class Pair:
    """An optimizer, its twin, and the arguments of both."""

    optimizer: Callable[..., Optimizer]
    twin: Callable[..., Twin]
    arguments: dict[str, Any]
    twin_only: dict[str, Any] = field(default_factory=dict)

    @property
    def has_levels(self) -> bool:
        return self.twin is integer_madam.trajectory


def pair(optimizer: Callable[..., Any], twin: Callable[..., Twin], **arguments: Any) -> Pair:
    return Pair(optimizer, twin, arguments, {"lars": True} if optimizer is LARS else {})


FROMAGE_PAIRS = {
    "fromage": pair(Fromage, fromage.trajectory),
    "fromage_lr0.3": pair(Fromage, fromage.trajectory, lr=0.3),
    "fromage_p_bound0.9": pair(Fromage, fromage.trajectory, lr=0.1, p_bound=0.9),
    "fromage_p_bound1": pair(Fromage, fromage.trajectory, lr=0.03, p_bound=1.0),
    "fromage_p_bound0": pair(Fromage, fromage.trajectory, p_bound=0.0),
    "lars": pair(LARS, fromage.trajectory),
    "lars_p_bound1.1": pair(LARS, fromage.trajectory, lr=0.1, p_bound=1.1),
}
INTEGER_PAIRS = {
    "integer_madam": pair(IntegerMadam, integer_madam.trajectory),
    "integer_madam_8_bits": pair(IntegerMadam, integer_madam.trajectory, base_lr=0.01, levels=256, p_scale=2.0),
    "integer_madam_16_bits": pair(IntegerMadam, integer_madam.trajectory, base_lr=1e-4, levels=65536),
    "integer_madam_clipped": pair(
        IntegerMadam, integer_madam.trajectory, lr=0.016, levels=1024, p_scale=1.0, g_bound=1.3, beta=0.9
    ),
}
PAIRS = (
    FROMAGE_PAIRS
    | INTEGER_PAIRS
    | {
        "madam": pair(Madam, madam.trajectory),
        "madam_clipped": pair(Madam, madam.trajectory, lr=0.1, p_scale=1.0, g_bound=1.5, beta=0.9),
        "madam_beta0": pair(Madam, madam.trajectory, lr=0.02, beta=0.0),
        "novograd": pair(NovoGrad, novograd.trajectory, lr=0.01),
        "novograd_averaging": pair(
            NovoGrad, novograd.trajectory, lr=0.1, betas=(0.9, 0.5), weight_decay=0.1, grad_averaging=True
        ),
        "novograd_decay": pair(NovoGrad, novograd.trajectory, lr=0.01, weight_decay=0.5, eps=0.0),
        "novograd_eps": pair(NovoGrad, novograd.trajectory, lr=0.01, betas=(0.0, 0.0), eps=0.3),
        "signsgd": pair(SignSGD, signsgd.trajectory, lr=0.01),
    }
)
BY_PAIR = pytest.mark.parametrize("name", PAIRS)
ONE_OF_EACH = [  # rule; LARS has that of Fromage
    "fromage",
    "fromage_p_bound0.9",
    "madam_clipped",
    "integer_madam_clipped",
    "novograd_averaging",
    "signsgd",
]
BY_ONE_OF_EACH = pytest.mark.parametrize("name", ONE_OF_EACH)
BY_DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])

# Relative to the largest weight of the tensor in the last 20 of its steps: weights on their way through zero keep the
# errors of where they come from.
TOLERANCE = {torch.float64: 3e-14, torch.float32: 1e-5}
REMEMBERED = 20


# --- weights, gradients, and the ways to lay them out ----------------------------------------------------------------


def initial(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@cache
def gradients(shape: tuple[int, ...], index: int, dtype: torch.dtype, different: int = STEPS) -> list[Tensor]:
    """A fixed sequence of very unequal sizes, with zeros in it; the third gradient is zero as a whole."""
    generator = torch.Generator().manual_seed(1000 + index)
    sequence = []
    for step in range(different):
        scale = 10 ** (4 * torch.rand((), generator=generator, dtype=torch.float64) - 2)
        g = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        kept = torch.rand(shape, generator=generator) > 0.2
        sequence.append((g * kept * (step != 2)).to(dtype))
    return [sequence[step % different] for step in range(STEPS)]


def sequences_for(starts: list[Tensor], different: int = STEPS) -> list[list[Tensor | None]]:
    return [[*gradients(tuple(start.shape), i, start.dtype, different)] for i, start in enumerate(starts)]


def leaves(starts: list[Tensor]) -> list[Tensor]:
    return [start.clone().requires_grad_() for start in starts]


def clones_of_leaves(starts: list[Tensor]) -> list[Tensor]:
    return [start.clone().requires_grad_().clone() for start in starts]


def neighbours_in_memory(starts: list[Tensor]) -> list[Tensor]:
    """Tensors of one shape one after another in one storage, as flattened parameters are; in the order given."""
    order = sorted(range(len(starts)), key=lambda i: tuple(starts[i].shape))
    memory = torch.cat([torch.zeros(3, dtype=starts[0].dtype), *(starts[i].flatten() for i in order)])
    ends = itertools.accumulate((starts[i].numel() for i in order), initial=3)
    params: dict[int, Tensor] = {}
    for i, begin in zip(order, ends, strict=False):
        params[i] = memory[begin : begin + starts[i].numel()].view(starts[i].shape).requires_grad_()
    return [params[i] for i in range(len(starts))]


@dataclass(frozen=True)
class Way:
    """One way to carry out a step."""

    keywords: dict[str, Any] = field(default_factory=dict)
    layout: Callable[[list[Tensor]], list[Tensor]] = leaves
    sizes: tuple[int, int] | None = None  # what is stacked, and how long slices are
    lr_in_a_tensor: bool = False


BY_DEFAULT = Way()
WAYS = {
    "stacked": Way({"foreach": True}),
    "stacked in place": Way({"foreach": True}, neighbours_in_memory),
    "one by one": Way({"foreach": False}),
    "in slices": Way(sizes=(2, 5)),
    "capturable": Way({"capturable": True}, lr_in_a_tensor=True),
    "differentiable": Way({"differentiable": True}, clones_of_leaves),
    "uphill": Way({"maximize": True}),
}


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Way], None]:
    """Lets the driver use the sizes of a way until the test is over."""

    def change(way: Way) -> None:
        if way.sizes is not None:
            use_sizes(monkeypatch, *way.sizes)

    return change


# --- the comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One tensor after one step."""

    step: int
    param: Tensor
    state: dict[str, Any]
    start: Array
    twin: Array
    scale: float  # of the weights of late

    @property
    def weights(self) -> Array:
        return self.param.detach().double().numpy()

    def __str__(self) -> str:
        return f"step {self.step}, shape {tuple(self.param.shape)}"


def walk(
    chosen: Pair,
    starts: list[Tensor],
    sequences: list[list[Tensor | None]],
    way: Way = BY_DEFAULT,
    tell_the_twin: bool = False,  # the weights that the optimizer has, after each step
    **twin_only: Any,
) -> Iterator[list[Seen]]:
    """Runs the optimizer on all tensors at once and the twin on each alone; yields what both have after each step.

    A tensor that has no gradient at a step is not in the list of that step.
    """
    params = way.layout(starts)
    keywords = dict(chosen.arguments)
    if way.lr_in_a_tensor:
        keywords["lr"] = torch.tensor(keywords.get("lr", 0.01), dtype=torch.float64)
    optimizer = chosen.optimizer(params, **keywords, **way.keywords)
    sign = -1.0 if way.keywords.get("maximize") else 1.0
    twins = [
        chosen.twin(
            start.double().numpy(),
            (sign * g.double().numpy() for g in sequence if g is not None),
            **chosen.arguments,
            **chosen.twin_only,
            **twin_only,
        )
        for start, sequence in zip(starts, sequences, strict=True)
    ]
    told: list[Array | None] = [None for _ in params]
    scales = [deque([float(start.abs().max())], maxlen=REMEMBERED) for start in starts]
    for step in range(len(sequences[0])):
        for p, sequence in zip(params, sequences, strict=True):
            g = sequence[step]
            p.grad = None if g is None else g.clone()
        optimizer.step()
        seen = []
        for i, p in enumerate(params):
            if sequences[i][step] is not None:
                state = optimizer.state.get(p, {})
                twin = twins[i].send(told[i])
                scales[i].append(float(np.abs(twin).max()))
                one = Seen(step + 1, p, state, starts[i].double().numpy(), twin, max(scales[i]))
                told[i] = one.weights if tell_the_twin else None
                seen.append(one)
        yield seen


def tolerance(chosen: Pair, one: Seen, expected: Array) -> Array:
    """What rounding explains: in half precision that of the weights alone, as all else is float32.

    Half a unit in the last place; with ``p_bound`` the weights are rounded again when they have been scaled back, by
    their norm once rounded, so one unit more.
    """
    dtype = one.param.dtype
    if dtype in TOLERANCE:
        return np.full_like(expected, TOLERANCE[dtype] * one.scale)
    info = torch.finfo(dtype)
    unit = info.eps * 2 ** np.floor(np.log2(np.maximum(np.abs(expected), info.smallest_normal)))
    return (1.5 if "p_bound" in chosen.arguments else 0.5) * unit + 1e-6 * one.scale


def compare(chosen: Pair, steps: Iterator[list[Seen]]) -> None:
    """Fails at the first step that is farther from the twin than rounding explains."""
    for seen in steps:
        off = [moved_elsewhere(chosen, one) if chosen.has_levels else 0 * one.twin for one in seen]
        for one, levels in zip(seen, off, strict=True):
            expected = one.twin * np.exp(-chosen.arguments.get("base_lr", 0.001) * levels)
            difference = np.abs(one.weights - expected)
            assert (difference <= tolerance(chosen, one, expected)).all(), f"{one}: {difference.max()}"
        if seen:
            share = 0.0 if seen[0].param.dtype == torch.float64 else 0.005
            weights = sum(one.twin.size for one in seen)
            assert sum(np.count_nonzero(levels) for levels in off) <= math.ceil(share * weights), f"step {seen[0].step}"


def moved_elsewhere(chosen: Pair, one: Seen) -> Array:
    """By how many levels integer Madam is off, at most one: where errors of rounding decide a tie."""
    arguments = chosen.arguments
    w_max = integer_madam.largest_weight(one.start, arguments.get("p_scale", 3.0))
    expected = integer_madam.levels_of(one.twin, w_max, arguments.get("base_lr", 0.001))
    off = np.where(one.start == 0, 0.0, one.state["level"].to(torch.int64).numpy() - expected)
    assert np.abs(off).max(initial=0.0) <= 1, f"{one}"
    return off


# --- every way to carry out a step -----------------------------------------------------------------------------------


@BY_DTYPE
@BY_PAIR
def test_every_optimizer_follows_its_twin_for_100_steps(name: str, dtype: torch.dtype) -> None:
    starts = initial(SMALL, dtype)
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences_for(starts)))


def ways() -> Iterator[tuple[str, str, torch.dtype]]:
    """Norms are taken in other ways in float32, which matters to what is stacked or sliced."""
    for name, way in itertools.product(ONE_OF_EACH, WAYS):
        if name in INTEGER_PAIRS and way == "differentiable":
            continue  # refused: rounding has no derivative
        yield name, way, torch.float64
        if way in ("stacked", "one by one", "in slices"):
            yield name, way, torch.float32


@pytest.mark.parametrize(("name", "way", "dtype"), list(ways()), ids=str)
def test_every_way_to_carry_out_a_step_follows_the_twin_for_100_steps(
    name: str, way: str, dtype: torch.dtype, use: Callable[[Way], None]
) -> None:
    use(WAYS[way])
    starts = initial(SMALL, dtype)
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences_for(starts), WAYS[way]))


def test_neighbours_in_memory_are_stacked_without_a_copy() -> None:
    params = neighbours_in_memory(initial(SMALL, torch.float32))
    squares = [p for p in params if p.shape == (4, 3)]
    assert len(squares) == 3
    with torch.no_grad():
        rows, is_view = _blocks.join(squares)
        assert is_view
        assert rows.data_ptr() == squares[0].data_ptr()
        assert not _blocks.join(squares[::2])[1]
        (strided, is_view) = _blocks.join([torch.arange(10.0)[::2]])  # kernels know nothing of strides
        assert strided.stride() == (5, 1)
        assert not is_view


@BY_DTYPE
@pytest.mark.parametrize("name", ["fromage", "lars_p_bound1.1"])
def test_large_tensors_follow_the_twin_for_100_steps(name: str, dtype: torch.dtype) -> None:
    starts = initial(LARGE, dtype)
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences_for(starts, different=7)))


@BY_DTYPE
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("fromage_p_bound0.9", 3),
        ("lars", 3),
        ("novograd_averaging", 3),
        ("signsgd", 3),
        ("integer_madam", 3),
        ("madam", 1),
    ],
)
def test_a_tensor_of_more_weights_than_a_slice_follows_the_twin(name: str, steps: int, dtype: torch.dtype) -> None:
    starts = initial([(2**19 + 37,), (2, 3)], dtype)
    assert starts[0].numel() > cpu_slice()
    sequences = [sequence[:steps] for sequence in sequences_for(starts, different=steps)]
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences))


@BY_PAIR
def test_a_tensor_of_zeros_follows_the_twin_for_100_steps(name: str) -> None:
    starts = [torch.zeros(shape) for shape in [(3, 4), (5,), (), (3, 4)]]
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences_for(starts)))


@BY_ONE_OF_EACH
def test_some_weights_of_zero_follow_the_twin_for_100_steps(name: str) -> None:
    starts = initial(SMALL, torch.float64)
    for start in starts:
        start.view(-1)[::2] = 0.0
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences_for(starts)))


@BY_ONE_OF_EACH
def test_tensors_of_two_dtypes_in_one_group_each_follow_the_twin(name: str) -> None:
    starts = [start.to(dtype) for start in initial([(4, 3), (5,)], torch.float64) for dtype in TOLERANCE]
    assert [start.dtype for start in starts] == [torch.float64, torch.float32] * 2
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences_for(starts)))


@BY_ONE_OF_EACH
def test_tensors_that_are_not_contiguous_follow_the_twin(name: str) -> None:
    starts = [initial([(3, 5)], torch.float64)[0].t(), initial([(2, 3, 4, 4)], torch.float64)[0]]
    starts[1] = starts[1].to(memory_format=torch.channels_last)
    assert not any(start.clone().is_contiguous() for start in starts)
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences_for(starts)))


@pytest.mark.parametrize("layout", [leaves, neighbours_in_memory])
@BY_ONE_OF_EACH
def test_tensors_that_miss_steps_follow_the_twin_that_misses_them_too(
    name: str, layout: Callable[[list[Tensor]], list[Tensor]]
) -> None:
    starts = initial(SMALL, torch.float64)
    chance = torch.rand(len(SMALL), STEPS, generator=torch.Generator().manual_seed(0)) < 0.7
    sequences: list[list[Tensor | None]] = [
        [g if here else None for g, here in zip(sequence, row.tolist(), strict=True)]
        for sequence, row in zip(sequences_for(starts), chance, strict=True)
    ]
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences, Way(layout=layout)))


@pytest.mark.parametrize("name", ["fromage_p_bound1", "madam", "integer_madam", "novograd"])
def test_looking_at_the_state_of_tensors_before_their_first_step_changes_nothing(name: str) -> None:
    chosen, starts = PAIRS[name], initial([(4, 3), (4, 3)], torch.float64)
    trajectories = []
    for curious in (False, True):
        params = leaves(starts)
        optimizer = chosen.optimizer(params, **chosen.arguments)
        params[0].grad = gradients((4, 3), 0, torch.float64)[0]
        optimizer.step()
        if curious:
            assert not optimizer.state[params[1]]
        for p in params:
            p.grad = gradients((4, 3), 1, torch.float64)[0]
        optimizer.step()
        trajectories.append([p.detach().clone() for p in params])
    assert all(torch.equal(x, y) for x, y in zip(*trajectories, strict=True))


@pytest.mark.parametrize("way", ["stacked", "one by one"])
def test_levels_drawn_at_random_are_moved_as_the_twin_moves_them(way: str) -> None:
    chosen = Pair(partial(IntegerMadam, init="random"), integer_madam.trajectory, {})
    starts = initial([(40, 5)], torch.float64)
    p = starts[0].clone().requires_grad_()
    p.grad = torch.zeros_like(p)
    torch.manual_seed(7)
    optimizer = chosen.optimizer([p])
    optimizer.step()  # without a gradient: it draws the levels and does not move them
    first_levels = optimizer.state[p]["level"].double().numpy()
    torch.manual_seed(7)
    compare(chosen, walk(chosen, starts, sequences_for(starts), WAYS[way], first_levels=first_levels))


# --- half precision --------------------------------------------------------------------------------------------------

BY_HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


@BY_HALF
@BY_ONE_OF_EACH
def test_weights_in_half_precision_are_at_each_of_100_steps_those_of_the_twin_rounded(
    name: str, dtype: torch.dtype
) -> None:
    starts = initial(SMALL, dtype)
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences_for(starts), tell_the_twin=True))


@pytest.mark.parametrize("way", ["one by one", "in slices", "stacked in place"])
@BY_ONE_OF_EACH
def test_weights_in_half_precision_are_those_of_the_twin_rounded_in_every_way(
    name: str, way: str, use: Callable[[Way], None]
) -> None:
    use(WAYS[way])
    starts = initial(SMALL, torch.bfloat16)
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences_for(starts), WAYS[way], tell_the_twin=True))


# --- compiled --------------------------------------------------------------------------------------------------------

# One process for all of them: the first compilation of each process costs half a minute. It also is what a user's
# process may do, and a compiler gives up on a function that it has compiled too often.
COMPILED = pytest.mark.xdist_group("compile")
FUSED = {
    "fromage": torch.float64,
    "fromage_p_bound0.9": torch.float32,
    "madam": torch.float64,
    "madam_clipped": torch.float32,
    "integer_madam": torch.float64,
    "integer_madam_16_bits": torch.float32,
    "novograd_averaging": torch.float32,
    "signsgd": torch.float32,
}


@COMPILED
@pytest.mark.capability
@pytest.mark.parametrize(("name", "dtype"), FUSED.items(), ids=[f"{name}-{dtype}" for name, dtype in FUSED.items()])
def test_a_compiled_step_follows_the_twin_for_100_steps(name: str, dtype: torch.dtype) -> None:
    starts = initial(FEW, dtype)
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences_for(starts), Way({"fused": True})))


@COMPILED
@pytest.mark.capability
@pytest.mark.parametrize("name", ["integer_madam", "signsgd"])
def test_weights_in_half_precision_after_a_compiled_step_are_those_of_the_twin_rounded(name: str) -> None:
    starts = initial(FEW, torch.bfloat16)
    compare(PAIRS[name], walk(PAIRS[name], starts, sequences_for(starts), Way({"fused": True}), tell_the_twin=True))


@COMPILED
@pytest.mark.capability
def test_a_compiled_step_uphill_follows_the_twin() -> None:
    starts = initial(FEW, torch.float32)
    compare(
        PAIRS["signsgd"], walk(PAIRS["signsgd"], starts, sequences_for(starts), Way({"fused": True, "maximize": True}))
    )


@COMPILED
@pytest.mark.capability
def test_compiled_steps_of_tensors_of_many_ranks_follow_the_twin() -> None:
    single = [(7,), (3, 4), (2, 3, 4), (2, 3, 4, 5), (2, 2, 2, 2, 2), (3, 1), (1, 5), (1, 4, 1), ()]
    starts = initial([*single, *2 * [(5,), (6, 2), (3, 2, 2), (2, 1, 2, 1), (1,)]], torch.float32)
    compare(PAIRS["signsgd"], walk(PAIRS["signsgd"], starts, sequences_for(starts), Way({"fused": True})))
