"""Which runs are compared, and which learning rate is selected: one function for figure, table and verdict alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

UNTUNED = "untuned"  # the column of the selections in which nothing is


@dataclass(frozen=True)
class Measure:
    """What runs are compared by."""

    column: str
    label: str
    best: Literal["max", "min"]
    diverged: float  # what a diverged run counts as: a value, never missing
    ties: str  # equal means are decided by the lower mean of this column
    bounds: tuple[float, float] = (-math.inf, math.inf)  # its least and its largest value
    exp: bool = False  # what is compared is the exponential of the column: the perplexity of a loss


@dataclass(frozen=True)
class Comparison:
    """What a figure compares: a measure of the arms against ``x``, each at its selected value of ``tuned``.

    An arm is what a line stands for: by default an optimizer with one set of hyperparameters besides ``tuned`` (and x).
    Of several columns an arm is their values, ``plain 15`` for example.
    """

    measure: Measure
    x: str
    arm: str | tuple[str, ...] = "arm"
    tuned: str | None = "lr"  # None: nothing is selected
    step: int | None = None  # the evaluation at which runs are compared; None: at their end
    source: tuple[str, str] | None = None  # the experiment and scale whose runs these are; None: the report's own
    reads: tuple[str, ...] = ()  # further columns of numbers that its figures and claims read of a finished run


@dataclass(frozen=True)
class Selection:
    """The runs of one scale that are compared. The column ``value`` holds the measure, ``arm``, ``x``, ``tuned`` are
    the comparison's."""

    comparison: Comparison
    scale: str
    runs: pd.DataFrame  # at every value of ``tuned`` that may be compared
    best: pd.DataFrame  # of these, the runs at the selected one of their (arm, x)
    left_out: tuple[str, ...]  # a line for everything that may not be compared
    curves: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["comparison", "run", "step", "arm", "seed"])
    )  # a row an evaluation of the best runs

    @property
    def arms(self) -> list[str]:
        """In alphabetical order."""
        return sorted(self.runs["arm"].unique())

    def where(self, values: Mapping[str, Any]) -> "Selection":
        """Of its runs those that have these values."""
        if not values:
            return self
        runs, best = (
            table[table[list(values)].eq(pd.Series(values)).all(axis=1)] for table in (self.runs, self.best)
        )  # fmt: skip
        curves = self.curves if self.curves.empty else self.curves[self.curves["run"].isin(best["run"])]
        return replace(self, runs=runs, best=best, curves=curves)


def select(table: pd.DataFrame, comparison: Comparison, scale: str) -> Selection:
    """Selects, for each (arm, x), the learning rate (``tuned``) with the best mean of the measure over seeds.

    Whole runs are compared, at their end, and learning rates over the same seeds: at each (arm, x) the largest grid of
    seeds and learning rates of which every run is there, where more of either than is usual for the arm (a median over
    x) does not make it larger. An x with fewer than half as many learning rates as the median x is left out. So are, of
    runs of one arm, x, learning rate and seed, all but one with the task's settings that most runs of the arm have.
    """
    measure, x, tuned = comparison.measure, comparison.x, comparison.tuned or UNTUNED
    table = table.reset_index(drop=True)
    table = table.assign(**{column: table.get(column, float("nan")) for column in (x, measure.column, measure.ties)})
    value = table[measure.column].where(table["status"] == "finished", measure.diverged)
    if measure.exp:
        with np.errstate(over="ignore"):
            value = np.exp(value)
    # What is not tuned has one value, 0.
    of_tuned = pd.Series(0.0, table.index) if tuned == UNTUNED else table[tuned].fillna(0.0)
    table = table.assign(value=value, arm=arms(table, comparison.arm), **{tuned: of_tuned})
    table, left_out = _one_each(table, x, tuned)
    kept = []
    narrow = table[list(dict.fromkeys(["arm", x, tuned, "seed", "value"]))]  # groups of few columns are soon made
    for arm, of_arm in narrow.groupby("arm"):
        there = of_arm[of_arm["value"].notna()]
        ran = there.groupby([x, tuned])["seed"].nunique().groupby(x)
        usual = float(ran.median().median()), float(ran.size().median())
        cells = {place: _largest_grid(cell, tuned, usual) for place, cell in there.groupby(x)}
        tried = pd.Series({place: runs[tuned].nunique() for place, runs in cells.items()})
        for place, of_x in of_arm.groupby(x):
            runs, where = cells.get(place, there.iloc[:0]), x + "=" + str(place)
            strays: Any = of_x.drop(runs.index).groupby(tuned) if len(runs) < len(of_x) else ()
            for one, others in strays:
                numbers = ", ".join(map(str, sorted(others["seed"])))
                why = f"{tuned}={one:g} with seed {numbers} cannot be compared with the others"
                left_out.append(f"{len(others)} run{'s' * (len(others) > 1)} of {arm} at {where}: {why}")
            if runs.empty:
                continue
            if 2 * tried[place] < tried.median():
                why = f"{tried[place]} of {tried.median():g} values of {tuned}"
                left_out.append(f"{len(runs)} run{'s' * (len(runs) > 1)} of {arm} at {where}: {why}")
                continue
            kept += runs.index.tolist()
    compared = table.loc[kept]
    grouped = compared.groupby(["arm", x, tuned])
    means, ties = grouped["value"].mean(), grouped[measure.ties].mean()
    ranked: Any = means.index[_order(means.to_numpy(), ties.to_numpy(), measure)]
    chosen = ranked[~ranked.droplevel(2).duplicated()]  # the first of each (arm, x)
    best = compared[pd.MultiIndex.from_frame(compared[["arm", x, tuned]]).isin(chosen)]
    return Selection(comparison, scale, compared, best, tuple(left_out))


def _one_each(table: pd.DataFrame, x: str, tuned: str) -> tuple[pd.DataFrame, list[str]]:
    """The table with one run for each arm, x, learning rate and seed, and a line for what is left out."""
    place = ["arm", x, tuned, "seed"]
    if not table.duplicated(place).any():
        return table, []
    columns = list(table.columns)
    # In a table the task's settings stand there, those that the comparison does not know of among them.
    settings = columns[columns.index("seed") + 1 : columns.index("data")] if "data" in columns else []
    variants = table[["arm", *settings]].astype(str).agg(" ".join, axis=1)
    commonest_first = variants.map(variants.value_counts()).sort_values(ascending=False, kind="stable").index
    kept = table.loc[commonest_first].drop_duplicates(place).index
    lines = []
    for (arm, where), others in table.drop(kept).groupby(["arm", x]):
        around = table[(table["arm"] == arm) & (table[x] == where)]
        differing = [key for key in settings if around[key].nunique(dropna=False) > 1]
        runs = f"{len(others)} run{'s' * (len(others) > 1)} of {arm} at {x}={where}"
        of_another = f", of another {', '.join(differing)}" if differing else ""
        lines.append(f"{runs}: others with the same {tuned} and seed stand there{of_another}")
    return table.loc[sorted(kept)], lines


def _largest_grid(cell: pd.DataFrame, tuned: str, usual: tuple[float, float]) -> pd.DataFrame:
    """The rows of the seeds and values of ``tuned`` that make the largest full grid; ``usual`` is how many of each do
    not make it larger."""
    tuned_by_seed: dict[Any, set[Any]] = {}
    for seed, one in zip(cell["seed"].tolist(), cell[tuned].tolist(), strict=True):
        tuned_by_seed.setdefault(seed, set()).add(one)
    by_seed = {seed: frozenset(tuned_by_seed[seed]) for seed in sorted(tuned_by_seed)}
    sets = set(by_seed.values())  # of learning rates, and what such sets have in common
    if len(sets) == 1:  # it is one grid
        return cell
    for values in by_seed.values():
        sets |= {values & others for others in sets}
    seeds = {values: [seed for seed, own in by_seed.items() if values <= own] for values in sets if values}
    sizes = {
        values: (min(len(own), usual[0]) * min(len(values), usual[1]), len(own) * len(values), len(values))
        for values, own in seeds.items()
    }
    largest = max(seeds, key=lambda values: (*sizes[values], -min(values)))
    return cell[cell[tuned].isin(largest) & cell["seed"].isin(seeds[largest])]


def _order(means: Any, ties: Any, measure: Measure) -> Any:
    """The places of the means from the best on; of equal ones that with the lower ``ties`` is first, then the first."""
    return np.lexsort((np.arange(len(means)), ties, means if measure.best == "min" else -means))


def arms(table: pd.DataFrame, column: str | tuple[str, ...]) -> "pd.Series[str]":
    """Of each row, the arm of a comparison by this column, or by these."""
    return table[column] if isinstance(column, str) else table[list(column)].astype(str).agg(" ".join, axis=1)


def describe(selection: Selection) -> pd.DataFrame:
    """For each (arm, x): the selected learning rate, n, mean, sample standard deviation (NaN for n = 1), extremes."""
    comparison = selection.comparison
    return (
        selection.best.groupby(["arm", comparison.x])
        .agg(
            **({comparison.tuned: (comparison.tuned, "first")} if comparison.tuned else {}),
            n=("value", "size"),
            mean=("value", "mean"),
            std=("value", "std"),
            min=("value", "min"),
            max=("value", "max"),
        )
        .reset_index()
    )


def held_out(selection: Selection) -> pd.DataFrame:
    """For each (arm, x) ``held_out``: the mean over seeds of each seed's value at the learning rate that the *other*
    seeds select, by the rule of :func:`select`.

    No seed has a part in the choice of what it is measured at, so the mean is not better for having been chosen; it is
    of a choice by one seed fewer. NaN where there is one seed.
    """
    comparison, rows = selection.comparison, []
    tuned, measure = comparison.tuned or UNTUNED, comparison.measure
    cells = selection.runs.groupby(["arm", comparison.x, "seed", tuned])[["value", measure.ties]]
    # Of each (arm, x) a full grid: that is what may be compared.
    for (arm, x), runs in cells.mean().groupby(level=[0, 1]):
        shape = (runs.index.get_level_values(2).nunique(), -1)
        values, ties = (runs[column].to_numpy(float).reshape(shape) for column in ("value", measure.ties))
        apart = []
        for seed in range(len(values) if len(values) > 1 else 0):
            means, of_ties = (np.delete(one, seed, axis=0).mean(axis=0) for one in (values, ties))
            apart.append(values[seed, _order(means, of_ties, measure)[0]])
        rows.append((arm, x, float(np.mean(apart)) if apart else math.nan))
    return pd.DataFrame(rows, columns=["arm", comparison.x, "held_out"])
