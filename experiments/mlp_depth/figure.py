"""Fromage paper, figure 3 (left): training accuracy of perceptrons against their depth.

- ``mlp_depth-<scale>``: accuracy against depth, one line an optimizer at its selected learning rate;
- ``mlp_depth-<scale>-lr``: the same for every learning rate, one panel an optimizer;
- ``mlp_depth-paper20-epochs``: the same at epochs 10 and 20 of the published protocol.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from reltrust.records.artifacts import read_published
from reltrust.reporting.claims import Claim, Verdict, judge_all, judge_grid_value, judge_order
from reltrust.reporting.lines import draw_means, draw_published, draw_tuning, spread_x
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Measure, Selection, describe, select
from reltrust.reporting.statistics import Outcomes, bootstrap_difference
from reltrust.reporting.style import Styles, headline

CHANCE = 0.1
TRAINABLE = 0.5  # a depth counts as trained from this accuracy on: far from chance, far from 1
TOLERANCE = 0.02  # beyond what one published seed and its neighbours leave open

ACCURACY = Measure(
    "train_accuracy", "training accuracy, last epoch", best="max", diverged=0.0, ties="train_loss", bounds=(0.0, 1.0)
)
DEPTH = Comparison(ACCURACY, x="hidden_layers")
EPOCH_10 = replace(DEPTH, step=2_400)

# ``quantity`` is ``run`` (one learning rate) or ``figure`` (as the authors drew it: at each step the maximum over three
# learning rates, then averaged, which lifts chance from 0.112 to 0.129).
PUBLISHED = read_published(Path(__file__).with_name("published.csv")).assign(status="finished", seed=0)
PUBLISHED["arm"] = PUBLISHED["optimizer"]
DRAWN = PUBLISHED[PUBLISHED["quantity"] == "figure"]
AFTER: dict[Any, pd.DataFrame] = dict(iter(PUBLISHED[PUBLISHED["quantity"] == "run"].groupby("epoch")))
RUNS = AFTER[100]
SELECTED = {epoch: select(runs, DEPTH, "published") for epoch, runs in AFTER.items()}
POINTS = {"paper": DRAWN, "paper20": SELECTED[20].best}


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


def judge_depth(optimizer: str, theirs: Outcomes, ours: Selection) -> tuple[str, Verdict]:
    """Whether the optimizer trains up to the published depth, by :func:`judge_grid_value`.

    Above the published depth it is partly at most where no deeper one was run: then it is not known where training
    ends. Says too how many seeds train at that depth, and at the next one of our grid.
    """
    found = Outcomes.of(ours, optimizer)
    if found is None:
        return "-", Verdict.NOT_RUN
    reached, published = found.statistic(trainable_depth), theirs.statistic(trainable_depth)
    verdict = judge_grid_value(reached, published, sorted({*theirs.x, reached} - {0}))
    deepest = reached == max(found.x)
    if deepest and reached > published and verdict is Verdict.REPRODUCED:
        verdict = Verdict.PARTLY
    runs = ours.best[ours.best["arm"] == optimizer]
    trained = (runs["value"] >= TRAINABLE).groupby(runs[DEPTH.x])
    edge = [depth for depth in found.x if depth >= reached][:2] if reached else found.x[:1]
    shares = [f"{trained.sum()[depth]} of {trained.size()[depth]} at {depth:g}" for depth in edge]
    ended = ", the deepest run" if deepest else ""
    return f"{reached:g}{ended} (seeds that train: {', '.join(shares)})", verdict


def judge_cells(theirs: Selection, ours: Selection) -> tuple[str, Verdict]:
    """Whether our mean accuracy at each (optimizer, depth) is one that the published runs leave open.

    A cell agrees if our mean is at most ``TOLERANCE`` outside the range of the published values at this depth and at
    the depths before and after it, each at its selected learning rate: theirs is one seed a cell. Where that range is
    wider than ``TRAINABLE`` (where an optimizer breaks) the seed decides, and the cell is not counted.
    reproduced: all cells that count agree; partly: at least half of them; not reproduced: fewer; not run: none counts.
    """
    published = {arm: cells.set_index(DEPTH.x)["mean"] for arm, cells in describe(theirs).groupby("arm")}
    counted = agreeing = breaks = 0
    for arm, depth, mean in describe(ours)[["arm", DEPTH.x, "mean"]].itertuples(index=False):
        if arm not in published or depth not in published[arm].index:
            continue
        at = list(published[arm].index).index(depth)
        near = published[arm].iloc[max(0, at - 1) : at + 2]
        if near.max() - near.min() > TRAINABLE:
            breaks += 1
            continue
        counted += 1
        agreeing += near.min() - TOLERANCE <= mean <= near.max() + TOLERANCE
    if not counted:
        return "-", Verdict.NOT_RUN
    text = f"{agreeing} of {counted} cells" + (f", {breaks} more are at a break" if breaks else "")
    return text, judge_all(agreeing, counted, partly=0.5)


LABELS = {"fromage": "Fromage", "adam": "Adam", "sgd_momentum": "SGD (momentum 0.9)"}


def outcomes(theirs: Selection) -> dict[str, Outcomes]:
    """Of the published optimizers."""
    return {arm: found for arm in LABELS if (found := Outcomes.of(theirs, arm)) is not None}


def orders(theirs: Selection, *scales: str, when: str = "") -> list[Claim]:
    """That one optimizer trains deeper than another, as it did in these published runs."""
    reached = {arm: one.statistic(trainable_depth) for arm, one in outcomes(theirs).items()}
    return [
        Claim(
            text=f"{LABELS[a]} trains deeper perceptrons than {LABELS[b]}{when}",
            comparison=DEPTH,
            scales=scales,
            published=f"{reached[a]:g} > {reached[b]:g}{when}",
            judge=partial(judge_deeper, a, b),
            finding="Fromage trains deeper perceptrons than Adam, and Adam deeper ones than SGD",
            label=f"{LABELS[a]}, {LABELS[b]}",
            arms=(a, b),
        )
        for a, b in (("fromage", "adam"), ("fromage", "sgd_momentum"), ("adam", "sgd_momentum"))
    ]


def depths(theirs: Selection, *scales: str, when: str = "") -> list[Claim]:
    """How deep each optimizer trained in these published runs."""
    claims = []
    for arm, one in outcomes(theirs).items():
        reached = one.statistic(trainable_depth)
        claims.append(
            Claim(
                text=f"{LABELS[arm]} trains up to this many hidden layers of width 784{when}",
                comparison=DEPTH,
                scales=scales,
                published=f"{reached:g}" + (" (the deepest tried)" if reached == max(one.x) else "") + when,
                judge=partial(judge_depth, arm, one),
                finding="How deep each optimizer trains a perceptron of width 784",
                label=LABELS[arm],
                arms=(arm,),
            )
        )
    return claims


CELLS = [
    Claim(
        text=f"Accuracies in epoch {epoch}, by optimizer and depth",
        comparison=comparison,
        scales=("paper20",),
        published="78 cells",
        judge=partial(judge_cells, SELECTED[epoch]),
    )
    for epoch, comparison in ((20, DEPTH), (10, EPOCH_10))
]


# --- figures ---------------------------------------------------------------------------------------------------------


def title(selection: Selection) -> str:
    first, seeds = selection.runs.iloc[0], selection.runs["seed"].nunique()
    return (
        f"{selection.scale} protocol: {first['data']}, width {first['width']}, batch {first['batch_size']}, "
        f"{first['steps']:,} steps, {first['init']} init, "
        f"{'' if first['precision'] == 'fp32' else first['precision'] + ', '}{seeds} seed{'s' * (seeds > 1)}"
    )


def draw_accuracies(axes: Any, selection: Selection, styles: Styles, published: pd.DataFrame | None) -> None:
    """Lines through means over seeds, dots for single seeds, published points hollow."""
    beside = [] if published is None else [str(arm) for arm in published["arm"]]
    if published is not None:
        draw_published(axes, published, DEPTH.x, ACCURACY.column, styles, beside=selection.arms)
    draw_means(axes, selection, styles, beside=beside)
    if published is not None:  # up to the next published depth on either side: beside all of them ours would be a blot
        ours = selection.best[DEPTH.x]
        least = max((place for place in published[DEPTH.x] if place < ours.min()), default=ours.min())
        most = min((place for place in published[DEPTH.x] if place > ours.max()), default=ours.max())
        axes.set_xlim(least - 0.04 * (most - least), most + 0.04 * (most - least))
    spread_x(axes, selection.best[DEPTH.x])
    axes.axhline(CHANCE, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate("chance", (1.01, CHANCE), xycoords=("axes fraction", "data"), va="center", color="0.4")
    axes.set(xlabel="hidden layers", ylim=(0, 1.03))


def fromage_figure_3_left(selection: Selection, styles: Styles) -> Any:
    """Accuracy against depth, beside the published points where the runs follow the published protocol."""
    figure, axes = plt.subplots(figsize=(5.6, 3.5))
    draw_accuracies(axes, selection, styles, POINTS.get(selection.scale))
    axes.set(ylabel=ACCURACY.label)
    axes.set_title(title(selection), fontsize=8, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def fromage_figure_3_left_in_epochs_10_and_20(at_20: Selection, at_10: Selection, styles: Styles) -> Any:
    """Accuracy against depth in epochs 10 and 20, a panel each."""
    figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.5), sharey=True)
    for axes, selection, epoch in zip(panels, (at_10, at_20), (10, 20), strict=True):
        draw_accuracies(axes, selection, styles, SELECTED[epoch].best)
        axes.set_title(f"epoch {epoch}", fontsize=9)
    panels[0].set(ylabel="training accuracy")
    panels[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    headline(figure, title(at_20))
    return figure


def fromage_figure_3_left_at_every_learning_rate(selection: Selection, styles: Styles) -> Any:
    """Accuracy against depth for every learning rate, a panel an optimizer."""
    figure, panels = draw_tuning(selection, styles, "hidden layers")
    for axes in panels:
        axes.axhline(CHANCE, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set(ylim=(0, 1.03))
        if axes.get_xscale() == "linear":
            axes.xaxis.get_major_locator().set_params(integer=True)
    headline(figure, title(selection))
    return figure


REPORT = Report(
    title="Fromage, figure 3 (left)",
    figures=(
        Figure("", DEPTH, fromage_figure_3_left),
        Figure(
            "-lr",
            DEPTH,
            fromage_figure_3_left_at_every_learning_rate,
            selected="Nothing is selected: every learning rate is shown.",
        ),
        Figure(
            "-epochs",
            DEPTH,
            fromage_figure_3_left_in_epochs_10_and_20,
            also=(EPOCH_10,),
            scales=("paper20",),
            selected="The learning rate of each point is the one with the highest mean over seeds in the same epoch.",
        ),
    ),
    claims=(
        *orders(SELECTED[20], "paper20", when=", after 20 of 100 epochs"),
        *depths(SELECTED[20], "paper20", when=", after 20 of 100 epochs"),
        *CELLS,
        *orders(SELECTED[100], "quick", "paper"),
        *depths(SELECTED[100], "paper"),
    ),
    cost={
        "paper": ("make reproduce-mlp-depth SCALE=paper", "264 runs of 24,000 steps: a GPU"),
        "paper20": (
            "make reproduce-mlp-depth SCALE=paper20 LAUNCHER=processes",
            "22 runs of 4,800 steps: 5 hours, 2 CPU cores",
        ),
        "quick": ("make reproduce-mlp-depth SEEDS=3", "about 6 minutes, 2 CPU cores"),
    },
    published={"paper20": AFTER[20], "paper": RUNS},
    elsewhere=("bits",),  # madam_bits
)
