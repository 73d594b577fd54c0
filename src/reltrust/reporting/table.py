"""An experiment's table, one row a run, as the figures read it."""

import json
import math
from collections.abc import Callable, Collection
from pathlib import Path

import pandas as pd

from reltrust.records.artifacts import Needed, read_summary
from reltrust.reporting.selection import Comparison


def load(
    results: str | Path, experiment: str, compared: Callable[[str], Collection[Comparison]] = lambda scale: ()
) -> pd.DataFrame:
    """The table with the column ``arm``: the optimizer, one with several sets of hyperparameters as several of them.

    In each comparison the hyperparameters that most runs of an optimizer have go without saying; others are named, as
    in ``sgd_momentum (momentum=0.5)``. Of several sets of which none is the commonest, each is named.
    ``scale`` is the name of the protocol, or the comparison's id.

    Args:
        compared: what the rows of a scale must be fit for.

    Raises:
        FileNotFoundError: there is no table.
        DamagedError: it holds what no run can have measured.
    """

    def needed(scale: str) -> Needed:
        measures = {
            column: (-math.inf, math.inf) for one in compared(scale) for column in (one.measure.ties, *one.reads)
        }
        measures |= {one.measure.column: one.measure.bounds for one in compared(scale)}
        return Needed(measures, tuple(one.x for one in compared(scale)))

    table = read_summary(results, experiment, needed)
    # Rows from before there was a choice of precision, a name for the scale or a style do not have them.
    defaults = {"precision": "fp32", "scale": table["comparison"], "style": "{}", "optimizer": "analysis"}
    for column, usual in defaults.items():
        known = table.get(column, pd.Series(None, table.index)).astype(object)
        table[column] = known.where(known.notna(), usual)
    table["arm"] = table["optimizer"]
    for (_, name), runs in table.groupby(["comparison", "optimizer"]):
        counts = runs["hyperparameters"].value_counts(sort=True)
        usual = json.loads(counts.index[0])
        if len(counts) > 1 and counts.iloc[0] == counts.iloc[1]:  # what they share
            usual = {k: v for k, v in usual.items() if all(json.loads(text).get(k) == v for text in counts.index)}
        for text, variant in runs.groupby("hyperparameters"):
            own = json.loads(str(text))
            differing = {key: own.get(key) for key in {**usual, **own} if usual.get(key) != own.get(key)}
            if differing:
                shown = ", ".join(f"{key}={value}" for key, value in differing.items())
                table.loc[variant.index, "arm"] = f"{name} ({shown})"
    return table


def at_step(table: pd.DataFrame, curves: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """The rows as they were at the comparison's step: NaN where no curve has it, diverged if that had happened."""
    assert comparison.step is not None
    place, measure = ["comparison", "run"], comparison.measure
    points = curves[curves["step"] == comparison.step].drop(columns="step")
    # What a schedule has made of the learning rate by then is not what the run is known by.
    measured = [column for column in points if column in table and column not in (*place, "lr")]
    ours = [column for column in (measure.column, measure.ties) if column in table]
    rows = table.drop(columns=list({*measured, *ours})).merge(points[[*place, *measured]], how="left", on=place)
    diverged = rows.get("diverged_at", pd.Series(math.nan, rows.index)) <= comparison.step
    return rows.assign(status=diverged.map({True: "diverged", False: "finished"}))


def scales(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows that may be compared with each other, by the name of their scale."""
    return [(str(runs["scale"].iloc[0]), runs) for _, runs in table.groupby("comparison")]
