"""Fromage paper, figure 3 (right), and Madam paper, figure 1: perplexity of a transformer against the learning rate.

- ``transformer_lm-<scale>``: training and validation perplexity against the learning rate, one line an optimizer.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from reltrust.records.artifacts import read_published
from reltrust.reporting.claims import Claim, Verdict
from reltrust.reporting.learning_rates import best_of, draw_learning_rates, judge_best
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Measure, Selection, describe
from reltrust.reporting.style import Styles, headline

OVERFLOW = math.log(1e10)  # what a diverged run counts as, the authors' placeholder
EPOCH_10 = 29_840  # steps on WikiText-2, where the authors compared learning rates
CLOSE, NEAR = 0.1, 0.25  # relative differences of a reproduced perplexity, and of one that is partly

TRAIN = Measure("train_loss", "training perplexity", best="min", diverged=OVERFLOW, ties="train_loss", exp=True)
VALID = Measure("valid_loss", "validation perplexity", best="min", diverged=OVERFLOW, ties="train_loss", exp=True)
BY_LR = {measure: Comparison(measure, x="lr", tuned=None) for measure in (TRAIN, VALID)}

# The Fromage paper's is the training perplexity in epoch 10. The Madam paper does not say of which text its is.
PUBLISHED = read_published(Path(__file__).with_name("published.csv")).assign(status="finished", seed=0)
PUBLISHED["arm"] = PUBLISHED["optimizer"]
PUBLISHED["train_loss"] = np.log(PUBLISHED["perplexity"])
OF_FROMAGE, OF_MADAM = (PUBLISHED[PUBLISHED["paper"] == paper] for paper in ("fromage", "madam"))
LABELS = {"fromage": "Fromage", "madam": "Madam", "adam": "Adam", "sgd": "SGD"}


# --- claims ----------------------------------------------------------------------------------------------------------


def judge_value(arm: str, lr: float, published: float, ours: Selection) -> tuple[str, Verdict]:
    """Whether a perplexity is the published one, of which there is one seed.

    reproduced: within a tenth of it; partly: within a quarter; not reproduced: further away.
    """
    cells = describe(ours)
    found = cells[(cells["arm"] == arm) & (cells["lr"] == lr)]
    if found.empty:
        return "-", Verdict.NOT_RUN
    mean, n = float(found["mean"].iloc[0]), int(found["n"].iloc[0])
    away = abs(mean / published - 1)
    verdict = Verdict.REPRODUCED if away <= CLOSE else Verdict.PARTLY if away <= NEAR else Verdict.NOT_REPRODUCED
    return f"{mean:.4g} (n={n})", verdict


def best_published(runs: pd.DataFrame, arm: str) -> tuple[float, float]:
    """The learning rate with the lowest perplexity, and that."""
    return best_of(runs[runs["arm"] == arm].set_index("lr")["perplexity"], "min")


def best_lrs(*scales: str, train: Comparison, valid: Comparison) -> list[Claim]:
    """That 0.01 is the learning rate for Fromage and for Madam."""
    return [
        Claim(
            text=f"{LABELS[arm]}'s best learning rate for a transformer is {lr:g}, as on the other benchmarks",
            comparison=comparison,
            scales=scales,
            published=f"{lr:g}: {value:g}",
            judge=partial(judge_best, arm, lr),
            finding="0.01 is Fromage's and Madam's best learning rate for a transformer, as on the other benchmarks",
            label=f"{LABELS[arm]}, {comparison.measure.label}",
            arms=(arm,),
        )
        for arm, runs, comparison in (("fromage", OF_FROMAGE, train), ("madam", OF_MADAM, valid))
        for lr, value in [best_published(runs, arm)]
    ]


def values(*scales: str, train: Comparison, valid: Comparison) -> list[Claim]:
    """The perplexities at the published best learning rates."""
    return [
        Claim(
            text=f"{LABELS[arm]} {lr:g}, {comparison.measure.label} in epoch 10",
            comparison=comparison,
            scales=scales,
            published=f"{value:g}" + ("" if runs is OF_FROMAGE else " (the text is not stated)"),
            judge=partial(judge_value, arm, lr, value),
            finding="The perplexities in epoch 10 at the best learning rates",
            label=f"{LABELS[arm]} {lr:g}, {comparison.measure.label.split()[0]}",
            arms=(arm,),
        )
        for runs, comparison, arms in (
            (OF_FROMAGE, train, ("fromage", "adam", "sgd")),
            (OF_MADAM, valid, ("madam", "adam", "sgd")),
        )
        for arm in arms
        for lr, value in [best_published(runs, arm)]
    ]


# --- figures ---------------------------------------------------------------------------------------------------------


def title(selection: Selection) -> str:
    first, seeds = selection.runs.iloc[0], selection.runs["seed"].nunique()
    return (
        f"{selection.scale} protocol: {first['data']}, width {first['width']}, {first['layers']} layers, "
        f"batch {first['batch_size']} x {first['bptt']}, {first['steps']:,} steps, {seeds} seed{'s' * (seeds > 1)}"
    )


def fromage_figure_3_right_transformer(train: Selection, valid: Selection, styles: Styles) -> Any:
    """Perplexity against the learning rate, training beside validation, the published points hollow."""
    as_published = train.scale in ("paper", "paper10")
    published = [(runs, "perplexity") if as_published else None for runs in (OF_FROMAGE, OF_MADAM)]
    figure = draw_learning_rates([train, valid], styles, published, sharey=True, yscale="log")
    figure.axes[0].set(ylabel="perplexity")
    figure.axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    figure.axes[0].yaxis.set_major_formatter("{x:g}")
    figure.axes[0].yaxis.set_minor_formatter(NullFormatter())
    headline(figure, title(train))
    return figure


AT_END = {"train": BY_LR[TRAIN], "valid": BY_LR[VALID]}
AT_EPOCH_10 = {
    "train": Comparison(TRAIN, x="lr", tuned=None, step=EPOCH_10),
    "valid": Comparison(VALID, x="lr", tuned=None, step=EPOCH_10),
}

REPORT = Report(
    title="Fromage, figure 3 (right); Madam, figure 1: transformer",
    figures=(
        Figure(
            "",
            AT_END["train"],
            fromage_figure_3_right_transformer,
            also=(AT_END["valid"],),
            scales=("quick", "paper10", "smoke"),
        ),
        Figure(
            "",
            AT_EPOCH_10["train"],
            fromage_figure_3_right_transformer,
            also=(AT_EPOCH_10["valid"],),
            scales=("paper",),
        ),
    ),
    claims=(
        *values("paper10", **AT_END),
        *best_lrs("paper10", "quick", **AT_END),
        *values("paper", **AT_EPOCH_10),
        *best_lrs("paper", **AT_EPOCH_10),
    ),
    cost={
        "paper": ("make reproduce-transformer-lm SCALE=paper SEEDS=3", "69 runs of 59,680 steps: a GPU"),
        "paper10": (
            "make reproduce-transformer-lm SCALE=paper10 LAUNCHER=processes",
            "29,840 steps a run: 3 to 4 hours of a CPU core each",
        ),
        "quick": ("make reproduce-transformer-lm", "about 6 minutes, 2 CPU cores"),
    },
    published={"paper10": OF_FROMAGE, "paper": OF_FROMAGE},
    elsewhere=("bits",),  # madam_bits
)
