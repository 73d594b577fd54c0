"""What is compared, and the rules by which the claims on the GAN are judged."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from reltrust.records.artifacts import read_published
from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import Comparison, Measure, Selection, describe

DIVERGED = 1e5  # what the distance of a diverged run counts as: further away than noise
PUBLISHED_LR = 0.01  # of Fromage and LARS in the figure of norms
MARGIN = 0.1  # relative: nearer distances are not told apart

DISTANCE = Measure(
    "frechet_train", "Frechet distance", best="min", diverged=DIVERGED, ties="frechet_test", bounds=(0, math.inf)
)
GROWTH = Measure("norm_growth_max", "norm / initial norm", best="min", diverged=math.inf, ties="frechet_train")
BY_OPTIMIZER = Comparison(DISTANCE, x="channels")  # one x: at the end, each at its best learning rate
EPOCH_100 = 19_600  # the step of the published distances of all learning rates, before these are divided by ten
BY_LR = Comparison(DISTANCE, x="lr", tuned=None, step=EPOCH_100)
TUNED = replace(BY_OPTIMIZER, step=EPOCH_100)
NORMS = Comparison(GROWTH, x="lr", tuned=None, reads=("norm_growth_min",))

# Versions of the authors' code: the rerun of the released code in 2020, v1 and v2 of the paper, and the comparisons of
# learning rates of both papers, whose FIDs are of epoch 100. Never mixed.
PUBLISHED = read_published(Path(__file__).with_name("published.csv"))
FID = PUBLISHED[PUBLISHED["measure"] == "FID"]
OF_RERUN = FID[(FID["version"] == "rerun") & (FID["images"] == "train")].assign(status="finished", seed=0, channels=64)
OF_RERUN = OF_RERUN.assign(arm=OF_RERUN["optimizer"], frechet_train=OF_RERUN["value"])
RERUN = OF_RERUN.set_index("optimizer")["value"]
OF_TUNING = FID[
    (FID["version"] == "fromage tuning") | ((FID["version"] == "madam tuning") & (FID["optimizer"] == "madam"))
].assign(arm=FID["optimizer"])
TUNING = {
    version: FID[FID["version"] == f"{version} tuning"].groupby("optimizer")["value"].min()
    for version in ("fromage", "madam")
}


def distances(ours: Selection) -> pd.DataFrame:
    """By arm: mean, n, extremes and learning rate."""
    return describe(ours).set_index("arm")


def in_words(cells: pd.DataFrame, *arms: str) -> str:
    """The means of these arms, as ``12.3 (n=3: 11.9 to 12.8)``."""
    words = []
    for arm in arms:
        cell = cells.loc[arm]
        extremes = f": {cell['min']:.4g} to {cell['max']:.4g}" if cell["n"] > 1 else ""
        words.append(f"{cell['mean']:.4g} (n={cell['n']:.0f}{extremes})")
    return " vs ".join(words)


def judge_nearer(arm: str, other: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether one optimizer's distance is below another's, as claimed.

    reproduced: its mean is below by more than a tenth and, with several seeds, all of its are below all of the other's;
    partly: its mean is at most a tenth above; not reproduced: further above; not run: one of the two is missing.
    """
    cells = distances(ours)
    if not {arm, other} <= set(cells.index):
        return "-", Verdict.NOT_RUN
    ratio, apart = cells["mean"][arm] / cells["mean"][other], cells["max"][arm] < cells["min"][other]
    if ratio < 1 - MARGIN and apart:
        return in_words(cells, arm, other), Verdict.REPRODUCED
    return in_words(cells, arm, other), Verdict.PARTLY if ratio <= 1 + MARGIN else Verdict.NOT_REPRODUCED


def judge_competitive(arm: str, other: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether one optimizer's distance is not much above another's.

    reproduced: its mean is at most a tenth above; partly: at most a third; not reproduced: more;
    not run: one of the two is missing.
    """
    cells = distances(ours)
    if not {arm, other} <= set(cells.index):
        return "-", Verdict.NOT_RUN
    ratio = cells["mean"][arm] / cells["mean"][other]
    verdict = Verdict.REPRODUCED if ratio <= 1.1 else Verdict.PARTLY if ratio <= 4 / 3 else Verdict.NOT_REPRODUCED
    return in_words(cells, arm, other), verdict


def growth(lr: float, run: pd.Series) -> float:
    """``(1 + lr^2)^(t/2)`` with the learning rates of the run's schedule, the square roots of 1 + lr^2 multiplied."""
    return float(np.exp(0.5 * np.sum(np.log1p(np.square(lr * lr_factors(run))))))


def lr_factors(run: pd.Series) -> np.ndarray:
    """By step, what milestones have made of the learning rate; NaN under any other schedule, of which no claim is."""
    schedule, steps = json.loads(run["schedule"]), np.arange(int(run["steps"]))
    if schedule["name"] != "milestones":
        return np.full(len(steps), np.nan)
    return float(schedule["decay"]) ** np.searchsorted(np.asarray(schedule["at"]), steps, side="right")


def judge_growth(arm: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether all norms have grown as the theory of scale-invariant weights says: under LARS each step multiplies them
    by the root of 1 + lr^2, under Fromage by one.

    reproduced: least and largest growth differ from that by at most 1 %; partly: by at most 10 %.
    """
    runs = ours.best[(ours.best["arm"] == arm) & (ours.best["status"] == "finished")]
    runs = runs[runs["lr"] == PUBLISHED_LR]
    if runs.empty:
        return "-", Verdict.NOT_RUN
    expected = growth(PUBLISHED_LR, runs.iloc[0]) if arm == "lars" else 1.0
    least, most = runs["norm_growth_min"].min(), runs["norm_growth_max"].max()
    away = max(abs(least / expected - 1), abs(most / expected - 1))
    verdict = Verdict.REPRODUCED if away <= 0.01 else Verdict.PARTLY if away <= 0.1 else Verdict.NOT_REPRODUCED
    return f"{least:.5g} to {most:.5g}, theory {expected:.5g} (n={len(runs)})", verdict
