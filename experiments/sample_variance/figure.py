"""arXiv 1902.04942: sample variance of deep ReLU networks at initialisation, and whether training feels it.

- ``sample_variance-<scale>``: the share of sample variance against the layer, forward and backward, beside theory;
- ``sample_variance-<scale>_training``: loss curves from three beginnings.
"""

import math
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from reltrust.reporting.claims import Claim
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Selection
from reltrust.reporting.style import Styles, headline

from . import theory
from .verdicts import (
    AT_END,
    BY_WIDTH,
    EARLY,
    inputs_of,
    judge_decay,
    judge_impact,
    judge_kept,
    judge_lower,
    judge_width,
    layers,
)

LABELS = {
    "he": "He",
    "batch_norm": "He + BatchNorm",
    "unit_variance": "He + unit sample variance",
    "unit_variance_unseen": "the same, other inputs",
}
COLORS = {"he": "#000000", "batch_norm": "#CC79A7", "unit_variance": "#009E73", "unit_variance_unseen": "#E69F00"}
WIDTHS = (("#56B4E9", "v"), ("#0072B2", "s"), ("#000000", "o"))  # looks, from the narrowest on


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_layers(ours: Selection, styles: Styles) -> Any:
    """Forward and backward, a panel each: He by width with percentiles, theory, and the two that keep the variance."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    he = layers(ours, "he")
    depth = max((len(rows) for rows in he.values()), default=2)
    ratios = {"forward": theory.forward_ratios, "backward": theory.backward_ratios}
    for axes, (name, of_theory) in zip(panels, ratios.items(), strict=True):
        for (width, rows), (color, marker) in zip(he.items(), WIDTHS, strict=False):
            place = rows["step"].to_numpy()
            axes.fill_between(place, rows[f"{name}_p5"], rows[f"{name}_p95"], color=color, alpha=0.15, linewidth=0)
            axes.plot(
                place, rows[f"{name}_p50"], marker, color=color, markersize=3, markevery=2, label=f"He, width {width}"
            )
        for network, marker in (("batch_norm", "D"), ("unit_variance", "^"), ("unit_variance_unseen", "x")):
            for width, rows in list(layers(ours, network).items())[-1:]:
                label = f"{LABELS[network]}, width {width}"
                axes.plot(
                    rows["step"], rows[f"{name}_p50"], marker, color=COLORS[network], markersize=4, markevery=3,
                    markerfacecolor="none", label=label,
                )  # fmt: skip
        axes.plot(
            range(1, depth + 1), of_theory(depth, inputs_of(ours)), color="#D55E00", linewidth=1.2, label="theory, He"
        )
        axes.set(yscale="log", xlabel="layer", title=name)
        axes.title.set_fontsize(9)
    far = np.arange(10, depth + 1)
    if len(far):
        asymptotic = [theory.asymptotic(int(layer)) for layer in far]
        panels[0].plot(far, asymptotic, color="#D55E00", linestyle=":", linewidth=1, label="(9π²/2) / l²")
    panels[0].set_ylabel("share of sample variance, v / (v + m²)")
    panels[0].legend(fontsize=7, loc="lower left")
    n = int(ours.runs["networks"].max())
    headline(
        figure,
        f"{ours.scale}: {n} networks, {inputs_of(ours)} inputs; points medians, bands 5 to 95 %",
    )
    return figure


def draw_curves(ours: Selection, styles: Styles) -> Any:
    """Loss against steps at the selected learning rates, a thin line for each seed."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    for network, label in LABELS.items():
        runs = ours.best[ours.best["network"] == network]
        curves = ours.curves[ours.curves["run"].isin(runs["run"])]
        if curves.empty:
            continue
        for _, own in curves.groupby("seed"):
            axes.plot(own["step"], own["train_loss"], color=COLORS[network], linewidth=0.5, alpha=0.5)
        mean = curves.groupby("step")["train_loss"].mean()
        text = f"{label}\nlearning rate {runs['lr'].iloc[0]:g}"
        axes.plot(mean.index, mean, color=COLORS[network], linewidth=2, label=text)
    axes.axhline(math.log(10), color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate("chance", (1.01, math.log(10)), xycoords=("axes fraction", "data"), va="center", color="0.4")
    axes.set(yscale="log", xlabel="steps", ylabel="training loss, nats")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.4))
    first = ours.runs.iloc[0]
    headline(
        figure,
        f"{ours.scale}: {first['data']}, {first['depth']} layers of width {first['width']}, batch "
        f"{first['batch_size']:.0f}, SGD; means of {ours.runs['seed'].nunique()} seeds, and each seed",
    )
    return figure


# --- all of it -------------------------------------------------------------------------------------------------------

UNREAD = "abstract; no number could be read"
DECAY = (
    "Sample variance decays with depth, as calculated; BatchNorm and unit sample variance eliminate that, which has an "
    "impact on training"
)
COMMAND = "make reproduce-sample-variance"
KEEPING = {"unit_variance": "unit sample variance at its start", "batch_norm": "BatchNorm"}
IMPACT = [
    Claim(
        f"Preserving sample variance has an impact on the training of 20 layers: {what}, after 20 epochs",
        AT_END, ("quick_training",), UNREAD, partial(judge_impact, network),
        finding=DECAY, label=f"training, {what}",
        arms=("he", network),
    )
    for network, what in KEEPING.items()
]  # fmt: skip
LOWER = [
    Claim(
        f"The training loss is lower than He's: {what}, {when}",
        comparison, ("quick_training",), "not in the abstract", partial(judge_lower, network), arms=("he", network),
    )
    for network, what in KEEPING.items()
    for comparison, when in ((EARLY, "after 5 epochs"), (AT_END, "after 20 epochs"))
]  # fmt: skip
REPORT = Report(
    title="Sample variance (arXiv 1902.04942)",
    figures=(
        Figure(
            "", BY_WIDTH, draw_layers, scales=("quick", "smoke"), curves=True,
            note="A seed draws many networks, their number is above: points are medians over them.",
        ),
        Figure("", AT_END, draw_curves, scales=("quick_training", "smoke_training"), curves=True),
    ),
    claims=(
        Claim(
            "Under He's initialisation sample variance decays with depth",
            BY_WIDTH, ("quick",), UNREAD, judge_decay, finding=DECAY, label="He", arms=("he",),
        ),
        Claim(
            "Finite width approaches the calculation for infinite width",
            BY_WIDTH, ("quick",), UNREAD, judge_width, finding=DECAY, label="width", arms=("he",),
        ),
        Claim(
            "BatchNorm eliminates the decay",
            BY_WIDTH, ("quick",), UNREAD, partial(judge_kept, "batch_norm"), finding=DECAY, label="BatchNorm",
            arms=("batch_norm",),
        ),
        Claim(
            "Unit sample variance by data eliminates it, on the inputs that it was calibrated on",
            BY_WIDTH, ("quick",), UNREAD, partial(judge_kept, "unit_variance"), finding=DECAY,
            label="unit variance", arms=("unit_variance",),
        ),
        Claim(
            "Unit sample variance by data eliminates it, on other inputs too",
            BY_WIDTH, ("quick",), "not in the abstract", partial(judge_kept, "unit_variance_unseen"),
            arms=("unit_variance_unseen",),
        ),
        *IMPACT,
        *LOWER,
    ),
    cost={
        "quick": (COMMAND, "about a minute, 2 CPU cores, both parts"),
        "quick_training": (f"{COMMAND} SCALE=quick_training", "about a minute, 2 CPU cores"),
    },
    parts={"quick": ("quick_training",), "smoke": ("smoke_training",)},
)  # fmt: skip
