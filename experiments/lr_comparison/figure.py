"""Fromage paper, figure 3 (right), and Madam paper, figure 1: one learning rate on three benchmarks, or one for each.

- ``lr_comparison-<scale>``: best error / error against the learning rate, and against how many of them were tried;
- ``lr_comparison-<scale>-madam``: the former on the five tasks of the Madam paper.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from reltrust.records.artifacts import read_published
from reltrust.reporting.claims import Claim, Verdict
from reltrust.reporting.learning_rates import best_of
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Measure, Selection, describe
from reltrust.reporting.style import Styles, headline

from ..cifar_classifier import figure as classifier
from ..cifar_gan import verdicts as gan
from ..transformer_lm import figure as transformer

DEFAULT = 0.01  # of both papers' optimizers
CLOSE = 1.1  # times the lowest error is an error at most, to be as good
LABELS = {"fromage": "Fromage", "madam": "Madam", "adam": "Adam", "sgd": "SGD"}

# Of each benchmark: its name, what its error is, and by our scale whose runs are compared.
BENCHMARKS: dict[str, tuple[Measure, dict[str, tuple[str, str]]]] = {
    "classifier": (classifier.LOSS, {"quick": ("cifar_classifier", "quick"), "paper": ("cifar_classifier", "paper50")}),
    "GAN": (gan.DISTANCE, {"quick": ("cifar_gan", "quick"), "paper": ("cifar_gan", "paper")}),
    "transformer": (
        transformer.TRAIN,
        {"quick": ("transformer_lm", "quick"), "paper": ("transformer_lm", "paper10")},
    ),
}

AT_STEP = {"GAN": gan.EPOCH_100}


def comparisons(scale: str) -> tuple[Comparison, ...]:
    """One a benchmark."""
    return tuple(
        Comparison(
            measure, x="lr", tuned=None, step=AT_STEP.get(name) if scale == "paper" else None, source=sources[scale]
        )
        for name, (measure, sources) in BENCHMARKS.items()
    )


def published(paper: str) -> pd.DataFrame:
    """Errors as in :func:`errors`: of the Fromage paper those of our measures, of the Madam paper test errors."""
    losses = classifier.OF_FROMAGE if paper == "fromage" else classifier.OF_MADAM
    of_classifier = losses.assign(value=losses["value"] if paper == "fromage" else 1 - losses["value"])
    of_gan = gan.FID[gan.FID["version"] == f"{paper} tuning"].assign(arm=lambda runs: runs["optimizer"])
    texts = transformer.OF_FROMAGE if paper == "fromage" else transformer.OF_MADAM
    tables = (of_classifier, of_gan, texts.assign(value=texts["perplexity"]))
    return pd.concat(
        {name: runs.set_index(["arm", "lr"])["value"] for name, runs in zip(BENCHMARKS, tables, strict=True)}, axis=1
    )


def published_of_madam() -> dict[str, pd.DataFrame]:
    """Test errors of all tasks of the Madam paper, by arm and learning rate in the column ``value``."""
    of_classifiers = classifier.PUBLISHED[classifier.PUBLISHED["paper"] == "madam"]
    tables = {data: runs.assign(value=1 - runs["value"]) for data, runs in of_classifiers.groupby("data")}
    images = read_published(Path(__file__).with_name("published.csv"))
    imagenet = images.assign(value=1 - images["value"], arm=images["optimizer"])
    ours = published("madam")
    return {
        "CIFAR-10": tables["cifar10"],
        "CIFAR-100": tables["cifar100"],
        "ImageNet": imagenet,
        **{name: ours[name].rename("value").reset_index() for name in ("GAN", "transformer")},
    }


def errors(ours: Sequence[Selection]) -> pd.DataFrame:
    """The mean error over seeds, by arm and learning rate, a column a benchmark; NaN where it was not run."""
    return pd.concat(
        {
            name: describe(one).set_index(["arm", "lr"])["mean"]
            for name, one in zip(BENCHMARKS, ours, strict=True)
        },
        axis=1,
    )  # fmt: skip


def grid_of(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Of one arm: a row a learning rate that was tried on every benchmark."""
    own = table[table.index.get_level_values("arm") == arm].droplevel("arm")
    return own.dropna().sort_index(ascending=False)


def costs(grid: pd.DataFrame) -> "pd.Series[float]":
    """Of each learning rate, how many times the lowest error it costs, on the benchmark where it costs most."""
    return (grid / grid.min()).max(axis=1)


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """Best error / error, by arm and learning rate: 1 for the best of all, nearly 0 for a diverged run."""
    return table.min() / table


def expected_best(values: Sequence[float], trials: int) -> float:
    """The mean of the largest of so many different ones, drawn at random: exact.

    Of n values in descending order the i-th is the largest of k drawn ones in C(n - i, k - 1) of C(n, k) cases.
    """
    ordered, n = sorted(values, reverse=True), len(values)
    cases = (value * math.comb(n - i, trials - 1) for i, value in enumerate(ordered, start=1))
    return sum(cases) / math.comb(n, trials)


def trials_to_match(values: Sequence[float], target: float) -> int | None:
    """How many learning rates to try until the expected best score is at least this; None: all are too few."""
    return next((k for k in range(1, len(values) + 1) if expected_best(values, k) >= target), None)


# --- claims ----------------------------------------------------------------------------------------------------------


def in_words(grid: pd.DataFrame, lr: float) -> str:
    best = ", ".join(f"{value:g}" for value in grid.idxmin())
    return f"best {best}; {lr:g} everywhere costs x {costs(grid)[lr]:.3g}"


def judge_default(arm: str, *ours: Selection) -> tuple[str, Verdict]:
    """Whether one learning rate, 0.01, serves all benchmarks; over a grid of at least three, the same for all.

    reproduced: it is the best of the grid on each; partly: it costs at most 1.1 times the lowest error on each;
    not reproduced: it costs more; not run: a benchmark is missing.
    """
    grid = grid_of(errors(ours), arm)
    if DEFAULT not in grid.index or len(grid) < 3:
        return "-", Verdict.NOT_RUN
    if (grid.idxmin() == DEFAULT).all():
        return in_words(grid, DEFAULT), Verdict.REPRODUCED
    return in_words(grid, DEFAULT), Verdict.PARTLY if costs(grid)[DEFAULT] <= CLOSE else Verdict.NOT_REPRODUCED


def judge_own(arm: str, *ours: Selection) -> tuple[str, Verdict]:
    """Whether no learning rate serves all benchmarks; over a grid of at least three, the same for all.

    reproduced: the one that costs least costs more than 1.1 times the lowest error somewhere; partly: the benchmarks'
    best ones differ, and one costs less; not reproduced: one is the best on all; not run: a benchmark is missing.
    """
    grid = grid_of(errors(ours), arm)
    if len(grid) < 3:
        return "-", Verdict.NOT_RUN
    lr, cost = best_of(costs(grid), "min")
    text = in_words(grid, lr)
    if grid.idxmin().nunique() == 1:
        return text, Verdict.NOT_REPRODUCED
    return text, Verdict.REPRODUCED if cost > CLOSE else Verdict.PARTLY


def judge_trials(arm: str, tuned: str, *ours: Selection) -> tuple[str, Verdict]:
    """Whether another optimizer has to be tuned to match this one at 0.01.

    reproduced: on every benchmark the expected score of one trial is lower; partly: on two or more of them;
    not reproduced: on fewer; not run: a benchmark is missing.
    """
    table = scores(errors(ours))
    theirs, own = grid_of(table, tuned), grid_of(table, arm)
    if DEFAULT not in own.index or len(theirs) < 3:
        return "-", Verdict.NOT_RUN
    needed = {name: trials_to_match(theirs[name].tolist(), own[name][DEFAULT]) for name in table}
    text = ", ".join(f"{name} {'never' if trials is None else trials}" for name, trials in needed.items())
    count = sum(trials != 1 for trials in needed.values())
    verdict = Verdict.REPRODUCED if count == len(needed) else Verdict.PARTLY if count >= 2 else Verdict.NOT_REPRODUCED
    return f"{text} (of {len(theirs)} trials)", verdict


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
