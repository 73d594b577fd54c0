"""Straight lines through what was measured, with intervals. No torch."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

NORMAL = 1.96  # standard errors of a 95 % interval


class Slope(NamedTuple):
    """A slope and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2g} [{self.low:.2g}, {self.high:.2g}]"


def slope_of_means(rows: pd.DataFrame, name: str) -> Slope:
    """Of the mean over networks against depth, each mean weighted by its own standard error; of two depths at least.

    Args:
        rows: with the columns depth, <name>_mean, <name>_std, <name>_n of independent samples.
    """
    x, y = rows["depth"].to_numpy(float), rows[f"{name}_mean"].to_numpy(float)
    weights = rows[f"{name}_n"].to_numpy(float) / np.square(rows[f"{name}_std"].to_numpy(float))
    centred = x - np.average(x, weights=weights)
    precision = float(np.sum(weights * centred**2))
    value = float(np.sum(weights * centred * y)) / precision
    error = NORMAL / math.sqrt(precision)
    return Slope(value, value - error, value + error)


def least_squares(x: np.ndarray, y: np.ndarray) -> float:
    """The slope of the line with the least squared distances in y."""
    centred = x - x.mean()
    return float((centred * y).sum() / (centred**2).sum())


def slope_over_seeds(
    runs: pd.DataFrame, x: str, y: str, *, resamples: int = 2_000, seed: int = 0
) -> tuple[Slope, np.ndarray]:
    """Of y against x over runs, its percentile interval with seeds drawn anew, and the slopes of those draws."""
    by_seed = [own[[x, y]].to_numpy(float) for _, own in runs.groupby("seed")]
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(by_seed), size=(resamples, len(by_seed)))
    found = np.array([least_squares(*np.concatenate([by_seed[i] for i in draw]).T) for draw in draws])
    value = least_squares(runs[x].to_numpy(float), runs[y].to_numpy(float))
    low, high = np.quantile(found, [0.025, 0.975])
    return Slope(value, float(low), float(high)), found
