"""Fromage paper, figure 3 (left): training accuracy of perceptrons against their depth.

- ``mlp_depth-<scale>``: accuracy against depth, one line an optimizer at its selected learning rate;
- ``mlp_depth-<scale>-lr``: the same for every learning rate, one panel an optimizer.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from reltrust.reporting.claims import Claim, Verdict, judge_grid_value, judge_order
from reltrust.reporting.lines import draw_means, draw_published, draw_tuning
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Measure, Selection, select
from reltrust.reporting.statistics import Outcomes, bootstrap_difference
from reltrust.reporting.style import Styles

CHANCE = 0.1
TRAINABLE = 0.5  # a depth counts as trained from this accuracy on: far from chance, far from 1

ACCURACY = Measure(
    "train_accuracy", "training accuracy, last epoch", best="max", diverged=0.0, ties="train_loss", bounds=(0.0, 1.0)
)
DEPTH = Comparison(ACCURACY, x="hidden_layers")

# ``quantity`` is ``run`` (one learning rate) or ``figure`` (as the authors drew it: at each step the maximum over three
# learning rates, then averaged, which lifts chance from 0.112 to 0.129).
PUBLISHED = pd.read_csv(Path(__file__).with_name("published.csv")).assign(status="finished", seed=0)
PUBLISHED["arm"] = PUBLISHED["optimizer"]
RUNS, DRAWN = (PUBLISHED[PUBLISHED["quantity"] == quantity] for quantity in ("run", "figure"))


# --- claims ----------------------------------------------------------------------------------------------------------


def trainable_depth(depths: Sequence[float], accuracies: Sequence[float]) -> float:
    """The largest depth of the grid up to which every depth reaches accuracy ``TRAINABLE``; 0 if the first does not."""
    deepest = 0.0
    for depth, accuracy in sorted(zip(depths, accuracies, strict=True)):
        if accuracy < TRAINABLE:
            break
        deepest = depth
    return deepest


def judge_deeper(a: str, b: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether ``a`` trains deeper than ``b``, by :func:`judge_order`."""
    one, other = Outcomes.of(ours, a), Outcomes.of(ours, b)
    if one is None or other is None:
        return "-", Verdict.NOT_RUN
    deep, shallow = one.statistic(trainable_depth), other.statistic(trainable_depth)
    interval = bootstrap_difference(one, other, trainable_depth)
    text = f"{deep:g} {'>' if deep > shallow else 'vs'} {shallow:g} (n={min(one.n, other.n)}"
    text += f", difference in [{interval[0]:g}, {interval[1]:g}])" if interval else ")"
    return text, judge_order(deep - shallow, interval)


def judge_depth(optimizer: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether the optimizer trains up to the published depth, by :func:`judge_grid_value`."""
    found = Outcomes.of(ours, optimizer)
    if found is None:
        return "-", Verdict.NOT_RUN
    reached, theirs = found.statistic(trainable_depth), THEIRS[optimizer]
    verdict = judge_grid_value(reached, theirs.statistic(trainable_depth), sorted({*theirs.x, reached} - {0}))
    return f"{reached:g} (n={found.n})", verdict


LABELS = {"fromage": "Fromage", "adam": "Adam", "sgd_momentum": "SGD (momentum 0.9)"}
_PUBLISHED = select(RUNS, DEPTH, "published")
THEIRS = {arm: found for arm in LABELS if (found := Outcomes.of(_PUBLISHED, arm)) is not None}
REACHED = {arm: f"{theirs.statistic(trainable_depth):g}" for arm, theirs in THEIRS.items()}

ORDERS = [
    Claim(
        text=f"{LABELS[a]} trains deeper perceptrons than {LABELS[b]}",
        comparison=DEPTH,
        scales=("paper", "quick"),
        published=f"{REACHED[a]} > {REACHED[b]}",
        judge=partial(judge_deeper, a, b),
    )
    for a, b in (("fromage", "adam"), ("fromage", "sgd_momentum"), ("adam", "sgd_momentum"))
]
VALUES = [
    Claim(
        text=f"{LABELS[arm]} trains up to this many hidden layers of width 784",
        comparison=DEPTH,
        scales=("paper",),
        published=REACHED[arm] + (" (the deepest tried)" if float(REACHED[arm]) == max(theirs.x) else ""),
        judge=partial(judge_depth, arm),
    )
    for arm, theirs in THEIRS.items()
]


# --- figures ---------------------------------------------------------------------------------------------------------


def title(selection: Selection) -> str:
    first, seeds = selection.runs.iloc[0], selection.runs["seed"].nunique()
    return (
        f"{selection.scale} protocol: {first['data']}, width {first['width']}, batch {first['batch_size']}, "
        f"{first['steps']:,} steps, {first['init']} init, "
        f"{'' if first['precision'] == 'fp32' else first['precision'] + ', '}{seeds} seed{'s' * (seeds > 1)}"
    )


def draw_depth(selection: Selection, styles: Styles) -> Any:
    """Lines through means over seeds, dots for single seeds, the published points hollow beside runs of their scale."""
    figure, axes = plt.subplots(figsize=(5.6, 3.5))
    if selection.scale == "paper":
        draw_published(axes, DRAWN, DEPTH.x, ACCURACY.column, styles)
    draw_means(axes, selection, styles)
    axes.axhline(CHANCE, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate("chance", (1.01, CHANCE), xycoords=("axes fraction", "data"), va="center", color="0.4")
    axes.set(xlabel="hidden layers", ylabel=ACCURACY.label, ylim=(0, 1.03))
    axes.set_title(title(selection), fontsize=8, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_learning_rates(selection: Selection, styles: Styles) -> Any:
    """Accuracy against depth for every learning rate, a panel an optimizer."""
    figure, panels = draw_tuning(selection, styles, "hidden layers")
    for axes in panels:
        axes.axhline(CHANCE, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set(ylim=(0, 1.03))
    figure.suptitle(title(selection), fontsize=8, x=0.01, ha="left")
    return figure


REPORT = Report(
    title="Fromage, figure 3 (left)",
    figures=(Figure("", DEPTH, draw_depth), Figure("-lr", DEPTH, draw_learning_rates)),
    claims=(*ORDERS, *VALUES),
    cost={
        "quick": ("make reproduce-mlp-depth SEEDS=3", "about 6 minutes, 2 CPU cores"),
        "paper": ("make reproduce-mlp-depth SCALE=paper", "264 runs of 24,000 steps: a GPU"),
    },
    published=RUNS,
)
