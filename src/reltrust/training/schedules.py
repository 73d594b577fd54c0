"""Learning-rate schedules: pure functions from a step, counted from 0, to a factor of the initial learning rate."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

Schedule = Callable[[int], float]


def exponential(decay: float, every: int) -> Schedule:
    """``decay ** (step // every)``."""
    return lambda step: float(decay ** (step // every))


def milestones(decay: float, at: Sequence[int]) -> Schedule:
    """``decay`` to the power of the number of milestones that ``step`` has reached."""
    reached = sorted(at)
    return lambda step: float(decay ** bisect_right(reached, step))


def constant() -> Schedule:
    """1 for ever."""
    return lambda step: 1.0
