"""The depth figure once more, from torch's default weights and from He's, with what tells the two apart.

- ``mlp_depth_init-<scale>``: accuracy against depth, a panel an initialisation, a line an optimizer at its selected
  learning rate; and the spread of the logits over inputs before training.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from reltrust.reporting.claims import Claim, Verdict
from reltrust.reporting.lines import draw_means, spread_x
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Selection
from reltrust.reporting.statistics import Outcomes, bootstrap_difference
from reltrust.reporting.style import Styles, headline

from ..mlp_depth.figure import ACCURACY, CHANCE, judge_deeper, trainable_depth

INITS = {"torch": "torch's default weights", "he": "He's weights"}
DEPTHS = Comparison(ACCURACY, x="hidden_layers", arm=("arm", "init"), reads=("init_spread",))  # an arm: "fromage he"
LABELS = {"fromage": "Fromage", "adam": "Adam", "sgd_momentum": "SGD (momentum 0.9)", "madam": "Madam"}

# What is derived: with weights of variance v / (fan in) a difference of inputs is multiplied by the root of v/2 in a
# layer with ReLU once that acts on all inputs alike, half of its units open; v is 1/3 for torch's default, 2 for He's.
LN_FACTOR = {"torch": 0.5 * math.log(1 / 6), "he": 0.0}
CLOSE, NEAR = 0.1, 0.25  # a layer, of the logarithm: a factor of 1.1, of 1.28


# --- claims ----------------------------------------------------------------------------------------------------------


def judge_no_shallower(a: str, b: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether ``a`` trains as deep as ``b``, by mlp_depth's trainable depth.

    reproduced: at least as deep and, with several seeds, none of the bootstrap interval of the difference is below 0;
    partly: at least as deep, but the interval reaches below 0; not reproduced: less deep; not run: one is missing.
    """
    one, other = Outcomes.of(ours, a), Outcomes.of(ours, b)
    if one is None or other is None:
        return "-", Verdict.NOT_RUN
    deep, least = one.statistic(trainable_depth), other.statistic(trainable_depth)
    interval = bootstrap_difference(one, other, trainable_depth)
    both_end = deep == least == max(one.x) == max(other.x)
    text = f"{deep:g} vs {least:g}{', the deepest run,' if both_end else ''} (n={min(one.n, other.n)}"
    text += f", difference in [{interval[0]:g}, {interval[1]:g}])" if interval else ")"
    if deep < least:
        return text, Verdict.NOT_REPRODUCED
    return text, Verdict.PARTLY if interval is not None and interval[0] < 0 else Verdict.REPRODUCED


def ln_factor(depths: Sequence[float], spreads: Sequence[float]) -> float:
    """By how much ln(spread) grows a hidden layer, by least squares."""
    return float(np.polyfit(depths, np.log(spreads), 1)[0])


def judge_spread(init: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether the spread of the logits changes from layer to layer as derived.

    reproduced: the slope of its logarithm in the number of hidden layers is within 0.1 of the derived one; partly:
    within 0.25; not reproduced: further away; not run: fewer than two depths.
    """
    runs = ours.runs[(ours.runs["init"] == init) & ours.runs["init_spread"].notna()]
    cells = runs.drop_duplicates(["hidden_layers", "seed"])  # the same for every optimizer
    if cells["hidden_layers"].nunique() < 2:
        return "-", Verdict.NOT_RUN
    slope = ln_factor(list(cells["hidden_layers"]), list(cells["init_spread"]))
    means = np.exp(np.log(cells["init_spread"]).groupby(cells["hidden_layers"]).mean())
    first, last = means.index.min(), means.index.max()
    ends = f"{means[first]:.2g} at {first} layers, {means[last]:.2g} at {last}"
    text = f"x {math.exp(slope):.3g} (n={cells['seed'].nunique()}; {ends})"
    away = abs(slope - LN_FACTOR[init])
    return text, Verdict.REPRODUCED if away <= CLOSE else Verdict.PARTLY if away <= NEAR else Verdict.NOT_REPRODUCED


SCALES = ("paper", "quick")
ORDERS = [
    Claim(
        text=f"Fromage trains deeper perceptrons than {LABELS[other]}, from {INITS[init]}",
        comparison=DEPTHS,
        scales=SCALES,
        published=published,
        judge=partial(judge_deeper, f"fromage {init}", f"{other} {init}"),
        arms=(f"fromage {init}", f"{other} {init}"),
    )
    for init in INITS
    for other, published in (
        ("adam", "50 > 22" if init == "torch" else "not tried"),
        ("sgd_momentum", "50 > 10" if init == "torch" else "not tried"),
    )
]
LIMITS = [
    Claim(
        text=f"Limit of the finding: {LABELS[other]} from He's weights trains as deep as Fromage from torch's",
        comparison=DEPTHS,
        scales=SCALES,
        published="not tried",
        judge=partial(judge_no_shallower, f"{other} he", "fromage torch"),
        finding="A limit of it: from He's weights Adam and SGD train as deep as Fromage from torch's",
        label=LABELS[other],
        arms=(f"{other} he", "fromage torch"),
    )
    for other in ("adam", "sgd_momentum")
]
SPREADS = [
    Claim(
        text=f"Why: a hidden layer multiplies the spread of the logits over inputs, from {INITS[init]}",
        comparison=DEPTHS,
        scales=SCALES,
        published=f"x {math.exp(LN_FACTOR[init]):.3g} (derived)",
        judge=partial(judge_spread, init),
    )
    for init in INITS
]


# --- figures ---------------------------------------------------------------------------------------------------------


def title(selection: Selection) -> str:
    first, seeds = selection.runs.iloc[0], selection.runs["seed"].nunique()
    return (
        f"{selection.scale} protocol: {first['data']}, width {first['width']}, batch {first['batch_size']}, "
        f"{first['steps']:,} steps, {seeds} seed{'s' * (seeds > 1)}"
    )


def of_init(selection: Selection, init: str) -> Selection:
    """The runs from one initialisation; their arms are the optimizers again."""
    parts = {}
    for part in ("runs", "best"):
        runs = getattr(selection, part)
        own = runs[runs["init"] == init]
        parts[part] = own.assign(arm=own["arm"].str.removesuffix(f" {init}"))
    return replace(selection, **parts)


def draw_depths(selection: Selection, styles: Styles) -> Any:
    """Accuracy against depth from either initialisation, and the spread of the logits before training."""
    figure, (*panels, spread) = plt.subplots(1, 3, figsize=(10.4, 3.5), width_ratios=(1, 1, 0.9))
    for axes, (init, label) in zip(panels, INITS.items(), strict=True):
        from_here = of_init(selection, init)
        draw_means(axes, from_here, styles)
        spread_x(axes, from_here.best["hidden_layers"])
        axes.axhline(CHANCE, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.annotate("chance", (0.02, 0.04), xycoords=("axes fraction", "data"), color="0.4", fontsize=8)
        axes.set(xlabel="hidden layers", ylim=(0, 1.03))
        axes.set_title(f"from {label}", fontsize=9)
    panels[0].set(ylabel=ACCURACY.label)
    panels[1].sharey(panels[0])
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside right center")
    looks = {"torch": {"color": "#444444", "marker": "o"}, "he": {"color": "#AA3377", "marker": "s"}}
    for init, label in INITS.items():
        own = selection.runs[selection.runs["init"] == init].drop_duplicates(["hidden_layers", "seed"])
        if own.empty:
            continue
        means = np.exp(np.log(own["init_spread"]).groupby(own["hidden_layers"]).mean())
        spread.plot(
            means.index, means, color=looks[init]["color"], marker=looks[init]["marker"], markersize=4, label=label
        )
        spread.scatter(own["hidden_layers"], own["init_spread"], s=9, color=looks[init]["color"], alpha=0.5)
        derived = means.iloc[0] * np.exp(LN_FACTOR[init] * (means.index - means.index[0]))
        spread.plot(means.index, derived, color="0.6", linewidth=0.9, linestyle=(0, (4, 2)))
    spread.plot([], [], color="0.6", linewidth=0.9, linestyle=(0, (4, 2)), label="slope as derived")
    spread.set(yscale="log", xlabel="hidden layers")
    spread.set_title("spread of the logits over inputs, untrained", fontsize=9)
    spread.legend(fontsize=7)
    headline(figure, title(selection))
    return figure


REPORT = Report(
    title="Fromage, figure 3 (left), from two initialisations",
    figures=(Figure("", DEPTHS, draw_depths),),
    claims=(*ORDERS, *LIMITS, *SPREADS),
    cost={
        "paper": ("make reproduce-mlp-depth-init SCALE=paper", "168 runs of 24,000 steps: a GPU"),
        "quick": ("make reproduce-mlp-depth-init", "about 8 minutes, 2 CPU cores"),
    },
)
