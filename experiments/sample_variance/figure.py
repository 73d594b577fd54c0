"""arXiv 1902.04942: sample variance of deep ReLU networks at initialisation, and whether training feels it.

- ``sample_variance-<scale>``: the share of sample variance against the layer, forward and backward, beside theory;
- ``sample_variance-<scale>_training``: loss curves from three beginnings.
"""

import itertools
import math
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from reltrust.reporting.claims import Claim, Verdict, judge_order
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Measure, Selection
from reltrust.reporting.statistics import Outcomes, bootstrap_difference
from reltrust.reporting.style import Styles, headline

from . import theory

RATIO = Measure("forward_p50", "v / (v + m²)", best="max", diverged=0.0, ties="forward_p50", bounds=(0, 1))
BY_WIDTH = Comparison(RATIO, x="width", arm="network", tuned=None)
# A diverged run counts as worse than chance, log 10 = 2.3 nats, by far.
LOSS = Measure("train_loss", "training loss", best="min", diverged=100.0, ties="test_loss", bounds=(0, math.inf))
AT_END = Comparison(LOSS, x="depth", arm="network")
EARLY_STEP = 150
EARLY = Comparison(LOSS, x="depth", arm="network", step=EARLY_STEP)

LABELS = {
    "he": "He",
    "batch_norm": "He + BatchNorm",
    "unit_variance": "He + unit sample variance",
    "unit_variance_unseen": "the same, other inputs",
}
COLORS = {"he": "#000000", "batch_norm": "#CC79A7", "unit_variance": "#009E73", "unit_variance_unseen": "#E69F00"}
WIDTHS = (("#56B4E9", "v"), ("#0072B2", "s"), ("#000000", "o"))  # looks, from the narrowest on


# --- claims ----------------------------------------------------------------------------------------------------------


def layers(ours: Selection, network: str) -> dict[int, pd.DataFrame]:
    """By width, narrowest first, the rows of the network's layers, ``step`` their number; the first seed's."""
    runs = ours.best[ours.best["network"] == network].sort_values(["width", "seed"])
    found = {}
    for width, own in runs.groupby("width"):
        curve = ours.curves[ours.curves["run"] == own["run"].iloc[0]]
        if not curve.empty:
            found[int(str(width))] = curve.sort_values("step")
    return found


def inputs_of(ours: Selection) -> int:
    return int(ours.runs["inputs"].iloc[0])


def judge_decay(ours: Selection) -> tuple[str, Verdict]:
    """Whether He's sample variance decays as the recursion says.

    reproduced: at the greatest width the median share is within a quarter of theory's in each of the first 20 layers,
    and below a tenth in the last; partly: it is below a tenth in the last; not reproduced: it is not; not run: no
    layers.
    """
    if not (found := layers(ours, "he")):
        return "-", Verdict.NOT_RUN
    width, rows = max(found.items())
    expected = np.array(theory.forward_ratios(len(rows), inputs_of(ours)))
    ratios = rows["forward_p50"].to_numpy(float)
    near = np.abs(np.log(ratios / expected))[:20] <= math.log(1.25)
    text = f"width {width}: {ratios[-1]:.3g} in layer {len(rows)}, theory {expected[-1]:.3g}; " + (
        f"{near.sum()} of {len(near)} layers within a quarter (n={int(ours.runs['networks'].min())} networks)"
    )
    if ratios[-1] >= 0.1:
        return text, Verdict.NOT_REPRODUCED
    return text, Verdict.REPRODUCED if near.all() else Verdict.PARTLY


def judge_width(ours: Selection) -> tuple[str, Verdict]:
    """Whether finite width comes nearer to theory as it grows.

    The distance is the mean over layers of |log(median share / theory)|. reproduced: it falls with every width; partly:
    it is less at the greatest than at the smallest; not reproduced: it is not; not run: fewer than two widths.
    """
    found = layers(ours, "he")
    if len(found) < 2:
        return "-", Verdict.NOT_RUN
    distances = []
    for rows in found.values():
        expected = np.array(theory.forward_ratios(len(rows), inputs_of(ours)))
        distances.append(float(np.mean(np.abs(np.log(rows["forward_p50"].to_numpy(float) / expected)))))
    text = ", ".join(f"{distance:.3f} at width {width}" for width, distance in zip(found, distances, strict=True))
    if all(after < before for before, after in itertools.pairwise(distances)):
        return f"mean log-distance {text}", Verdict.REPRODUCED
    better = distances[-1] < distances[0]
    return f"mean log-distance {text}", Verdict.PARTLY if better else Verdict.NOT_REPRODUCED


def judge_kept(network: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether sample variance is kept to the last layer.

    reproduced: at every width the median share there is at least 0.9; partly: at least 0.5; not reproduced: less; not
    run: no layers.
    """
    if not (found := layers(ours, network)):
        return "-", Verdict.NOT_RUN
    ends = {width: float(rows["forward_p50"].iloc[-1]) for width, rows in found.items()}
    text = ", ".join(f"{end:.3f} at width {width}" for width, end in ends.items())
    text += f" (n={int(ours.runs['networks'].min())} networks)"
    least = min(ends.values())
    return text, Verdict.REPRODUCED if least >= 0.9 else Verdict.PARTLY if least >= 0.5 else Verdict.NOT_REPRODUCED


def compare(network: str, ours: Selection) -> tuple[str, float, tuple[float, float] | None] | None:
    """He's mean loss and the network's in words, their difference, and its interval: seeds and with them learning rates
    are drawn anew. None if one is missing."""
    he, own = Outcomes.of(ours, "he"), Outcomes.of(ours, network)
    if he is None or own is None:
        return None

    def loss(_: Any, means: Any) -> float:
        return float(means[0])

    difference, interval = he.statistic(loss) - own.statistic(loss), bootstrap_difference(he, own, loss)
    text = f"He {he.statistic(loss):.3g}, {own.statistic(loss):.3g} (n={min(he.n, own.n)}"
    return (
        text + (f", difference in [{interval[0]:.3g}, {interval[1]:.3g}])" if interval else ")"),
        difference,
        interval,
    )


def judge_lower(network: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether a network's training loss is below He's, by the rule of :func:`~reltrust.reporting.claims.judge_order`
    for He's mean minus its own, each at its best learning rate."""
    if (found := compare(network, ours)) is None:
        return "-", Verdict.NOT_RUN
    text, difference, interval = found
    return text, judge_order(difference, interval)


def judge_impact(network: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether a network's training loss differs from He's, in either direction.

    reproduced: the 95 % interval of the difference does not contain 0; not reproduced: it does; not run: one of them is
    missing, or has one seed.
    """
    if (found := compare(network, ours)) is None:
        return "-", Verdict.NOT_RUN
    text, _, interval = found
    if interval is None:
        return text, Verdict.NOT_RUN
    return text, Verdict.NOT_REPRODUCED if interval[0] <= 0 <= interval[1] else Verdict.REPRODUCED


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
        Figure("", BY_WIDTH, draw_layers, scales=("quick", "smoke")),
        Figure("", AT_END, draw_curves, scales=("quick_training", "smoke_training")),
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
