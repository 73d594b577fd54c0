"""From a table with a row a run to what a figure shows: selection, mean, spread, trainable depth, intervals."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

TRAINABLE = 0.5  # a depth counts as trained from this accuracy on: far from chance, far from 1
DIVERGED_ACCURACY = 0.0  # a diverged run counts as the worst value, not as missing


def load(results: str | Path, experiment: str) -> pd.DataFrame:
    """The experiment's table, one row a run, with the column ``accuracy``: final training accuracy in 0..1.

    An optimizer with several sets of hyperparameters counts as several optimizers.

    Raises:
        FileNotFoundError: there is no table.
    """
    table = pd.read_csv(Path(results, "summaries", f"{experiment}.csv"), dtype={"comparison": str})
    for measure in ("train_accuracy", "train_loss"):
        if measure not in table:  # as where all runs diverged
            table[measure] = float("nan")
    # Rows from before there was a choice of precision do not name it.
    table["precision"] = table["precision"].fillna("fp32") if "precision" in table else "fp32"
    accuracy = table["train_accuracy"].where(table["status"] == "finished", DIVERGED_ACCURACY)
    return table.assign(accuracy=accuracy, optimizer=_tell_variants_apart(table))


def _tell_variants_apart(table: pd.DataFrame) -> pd.Series:
    """The optimizers' names, with the hyperparameters that differ: ``sgd_momentum (momentum=0.5)``.

    In each comparison the hyperparameters that most runs of an optimizer have go without saying.
    """
    names = table["optimizer"].copy()
    for (_, name), runs in table.groupby(["comparison", "optimizer"]):
        usual = json.loads(runs["hyperparameters"].value_counts(sort=True).index[0])
        for text, variant in runs.groupby("hyperparameters"):
            differing = {key: value for key, value in json.loads(str(text)).items() if usual.get(key) != value}
            if differing:
                told = ", ".join(f"{key}={value}" for key, value in differing.items())
                names[variant.index] = f"{name} ({told})"
    return names


def select_lr(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs at the one learning rate of each (optimizer, depth) with the highest mean accuracy over seeds.

    Whole runs are compared, at their end. Equal means are decided by the lower mean training loss.
    """
    cells = runs.groupby(["optimizer", "hidden_layers", "lr"], as_index=False).agg(
        mean=("accuracy", "mean"), loss=("train_loss", "mean")
    )
    best = cells.sort_values(["mean", "loss"], ascending=[False, True], kind="stable").drop_duplicates(
        ["optimizer", "hidden_layers"]
    )
    return runs.merge(best[["optimizer", "hidden_layers", "lr"]], on=["optimizer", "hidden_layers", "lr"])


def describe(selected: pd.DataFrame) -> pd.DataFrame:
    """For each (optimizer, depth): the learning rate, n, mean, sample standard deviation (NaN for n = 1), extremes."""
    return (
        selected.groupby(["optimizer", "hidden_layers"])
        .agg(
            lr=("lr", "first"),
            n=("accuracy", "size"),
            mean=("accuracy", "mean"),
            std=("accuracy", "std"),
            min=("accuracy", "min"),
            max=("accuracy", "max"),
        )
        .reset_index()
    )


def trainable_depth(depths: Sequence[int], accuracies: Sequence[float]) -> int:
    """The largest depth of the grid up to which every depth reaches accuracy ``TRAINABLE``; 0 if the first does not."""
    deepest = 0
    for depth, accuracy in sorted(zip(depths, accuracies, strict=True)):
        if accuracy < TRAINABLE:
            break
        deepest = depth
    return deepest


@dataclass(frozen=True)
class Accuracies:
    """All of one optimizer's runs: ``values[seed, depth, learning rate]``, for the seeds that ran the whole grid.

    The grid is what at least half of the seeds ran, seeds with less than half as many runs as the fullest left out:
    a few runs beside a sweep do not make it incomplete.
    """

    depths: list[int]
    values: np.ndarray

    @classmethod
    def of(cls, runs: pd.DataFrame) -> "Accuracies":
        ran = runs.pivot_table(index="seed", columns=["hidden_layers", "lr"], values="accuracy")
        ran = ran[2 * ran.count(axis=1) >= ran.count(axis=1).max()]
        grid = ran.loc[:, 2 * ran.count() >= len(ran)].dropna()
        depths, lrs = (sorted(set(grid.columns.get_level_values(level))) for level in (0, 1))
        full = grid.reindex(columns=pd.MultiIndex.from_product([depths, lrs]))
        return cls(depths, full.to_numpy().reshape(len(grid), len(depths), len(lrs)))

    @property
    def n(self) -> int:
        return len(self.values)

    def trainable_depth(self, seeds: Sequence[int] | np.ndarray | None = None) -> int:
        """Trainable depth with one learning rate selected for each depth by its mean over ``seeds`` (default: all)."""
        values = self.values if seeds is None else self.values[np.asarray(seeds)]
        return trainable_depth(self.depths, np.nanmax(values.mean(0), axis=1).tolist())


def bootstrap_difference(
    a: Accuracies, b: Accuracies, *, level: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile interval of ``a``'s trainable depth minus ``b``'s, seeds drawn with replacement for each.

    The learning rate is selected anew in every resample, so the interval covers the selection too. None with fewer
    than two seeds.
    """
    if min(a.n, b.n) < 2:
        return None
    rng = np.random.default_rng(seed)
    differences = [
        a.trainable_depth(rng.integers(a.n, size=a.n)) - b.trainable_depth(rng.integers(b.n, size=b.n))
        for _ in range(resamples)
    ]
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
