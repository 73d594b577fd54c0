"""Fromage paper, figure 3 (right), and Madam paper, figure 1: one learning rate on three benchmarks, or one for each.

- ``lr_comparison-<scale>``: best error / error against the learning rate, and against how many of them were tried;
- ``lr_comparison-<scale>-madam``: the former on the five tasks of the Madam paper.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from reltrust.reporting.claims import Claim
from reltrust.reporting.learning_rates import best_of
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.style import Styles, headline

from .verdicts import (
    BENCHMARKS,
    DEFAULT,
    comparisons,
    costs,
    errors,
    expected_best,
    grid_of,
    in_words,
    judge_default,
    judge_own,
    judge_trials,
    published,
    published_of_madam,
    scores,
)

LABELS = {"fromage": "Fromage", "madam": "Madam", "adam": "Adam", "sgd": "SGD"}


def claims(scale: str) -> list[Claim]:
    first, *others = comparisons(scale)
    theirs = {paper: published(paper) for paper in ("fromage", "madam")}
    claim = partial(Claim, comparison=first, scales=(scale,), also=tuple(others))
    of_default = [
        claim(
            text=f"One learning rate, {DEFAULT:g}, is {LABELS[arm]}'s best on classifier, GAN and transformer",
            published=in_words(grid_of(theirs[arm], arm), DEFAULT),
            judge=partial(judge_default, arm),
            finding=f"One learning rate, {DEFAULT:g}, is the best of Fromage and of Madam on all benchmarks",
            label=LABELS[arm],
            arms=(arm,),
        )
        for arm in ("fromage", "madam")
    ]
    of_own = [
        claim(
            text=f"{LABELS[arm]} needs a learning rate for each",
            published=in_words(grid, best_of(costs(grid), "min")[0]),
            judge=partial(judge_own, arm),
            finding="Adam and SGD need a learning rate for each",
            label=LABELS[arm],
            arms=(arm,),
        )
        for arm in ("adam", "sgd")
        for grid in [grid_of(theirs["fromage"], arm)]
    ]
    of_trials = [
        claim(
            text=f"{LABELS[tuned]} has to be tuned to match {LABELS[arm]} at {DEFAULT:g}",
            published="no number",
            judge=partial(judge_trials, arm, tuned),
            arms=(arm, tuned),
        )
        for arm in ("fromage", "madam")
        for tuned in ("adam", "sgd")
    ]
    return [*of_default, *of_own, *of_trials]


# --- figure ----------------------------------------------------------------------------------------------------------


def fromage_figure_3_right(*ours_and_styles: Any) -> Any:
    """A column a benchmark: above the score at each learning rate, published ones hollow; below the expected score of
    the best of so many trials. Dotted: the optimizer's at 0.01, untuned."""
    *ours, styles = ours_and_styles
    table, theirs = errors(ours), published("fromage")
    figure, panels = plt.subplots(2, len(BENCHMARKS), figsize=(9.6, 5.2), sharey=True)
    for (above, below), name in zip(panels.T, BENCHMARKS, strict=True):
        _draw_scores(above, scores(table)[name], scores(theirs)[name], ("fromage", "adam", "sgd"), styles)
        _draw_trials(below, table, name, styles)
        above.set_title(f"{name}: {BENCHMARKS[name][0].label}", fontsize=9)
    panels[0][0].set(ylabel="best error / error")
    panels[1][0].set(ylabel="expected best of these")
    panels[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    seeds = max(one.runs["seed"].nunique() for one in ours)
    headline(
        figure,
        f"{ours[0].scale} protocols of the benchmarks, {seeds} seed{'s' * (seeds > 1)}; the best error is that of "
        "all optimizers and learning rates",
    )
    return figure


def madam_figure_1(*ours_and_styles: Any) -> Any:
    """A column a task of the Madam paper, whose scores are of test errors, hollow; ours where the benchmark is one of
    ours, the classifier's of training losses."""
    *ours, styles = ours_and_styles
    table, every = errors(ours), published_of_madam()
    table = table[table.index.isin(("madam", "adam", "sgd"), level="arm")]
    figure, panels = plt.subplots(1, len(every), figsize=(12, 3.2), sharey=True)
    for axes, (name, runs) in zip(panels, every.items(), strict=True):
        own = scores(table).get("classifier" if name == "CIFAR-10" else name)
        theirs = runs.set_index(["arm", "lr"])["value"]
        _draw_scores(axes, own, theirs.min() / theirs, ("madam", "adam", "sgd"), styles)
        axes.set_title(name if own is not None else f"{name} (not run)", fontsize=9)
    panels[0].set(ylabel="best error / error")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=7, loc="outside right center")
    headline(
        figure,
        f"{ours[0].scale} protocols of the benchmarks; the best error is that of all three optimizers",
    )
    return figure


def _draw_scores(
    axes: Any,
    ours: "pd.Series[float] | None",
    theirs: "pd.Series[float]",
    of_paper: Sequence[str],
    styles: Styles,
) -> None:
    """Scores by arm and learning rate, published ones of the paper's optimizers hollow."""
    arms = set() if ours is None else set(ours.index.get_level_values("arm")) & set(LABELS)
    for arm in sorted(arms):
        assert ours is not None
        values = ours.xs(arm, level="arm").dropna().sort_index()
        axes.plot(values.index, values, **styles.line(arm), label=styles.label(arm))
    for arm in of_paper:
        own = theirs.xs(arm, level="arm").dropna()
        look = styles.line(arm) | {"linestyle": "none", "markerfacecolor": "none", "markersize": 8}
        axes.plot(own.index, own, **look, alpha=0.6)
    axes.plot([], [], "o", color="0.4", markerfacecolor="none", markersize=8, label="as published")
    axes.set(xscale="log", xlabel="learning rate", ylim=(-0.03, 1.05))


def _draw_trials(axes: Any, table: pd.DataFrame, name: str, styles: Styles) -> None:
    for arm in sorted(set(table.index.get_level_values("arm")) & set(LABELS)):
        values = scores(table)[name].xs(arm, level="arm").dropna()
        trials = range(1, len(values) + 1)
        axes.plot(trials, [expected_best(values.tolist(), k) for k in trials], **styles.line(arm))
        if arm in ("fromage", "madam") and DEFAULT in values.index:
            axes.axhline(values[DEFAULT], color=styles.line(arm)["color"], linewidth=1, linestyle=":")
    axes.set(xlabel="learning rates tried", xlim=(0.8, 5.2), xticks=range(1, 6), ylim=(-0.03, 1.05))


REPORT = Report(
    title="Fromage, figure 3 (right); Madam, figure 1: all benchmarks",
    figures=tuple(
        Figure(suffix, first, draw, also=tuple(others), scales=(scale,))
        for scale in ("quick", "paper")
        for first, *others in [comparisons(scale)]
        for suffix, draw in (("", fromage_figure_3_right), ("-madam", madam_figure_1))
    ),
    claims=(*claims("paper"), *claims("quick")),
    cost={
        "paper": ("make reproduce-lr-comparison SCALE=paper", "60 runs of the benchmarks' paper scales: a GPU"),
        "quick": ("make reproduce-lr-comparison LAUNCHER=processes", "60 runs, three quarters of an hour, 2 CPU cores"),
    },
)
