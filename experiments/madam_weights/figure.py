"""What optimizers make of weights: their signs, and how near to normal ln|w| is.

- ``madam_weights-<scale>``: histograms of standardised ln|w| after training, distances from normal, changed signs; each
  optimizer at its best learning rate.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from reltrust.reporting.claims import Claim, Verdict
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Selection
from reltrust.reporting.style import Styles, headline

from ..mlp_depth.figure import ACCURACY

DISTANCE, START = "log_distance", "start_log_distance"
# One x: each optimizer at its most accurate learning rate.
BEST = Comparison(ACCURACY, x="hidden_layers", reads=(DISTANCE, START, "sign_changes", "weights"))
LABELS = {"madam": "Madam", "adam": "Adam", "sgd_momentum": "SGD (momentum 0.9)"}


def finished(runs: pd.DataFrame, arm: str) -> pd.DataFrame:
    return runs[(runs["arm"] == arm) & (runs["status"] == "finished")]


# --- claims ----------------------------------------------------------------------------------------------------------


def judge_signs(ours: Selection) -> tuple[str, Verdict]:
    """Whether Madam never changes the sign of a weight, at any learning rate; beside it, what others change.

    reproduced: in no run and no step any weight has another sign than at initialisation; not reproduced: one has;
    not run: no run.
    """
    runs = finished(ours.runs, "madam")
    if runs.empty:
        return "-", Verdict.NOT_RUN
    most, count = int(runs["sign_changes"].max()), int(runs["weights"].iloc[0])
    text = f"{most} of {count:,} weights in each of {len(runs)} runs"
    for arm in ("adam", "sgd_momentum"):
        others = finished(ours.best, arm)
        if not others.empty:
            text += f"; {LABELS[arm]} {(others['sign_changes'] / others['weights']).mean():.0%}"
    return text, Verdict.NOT_REPRODUCED if most else Verdict.REPRODUCED


def in_words(values: "pd.Series[float]") -> str:
    extremes = f": {values.min():.3g} to {values.max():.3g}" if len(values) > 1 else ""
    return f"{values.mean():.3g} (n={len(values)}{extremes})"


def judge_nearer(other: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether ln|w| is nearer to normal after Madam than after another optimizer, or than at the ``start``.

    reproduced: all of Madam's distances (Kolmogorov's, mean over weight matrices) are below all of the other's; partly:
    their mean is; not reproduced: it is not; not run: one of the two is missing.
    """
    madam = finished(ours.best, "madam")
    one = madam[DISTANCE]
    two = madam[START] if other == "start" else finished(ours.best, other)[DISTANCE]
    if one.empty or two.empty:
        return "-", Verdict.NOT_RUN
    text = f"{in_words(one)} vs {in_words(two)}"
    if one.max() < two.min():
        return text, Verdict.REPRODUCED
    return text, Verdict.PARTLY if one.mean() < two.mean() else Verdict.NOT_REPRODUCED


SCALES = ("quick", "mnist")
CLAIMS = [
    Claim(
        text="Madam never changes the sign of a weight",
        comparison=BEST,
        scales=SCALES,
        published="by construction",
        judge=judge_signs,
        finding="Madam never changes the sign of a weight",
    ),
    *(
        Claim(
            text=f"ln|w| is nearer to normal after Madam than {than}",
            comparison=BEST,
            scales=SCALES,
            published="log-normal, as synapses (no number could be read)",
            judge=partial(judge_nearer, other),
            finding="Madam's weights are log-normal: ln|w| is nearer to normal than at the start and than after others",
            label=than,
            arms=("madam",) if other == "start" else ("madam", other),
        )
        for other, than in (
            ("start", "at initialisation"),
            ("adam", "after Adam"),
            ("sgd_momentum", "after SGD (momentum 0.9)"),
        )
    ),
]


# --- figures ---------------------------------------------------------------------------------------------------------


def title(selection: Selection) -> str:
    first, seeds = selection.runs.iloc[0], selection.runs["seed"].nunique()
    return (
        f"{selection.scale} protocol: {first['data']}, {first['hidden_layers']} hidden layers of {first['width']}, "
        f"{first['init']} init, {first['steps']:,} steps, {seeds} seed{'s' * (seeds > 1)}"
    )


def draw_dots(axes: Any, rows: dict[str, "pd.Series[float]"], looks: dict[str, dict[str, Any]]) -> None:
    """A row of dots for each name, and a larger one at the mean."""
    for place, (label, values) in enumerate(rows.items()):
        axes.scatter(values, [place] * len(values), s=9, color=looks[label]["color"], alpha=0.5)
        axes.plot(values.mean(), place, **(looks[label] | {"linestyle": "none"}))
    axes.set_yticks(range(len(rows)), list(rows), fontsize=7)
    axes.set(ylim=(-0.6, len(rows) - 0.4))


def draw_weights(selection: Selection, styles: Styles, tables: dict[str, dict[int, Path]]) -> Any:
    """Histograms of the run with the lowest seed; distances from normal and changed signs of every seed."""
    figure, (shapes, distances, signs) = plt.subplots(1, 3, figsize=(10.4, 3.4), width_ratios=(1.5, 1, 1))
    start_look = {"color": "0.55", "marker": "o", "markersize": 5}
    best = selection.best[selection.best["status"] == "finished"]
    arms = [arm for arm in selection.arms if arm in set(best["arm"])]
    names = {arm: f"{styles.label(arm)} {best.loc[best['arm'] == arm, 'lr'].iloc[0]:g}" for arm in arms}
    looks = {names[arm]: styles.line(arm) for arm in arms} | {"at initialisation": start_look}
    for number, arm in enumerate(arm for arm in arms if tables.get(arm)):
        table = pd.read_csv(tables[arm][max(tables[arm])])
        middle = table["from"] + (table["from"].iloc[1] - table["from"].iloc[0]) / 2
        if not number:
            shapes.plot(middle, table["start"], color="0.55", linewidth=1.2, label="at initialisation")
        line = {key: value for key, value in styles.line(arm).items() if not key.startswith("marker")}
        shapes.plot(middle, table["trained"], **line, label=names[arm])
    z = np.linspace(-4.5, 3.5, 200)
    normal = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    shapes.plot(z, normal, color="0.1", linewidth=1, linestyle=(0, (4, 2)), label="normal")
    shapes.set(xlabel="ln|w|, standardised in each weight matrix", ylabel="density", xlim=(-4.5, 3.5))
    shapes.legend(fontsize=7)
    draw_dots(
        distances,
        {"at initialisation": best[START], **{names[arm]: best.loc[best["arm"] == arm, DISTANCE] for arm in arms}},
        looks,
    )
    distances.set(xlabel="Kolmogorov distance from normal")
    distances.set_xlim(left=0)
    share = best["sign_changes"] / best["weights"]
    draw_dots(signs, {names[arm]: share[best["arm"] == arm] for arm in arms}, looks)
    signs.set(xlabel="share of signs ever changed")
    signs.set_xlim(left=-0.01)
    headline(figure, title(selection))
    return figure


REPORT = Report(
    title="Madam: signs and magnitudes of weights",
    figures=(
        Figure("", BEST, draw_weights, pictures="log_weights.csv", note="Histograms are of the lowest seed alone."),
    ),
    claims=tuple(CLAIMS),
    cost={
        "mnist": ("make reproduce-madam-weights SCALE=mnist LAUNCHER=processes", "9 runs of 4,800 steps: 30 minutes"),
        "quick": ("make reproduce-madam-weights SEEDS=3", "about 2 minutes, 2 CPU cores"),
    },
)
