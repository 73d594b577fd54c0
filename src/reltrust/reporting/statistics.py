"""What a number is worth: statistics of an arm and their bootstrap intervals over seeds, intervals of means.

docs/protocol.md says which is used where, and what either can say of few seeds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from reltrust.reporting.selection import UNTUNED, Selection

Statistic = Callable[[Sequence[float], Sequence[float]], float]  # of the places on x, and the best mean at each


@dataclass(frozen=True)
class Outcomes:
    """All compared runs of one arm: ``values[seed, x, tuned]``, NaN where there is none."""

    x: list[float]
    values: np.ndarray
    best: str  # max or min

    @classmethod
    def of(cls, selection: Selection, arm: str) -> "Outcomes | None":
        """None if the arm has no runs."""
        comparison = selection.comparison
        runs = selection.runs[selection.runs["arm"] == arm]
        if runs.empty:
            return None
        table = runs.pivot_table(index="seed", columns=[comparison.x, comparison.tuned or UNTUNED], values="value")
        places, tuned = (sorted(set(table.columns.get_level_values(level))) for level in (0, 1))
        full = table.reindex(columns=pd.MultiIndex.from_product([places, tuned]))
        return cls(places, full.to_numpy().reshape(len(table), len(places), len(tuned)), comparison.measure.best)

    @property
    def n(self) -> int:
        """The number of seeds at the place with the fewest."""
        return int((~np.isnan(self.values)).any(axis=2).sum(axis=0).min())

    def statistic(self, statistic: Statistic) -> float:
        """The statistic of the means over all seeds, each place at its best learning rate."""
        (value,) = self.resampled(statistic, np.arange(len(self.values))[None])
        return value

    def resampled(self, statistic: Statistic, draws: np.ndarray) -> list[float]:
        """The statistic for each of several draws of seeds, (resamples, seeds) of places in ``values``.

        A learning rate that none of the drawn seeds ran at a place counts with all seeds that did.
        """
        ran, filled = ~np.isnan(self.values), np.nan_to_num(self.values)
        times = (draws[:, :, None] == np.arange(len(self.values))).sum(1)  # (resamples, seeds): how often each is drawn
        total, n = np.tensordot(times, filled, 1), np.tensordot(times, ran.astype(int), 1)
        with np.errstate(invalid="ignore"):  # 0/0, of what nobody ran, is NaN
            means = np.where(n > 0, total / n, filled.sum(0) / ran.sum(0))
        best = (np.nanmax if self.best == "max" else np.nanmin)(means, axis=2)
        return [statistic(self.x, row) for row in best.tolist()]


def bootstrap_difference(
    a: Outcomes, b: Outcomes, statistic: Statistic, *, level: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile interval of ``a``'s statistic minus ``b``'s, seeds drawn with replacement for each.

    The learning rate is selected anew in every resample, so the interval covers the selection too. None with fewer
    than two seeds. Of few seeds it is not what its level says: a mean of three has its least and largest value as the
    95 % interval, which covers the centre of a symmetric distribution in 75 of 100 cases.
    """
    if min(len(a.values), len(b.values)) < 2:
        return None
    rng, sizes = np.random.default_rng(seed), (len(a.values), len(b.values))
    draws = [[rng.integers(size, size=size) for size in sizes] for _ in range(resamples)]
    of_a, of_b = (
        np.array(one.resampled(statistic, np.stack(own)))
        for one, own in zip((a, b), zip(*draws, strict=True), strict=True)
    )
    low, high = np.quantile(of_a - of_b, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def student_cdf(t: float, df: int) -> float:
    """P(T <= t) of Student's t with ``df`` degrees of freedom: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(df))
    cosine, sine = math.cos(angle), math.sin(angle)
    term = total = cosine if df % 2 else 1.0
    for k in range(3 if df % 2 else 2, df - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    odd = 2 / math.pi * (angle + (sine * total if df > 1 else 0.0))
    return 0.5 + 0.5 * (odd if df % 2 else sine * total)


@cache
def student_quantile(p: float, df: int) -> float:
    """The t of which :func:`student_cdf` is ``p``, 0 < p < 1; by bisection, to the last digits of a float."""
    low, high = -1.0, 1.0
    while student_cdf(low, df) > p:
        low *= 2
    while student_cdf(high, df) < p:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if student_cdf(middle, df) < p else (low, middle)
    return middle


def with_intervals(cells: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Adds ``low`` and ``high``, Student's interval of the mean from ``n``, ``mean`` and ``std``; NaN where n is 1.

    It covers the mean at its level if the seeds' values are normal; of three seeds it is 2.48 standard deviations wide
    to either side.
    """
    t = [student_quantile((1 + level) / 2, int(n) - 1) if n > 1 else math.nan for n in cells["n"]]
    half = np.array(t) * cells["std"] / np.sqrt(cells["n"])
    return cells.assign(low=cells["mean"] - half, high=cells["mean"] + half)
