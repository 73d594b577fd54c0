"""What is compared, and the rules by which the claims on the gradient's change are judged."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reltrust.records.artifacts import read_published
from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import Comparison, Measure, Selection, arms

FAR = 10.0  # times: one change is of another order than another
NEAR = 2.0  # times: a change of one seed is the published one, of one seed too

NETWORK = ("network", "hidden_layers")  # an arm: "plain 15"
# 1e9: a slice that leaves the finite numbers has no result; no run has this value.
CHANGE = Measure("change_1", "change of the gradient, layer 1", "min", 1e9, ties="loss", bounds=(0, math.inf))
SLICES = Comparison(CHANGE, x="train_steps", arm=NETWORK, tuned=None, reads=("model", "eta", "train_lr"))

PUBLISHED = read_published(Path(__file__).with_name("published.csv"))
PUBLISHED = PUBLISHED.assign(status="finished", seed=0, arm=arms(PUBLISHED, NETWORK))
# At the end of the slices, one row a network and moment, as in our table.
ENDS = PUBLISHED[PUBLISHED["eta"] == 0.099].pivot(
    index=["arm", *NETWORK, "train_steps", "status", "seed"], columns="quantity", values="value"
)
ENDS = ENDS.reset_index()
AT_START = ENDS[ENDS["train_steps"] == 0].set_index("arm")["change_1"]


def layers(hidden_layers: Any) -> Any:
    """Weight matrices, the read-out's too."""
    return hidden_layers + 1


def modelled(eta: float, hidden_layers: int) -> float:
    """Deep relative trust, if every layer moves by ``eta`` of its norm: (1 + eta)^layers - 1."""
    return math.expm1(layers(hidden_layers) * math.log1p(eta))


def at_start(ours: Selection) -> pd.DataFrame:
    """The slices at initialisation: a row a network and seed."""
    return ours.best[(ours.best["train_steps"] == 0) & (ours.best["status"] == "finished")]


def mean(values: "pd.Series[float]") -> float:
    """Geometric."""
    return float(np.exp(np.log(values).mean()))


def in_words(values: "pd.Series[float]") -> str:
    """The geometric mean as ``12.3 (n=3: 11.9 to 12.8)``."""
    extremes = f": {values.min():.4g} to {values.max():.4g}" if len(values) > 1 else ""
    return f"{mean(values):.4g} (n={len(values)}{extremes})"


def judge_more(arm: str, other: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether one network's gradient changes more than another's, at initialisation and the largest eta.

    reproduced: the least change of its seeds is more than ten times the largest of the other's; partly: its geometric
    mean is larger; not reproduced: it is not; not run: one of the two is missing.
    """
    starts = at_start(ours)
    one, two = (starts.loc[starts["arm"] == name, "value"] for name in (arm, other))
    if one.empty or two.empty:
        return "-", Verdict.NOT_RUN
    text = f"{in_words(one)} vs {in_words(two)}"
    if one.min() > FAR * two.max():
        return text, Verdict.REPRODUCED
    return text, Verdict.PARTLY if mean(one) > mean(two) else Verdict.NOT_REPRODUCED


def judge_value(arm: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether a network's change at initialisation is the published one of one seed.

    reproduced: the geometric mean over seeds is at most twice or at least half of it; partly: ten times, a tenth;
    not reproduced: further away; not run: no seed.
    """
    starts = at_start(ours)
    found = starts.loc[starts["arm"] == arm, "value"]
    if found.empty:
        return "-", Verdict.NOT_RUN
    away = abs(math.log(mean(found) / AT_START[arm]))
    verdict = Verdict.PARTLY if away <= math.log(FAR) else Verdict.NOT_REPRODUCED
    return in_words(found), Verdict.REPRODUCED if away <= math.log(NEAR) else verdict


def excess_slope(hidden_layers: Sequence[float], ratios: Sequence[float]) -> float:
    """The slope of ln(measured / modelled) in the number of layers, by least squares."""
    return float(np.polyfit(layers(np.asarray(hidden_layers, dtype=float)), np.log(ratios), 1)[0])


def judge_excess(ours: Selection) -> tuple[str, Verdict]:
    """Whether the change of plain networks at initialisation outgrows the model of deep relative trust with depth.

    reproduced: the slope of ln(measured / modelled) in the number of layers is above 0 for every seed; partly: their
    mean is; not reproduced: it is not; not run: fewer than two depths.
    """
    starts = at_start(ours)
    plain = starts[starts["network"] == "plain"]
    slopes = [
        excess_slope(list(of_seed["hidden_layers"]), list(of_seed["value"] / of_seed["model"]))
        for _, of_seed in plain.groupby("seed")
        if of_seed["hidden_layers"].nunique() > 1
    ]
    if not slopes:
        return "-", Verdict.NOT_RUN
    ratio = (plain["value"] / plain["model"]).groupby(plain["hidden_layers"]).apply(mean)
    ends = ", ".join(f"x {ratio[depth]:.3g} at {layers(depth)}" for depth in (ratio.index.min(), ratio.index.max()))
    extremes = f": {min(slopes):.3g} to {max(slopes):.3g}" if len(slopes) > 1 else ""
    text = f"{np.mean(slopes):.3g} a layer (n={len(slopes)}{extremes}; {ends})"
    if min(slopes) > 0:
        return text, Verdict.REPRODUCED
    return text, Verdict.PARTLY if np.mean(slopes) > 0 else Verdict.NOT_REPRODUCED
