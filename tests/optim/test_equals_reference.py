"""Every optimizer, 100 steps long, beside its slow twin."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from reltrust.optim import LARS, Fromage, Madam, SignSGD

from .reference import fromage, madam, signsgd

Array = NDArray[np.float64]
STEPS = 100

SMALL = [(4, 3), (5,), (2, 3, 2), (), (1,), (6, 1)]
LARGE = [(300, 300), (250, 200), (7,), ()]  # so large on average that the update goes tensor by tensor


@dataclass(frozen=True)
class Pair:
    """An optimizer, its twin, and the arguments of both."""

    optimizer: Callable[..., torch.optim.Optimizer]
    twin: Callable[..., Iterator[Array]]
    arguments: dict[str, Any]
    twin_only: dict[str, Any]


def pair(optimizer: Callable[..., Any], twin: Callable[..., Iterator[Array]], **arguments: Any) -> Pair:
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
PAIRS = FROMAGE_PAIRS | {
    "madam": pair(Madam, madam.trajectory),
    "madam_clipped": pair(Madam, madam.trajectory, lr=0.1, p_scale=1.0, g_bound=1.5, beta=0.9),
    "madam_beta0": pair(Madam, madam.trajectory, lr=0.02, beta=0.0),
    "signsgd": pair(SignSGD, signsgd.trajectory, lr=0.01),
}
BY_PAIR = pytest.mark.parametrize("chosen", PAIRS.values(), ids=PAIRS.keys())
BY_FROMAGE_PAIR = pytest.mark.parametrize("chosen", FROMAGE_PAIRS.values(), ids=FROMAGE_PAIRS.keys())
BY_DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])

# Relative to the largest weight of the tensor, after 100 steps.
TOLERANCE = {torch.float64: 2e-13, torch.float32: 2e-5}


def initial(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def gradients(shape: tuple[int, ...], index: int, dtype: torch.dtype, different: int = STEPS) -> list[Tensor]:
    """A fixed sequence of very unequal sizes, with zeros in it; the third gradient is zero as a whole."""
    generator = torch.Generator().manual_seed(1000 + index)
    sequence = []
    for step in range(different):
        scale = 10 ** (4 * torch.rand((), generator=generator, dtype=dtype) - 2)
        g = scale * torch.randn(shape, generator=generator, dtype=dtype)
        kept = torch.rand(shape, generator=generator) > 0.2
        sequence.append(g * kept * (step != 2))
    return [sequence[step % different] for step in range(STEPS)]


def check_against_the_twin(
    chosen: Pair, starts: list[Tensor], sequences: list[list[Tensor]], tolerances: list[float]
) -> None:
    """Runs the optimizer on all tensors at once and the twin on each alone, and compares after every step."""
    params = [start.clone().requires_grad_() for start in starts]
    optimizer = chosen.optimizer(params, **chosen.arguments)
    twins = [
        chosen.twin(
            start.double().numpy(), (g.double().numpy() for g in sequence), **chosen.arguments, **chosen.twin_only
        )
        for start, sequence in zip(starts, sequences, strict=True)
    ]
    for step in range(STEPS):
        for p, sequence in zip(params, sequences, strict=True):
            p.grad = sequence[step].clone()
        optimizer.step()
        for p, twin, tolerance in zip(params, twins, tolerances, strict=True):
            expected = next(twin)
            scale = np.abs(expected).max()
            difference = np.abs(p.detach().double().numpy() - expected).max()
            assert difference <= tolerance * scale, f"step {step + 1}, shape {tuple(p.shape)}"


@BY_DTYPE
@BY_PAIR
def test_small_tensors_follow_the_twin_for_100_steps(chosen: Pair, dtype: torch.dtype) -> None:
    starts = initial(SMALL, dtype)
    sequences = [gradients(shape, index, dtype) for index, shape in enumerate(SMALL)]
    check_against_the_twin(chosen, starts, sequences, [TOLERANCE[dtype]] * len(SMALL))


@BY_DTYPE
@BY_FROMAGE_PAIR
def test_large_tensors_follow_the_twin_for_100_steps(chosen: Pair, dtype: torch.dtype) -> None:
    starts = initial(LARGE, dtype)
    sequences = [gradients(shape, index, dtype, different=7) for index, shape in enumerate(LARGE)]
    check_against_the_twin(chosen, starts, sequences, [TOLERANCE[dtype]] * len(LARGE))


@BY_DTYPE
@BY_PAIR
def test_a_tensor_of_zeros_follows_the_twin_for_100_steps(chosen: Pair, dtype: torch.dtype) -> None:
    starts = [torch.zeros(3, 4, dtype=dtype), torch.zeros(5, dtype=dtype), torch.zeros((), dtype=dtype)]
    sequences = [gradients(tuple(start.shape), 50 + index, dtype) for index, start in enumerate(starts)]
    check_against_the_twin(chosen, starts, sequences, [TOLERANCE[dtype]] * len(starts))


@BY_PAIR
def test_tensors_of_two_dtypes_in_one_group_each_follow_the_twin(chosen: Pair) -> None:
    dtypes = [torch.float64, torch.float32, torch.float64, torch.float32]
    shapes = [(4, 3), (4, 3), (5,), (5,)]
    starts = [initial([shape], dtype)[0] for shape, dtype in zip(shapes, dtypes, strict=True)]
    pairs = enumerate(zip(shapes, dtypes, strict=True))
    sequences = [gradients(shape, index, dtype) for index, (shape, dtype) in pairs]
    check_against_the_twin(chosen, starts, sequences, [TOLERANCE[dtype] for dtype in dtypes])


@BY_PAIR
def test_tensors_that_are_not_contiguous_follow_the_twin(chosen: Pair) -> None:
    starts = [initial([(3, 5)], torch.float64)[0].t(), initial([(2, 3, 4, 4)], torch.float64)[0]]
    starts[1] = starts[1].to(memory_format=torch.channels_last)
    sequences = [gradients(tuple(start.shape), index, torch.float64) for index, start in enumerate(starts)]
    assert not any(start.clone().is_contiguous() for start in starts)
    check_against_the_twin(chosen, starts, sequences, [TOLERANCE[torch.float64]] * len(starts))
