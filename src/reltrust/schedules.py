"""Learning-rate schedules, one class each: its keys in ``schedule:``, and the factor of the initial learning rate.

``factor(step, steps)`` is a pure function of the step, counted from 0, and of the length of the run.
"""

import math
from bisect import bisect_right
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from reltrust.schema import STRICT, Positive, Share

_Decay = Annotated[float, Field(gt=0, le=1)]
_Steps = Annotated[int, Field(ge=0)]


def _ascending(steps: list[int]) -> list[int]:
    if steps != sorted(steps):  # in two orders the same schedule would be two runs
        raise ValueError("must be in ascending order")
    return steps


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Constant:
    """1 for ever."""

    depends_on_length: ClassVar[bool] = False
    name: Literal["constant"]

    def factor(self, step: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Exponential:
    """``decay ** (step // every)``."""

    depends_on_length: ClassVar[bool] = False
    name: Literal["exponential"]
    decay: _Decay
    every: Positive

    def factor(self, step: int, steps: int) -> float:
        return float(self.decay ** (step // self.every))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Milestones:
    """``decay`` to the power of the number of the steps ``at`` that ``step`` has reached."""

    depends_on_length: ClassVar[bool] = False
    name: Literal["milestones"]
    decay: _Decay
    at: Annotated[list[Positive], AfterValidator(_ascending)]

    def factor(self, step: int, steps: int) -> float:
        return float(self.decay ** bisect_right(self.at, step))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Linear:
    """``(step + 1) / warmup`` up to 1, then on a straight line to ``floor``, which step ``steps`` would have."""

    depends_on_length: ClassVar[bool] = True
    name: Literal["linear"]
    warmup: _Steps
    floor: Share

    def factor(self, step: int, steps: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        return self.floor + (1 - self.floor) * self._left((step - self.warmup) / max(1, steps - self.warmup))

    def _left(self, done: float) -> float:
        """Of the way down, what is left when the share ``done`` of its steps is done."""
        return max(0.0, 1 - done)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cosine(Linear):
    """As ``linear``, but down half a period of the cosine (Loshchilov and Hutter, arXiv 1608.03983, equation 5)."""

    name: Literal["cosine"]  # type: ignore[assignment]

    def _left(self, done: float) -> float:
        return (1 + math.cos(math.pi * min(1.0, done))) / 2


Schedule = Constant | Exponential | Milestones | Linear | Cosine
