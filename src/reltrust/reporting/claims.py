"""Claims of a paper beside what was measured, each judged by a rule that stands in its docstring."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from reltrust.reporting.selection import Comparison, Selection


class Verdict(StrEnum):
    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT_REPRODUCED = "not reproduced"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Judgement:
    """One claim beside what was measured: each field is ready to stand in a table."""

    claim: str
    published: str
    ours: str
    verdict: Verdict


@dataclass(frozen=True)
class Claim:
    """What a paper says, and the scales under which our runs may be held against it."""

    text: str
    comparison: Comparison
    scales: tuple[str, ...]
    published: str
    judge: Callable[..., tuple[str, Verdict]]
    """From a Selection of our runs, and one more for each of ``also``: what was measured in words, and the verdict."""
    finding: str = ""
    """The published finding that it is part of, under which the README has it; without one it is in the report only.

    Claims of an experiment with one finding are one row there, judged together: those that state one scale have to be
    all of the finding."""
    label: str = ""
    """What tells it from the other claims of its finding, in a word or two."""
    arms: tuple[str, ...] = ()
    """Those of the comparison that it is about; none: all of them."""
    also: tuple[Comparison, ...] = ()
    """Further comparisons that it is about."""

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All that it is about, in the order of what ``judge`` gets."""
        return (self.comparison, *self.also)

    @property
    def rule(self) -> str:
        """By what its verdict is given: the docstring of ``judge``."""
        function = self.judge
        while isinstance(function, partial):
            function = function.func
        return inspect.getdoc(function) or ""

    def judged(self, *ours: Selection) -> Judgement:
        """From our runs, a Selection of each of its comparisons; ``not run`` without any."""
        measured, verdict = self.judge(*ours) if ours else ("-", Verdict.NOT_RUN)
        return Judgement(self.text, self.published, measured, verdict)


def judge_order(difference: float | None, interval: tuple[float, float] | None) -> Verdict:
    """Is one quantity larger than another, as claimed?

    reproduced: the difference is positive and, with several seeds, so is all of its bootstrap interval;
    partly: it is positive but the interval reaches 0, or it is 0 (the grid does not separate the two);
    not reproduced: it is negative; not run: None.
    """
    if difference is None:
        return Verdict.NOT_RUN
    if difference < 0:
        return Verdict.NOT_REPRODUCED
    if difference == 0 or (interval is not None and interval[0] <= 0):
        return Verdict.PARTLY
    return Verdict.REPRODUCED


def judge_grid_value(ours: float | None, published: float, grid: Sequence[float]) -> Verdict:
    """Is a value of a grid the published one?

    reproduced: the same value of the grid, or its neighbour; partly: two steps of the grid away;
    not reproduced: further; not run: None. A value below the whole grid (0) counts as one step before its first.
    """
    if ours is None:
        return Verdict.NOT_RUN
    steps = [0, *sorted(grid)]
    away = abs(steps.index(ours) - steps.index(published))
    return Verdict.REPRODUCED if away <= 1 else Verdict.PARTLY if away == 2 else Verdict.NOT_REPRODUCED


def judge_all(met: int, of: int, partly: float = 0.0) -> Verdict:
    """Does something hold of all?

    reproduced: of all; partly: of some, which are at least this share; not reproduced: of fewer.
    """
    if met == of:
        return Verdict.REPRODUCED
    return Verdict.PARTLY if met and met / of >= partly else Verdict.NOT_REPRODUCED


def as_text(judgements: Sequence[Judgement]) -> str:
    """The judgements as an aligned table for a terminal."""
    rows = [("claim", "published", "ours", "verdict"), *((j.claim, j.published, j.ours, j.verdict) for j in judgements)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
