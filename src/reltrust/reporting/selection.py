"""Which runs are compared, and which learning rate is selected: one function for figure, table and verdict alike."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd


@dataclass(frozen=True)
class Measure:
    """What runs are compared by."""

    column: str
    label: str
    best: Literal["max", "min"]
    diverged: float  # what a diverged run counts as: a value, never missing
    ties: str  # equal means are decided by the lower mean of this column


@dataclass(frozen=True)
class Comparison:
    """What a figure compares: a measure of the arms against ``x``, each at its selected value of ``tuned``."""

    measure: Measure
    x: str
    arm: str = "arm"
    tuned: str = "lr"


@dataclass(frozen=True)
class Selection:
    """The runs of one scale that are compared. The column ``value`` holds the measure, ``arm``, ``x``, ``tuned`` are
    the comparison's."""

    comparison: Comparison
    scale: str
    runs: pd.DataFrame  # at every value of ``tuned`` that may be compared
    best: pd.DataFrame  # of these, the runs at the selected one of their (arm, x)
    left_out: tuple[str, ...]  # a line for everything that may not be compared

    @property
    def arms(self) -> list[str]:
        """In alphabetical order."""
        return sorted(self.runs["arm"].unique())


def select(table: pd.DataFrame, comparison: Comparison, scale: str) -> Selection:
    """Selects, for each (arm, x), the learning rate (``tuned``) with the best mean of the measure over seeds.

    Learning rates are compared over the same seeds, whole runs at their end. Left out are, in this order: an x where
    fewer than half as many learning rates were tried as at the arm's fullest; a learning rate that fewer than half as
    many seeds ran as ran the fullest at this (arm, x); a seed that did not run all of those that remain, unless no seed
    did: then the learning rates with the most seeds are compared.
    """
    measure, x, tuned = comparison.measure, comparison.x, comparison.tuned
    table = table.assign(**{column: table.get(column, float("nan")) for column in (measure.column, measure.ties)})
    value = table[measure.column].where(table["status"] == "finished", measure.diverged)
    table = table.assign(value=value, arm=table[comparison.arm])
    kept, best, left_out = [], [], []

    def leave_out(runs: pd.DataFrame, why: str) -> None:
        arm, place = runs["arm"].iloc[0], runs[x].iloc[0]
        left_out.append(f"{len(runs)} run{'s' * (len(runs) > 1)} of {arm} at {x}={place}: {why}")

    for _, of_arm in table.groupby("arm"):
        tried = of_arm.groupby(x)[tuned].nunique()
        for place, cell in of_arm.groupby(x):
            if 2 * tried[place] < tried.max():
                leave_out(cell, f"{tried[place]} of {tried.max()} values of {tuned}")
                continue
            ran = cell.pivot_table(index="seed", columns=tuned, values="value").notna()
            common = ran.loc[:, 2 * ran.sum() >= ran.sum().max()]
            if not common.all(axis=1).any():
                common = ran.loc[:, ran.sum() == ran.sum().max()].iloc[:, :1]
            seeds = common.index[common.all(axis=1)]
            compared = cell[cell[tuned].isin(common.columns) & cell["seed"].isin(seeds)]
            for one, others in cell.drop(compared.index).groupby(tuned):
                numbers = ", ".join(map(str, sorted(others["seed"])))
                leave_out(others, f"{tuned}={one:g} with seed {numbers} cannot be compared with the others")
            means = compared.groupby(tuned, as_index=False).agg(mean=("value", "mean"), ties=(measure.ties, "mean"))
            order = means.sort_values(["mean", "ties"], ascending=[measure.best == "min", True], kind="stable")
            kept.append(compared)
            best.append(compared[compared[tuned] == order[tuned].iloc[0]])
    return Selection(comparison, scale, pd.concat(kept), pd.concat(best), tuple(left_out))


def describe(selection: Selection) -> pd.DataFrame:
    """For each (arm, x): the selected learning rate, n, mean, sample standard deviation (NaN for n = 1), extremes."""
    comparison = selection.comparison
    return (
        selection.best.groupby(["arm", comparison.x])
        .agg(
            **{comparison.tuned: (comparison.tuned, "first")},
            n=("value", "size"),
            mean=("value", "mean"),
            std=("value", "std"),
            min=("value", "min"),
            max=("value", "max"),
        )
        .reset_index()
    )
