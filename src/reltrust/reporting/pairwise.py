"""Is one arm better than another, or competitive with it? Differences over the seeds that both have.

Runs with one seed start from the same draws whatever the optimizer, so seeds are compared in pairs.
"""

import itertools
import math

import numpy as np
import pandas as pd

from reltrust.reporting.selection import Selection
from reltrust.reporting.statistics import student_cdf, student_quantile

MARGIN = 0.1  # of the other's mean: a difference up to it does not matter
LEVEL = 0.95
COLUMNS = ["a", "b", "n", "difference", "low", "high", "margin", "p", "holm", "decision"]


def pairwise(selection: Selection) -> pd.DataFrame:
    """A row for every two arms with two seeds or more in common, at each x, each at its selected learning rate.

    ``difference`` is the mean over common seeds of ``a``'s value minus ``b``'s, signed so that above 0 ``a`` is better;
    ``low`` and ``high`` are Student's 95 % interval of it; ``p`` is two-sided, of no difference, and ``holm`` the same
    corrected for all rows of the table (Holm 1979). ``margin`` is a tenth of the size of ``b``'s mean.

    ``decision``, the first of these that holds: ``better`` or ``worse`` (of ``a``) if ``holm`` is at most 0.05;
    ``equivalent`` if the interval is within the margin on both sides (two one-sided tests at 2.5 %); ``competitive`` if
    all of it is above minus the margin, so that ``a`` is not worse than ``b`` by more; ``undecided``.
    """
    comparison = selection.comparison
    sign = 1 if comparison.measure.best == "max" else -1
    rows: list[dict[str, object]] = []
    means = selection.best.groupby([comparison.x, "arm", "seed"])["value"].mean()
    for x, of_x in means.groupby(level=0):
        by_seed = of_x.droplevel(0).unstack()
        values = dict(zip(map(str, by_seed.index), by_seed.to_numpy(float), strict=True))
        for a, b in itertools.combinations(values, 2):
            pair = np.stack([values[a], values[b]], axis=1)
            pair = pair[~np.isnan(pair).any(axis=1)]
            if len(pair) < 2 or not np.isfinite(pair).all():
                continue
            differences = sign * (pair[:, 0] - pair[:, 1])
            mean, low, high, p = paired(differences)
            margin = MARGIN * abs(float(pair[:, 1].mean()))
            rows.append({comparison.x: x, "a": a, "b": b, "n": len(pair), "difference": mean, "low": low, "high": high,
                         "margin": margin, "p": p})  # fmt: skip
    table = pd.DataFrame(rows, columns=[comparison.x, *COLUMNS[:-2]])
    table["holm"] = holm(table["p"].to_numpy(float))
    table["decision"] = [decision(*row) for row in table[["difference", "low", "high", "margin", "holm"]].to_numpy()]
    return table


def paired(differences: np.ndarray) -> tuple[float, float, float, float]:
    """The mean of differences (n,), n at least 2, its Student interval, and the two-sided p of a mean of 0.

    Differences that are all the same have an interval of no width, and p 0, or 1 if they are 0.
    """
    n, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        return mean, mean, mean, float(mean == 0)
    half = student_quantile((1 + LEVEL) / 2, n - 1) * error
    return mean, mean - half, mean + half, 2 * student_cdf(-abs(mean) / error, n - 1)


def holm(p: np.ndarray) -> np.ndarray:
    """P-values (m,), in their order, adjusted so that the chance of any false one among them is at most their level."""
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    found = np.empty(len(p))
    found[order] = adjusted
    return found


def decision(difference: float, low: float, high: float, margin: float, holm: float) -> str:
    """What is concluded of one pair, see :func:`pairwise`."""
    if holm <= 1 - LEVEL + 1e-12:
        return "better" if difference > 0 else "worse"
    if -margin <= low and high <= margin:
        return "equivalent"
    return "competitive" if low >= -margin else "undecided"
