"""Fromage paper, figure 3 (right), and Madam paper, figure 1: a classifier against the learning rate.

- ``cifar_classifier-<scale>``: training loss and test accuracy against the learning rate, one line an optimizer.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from reltrust.records.artifacts import read_published
from reltrust.reporting.claims import Claim
from reltrust.reporting.learning_rates import best_of, draw_learning_rates, judge_best
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Measure, Selection
from reltrust.reporting.style import Styles, headline

DIVERGED = 1000.0  # what the training loss of a diverged run counts as, the authors' placeholder

LOSS = Measure("train_loss", "training loss", best="min", diverged=DIVERGED, ties="test_loss")
ACCURACY = Measure("test_accuracy", "test accuracy", best="max", diverged=0.0, ties="test_loss", bounds=(0.0, 1.0))
BY_LOSS, BY_ACCURACY = (Comparison(measure, x="lr", tuned=None) for measure in (LOSS, ACCURACY))

# The Fromage paper's are training losses in epoch 50, the Madam paper's test accuracies after its budget for tuning.
PUBLISHED = read_published(Path(__file__).with_name("published.csv")).assign(status="finished", seed=0)
PUBLISHED["arm"] = PUBLISHED["optimizer"]
OF_FROMAGE = PUBLISHED[PUBLISHED["paper"] == "fromage"].assign(train_loss=lambda runs: runs["value"])
OF_MADAM = PUBLISHED[(PUBLISHED["paper"] == "madam") & (PUBLISHED["data"] == "cifar10")]
OF_MADAM = OF_MADAM.assign(test_accuracy=OF_MADAM["value"])
LABELS = {"fromage": "Fromage", "madam": "Madam"}


def claim(arm: str, runs: pd.DataFrame, comparison: Comparison, *scales: str) -> Claim:
    """That the optimizer's published best learning rate is its best here."""
    lr, value = best_of(runs[runs["arm"] == arm].set_index("lr")["value"], comparison.measure.best)
    text = f"{LABELS[arm]}'s best learning rate for a classifier is {lr:g}, as on the other benchmarks"
    return Claim(
        text=text,
        comparison=comparison,
        scales=scales,
        published=f"{lr:g}: {value:.4g} ({comparison.measure.label})",
        judge=partial(judge_best, arm, lr),
        finding=text,
        arms=(arm,),
    )


def title(selection: Selection) -> str:
    first, seeds = selection.runs.iloc[0], selection.runs["seed"].nunique()
    examples = "" if pd.isna(first["examples"]) else f" ({first['examples']:,.0f} images)"
    return (
        f"{selection.scale} protocol: {first['data']}{examples}, {first['architecture']}, {first['channels']} channels"
        f", batch {first['batch_size']}, {first['steps']:,} steps, {seeds} seed{'s' * (seeds > 1)}"
    )


def fromage_figure_3_right_classifier(loss: Selection, accuracy: Selection, styles: Styles) -> Any:
    """Training loss and test accuracy against the learning rate, the published points hollow."""
    published = [
        (OF_FROMAGE, "train_loss") if loss.scale == "paper50" else None,
        (OF_MADAM, "test_accuracy") if loss.scale == "madam" else None,
    ]
    figure = draw_learning_rates([loss, accuracy], styles, published)
    figure.axes[0].set(yscale="log", ylabel=LOSS.label)
    figure.axes[1].set(ylim=(0, 1.02), ylabel=ACCURACY.label)
    headline(figure, title(loss))
    return figure


REPORT = Report(
    title="Fromage, figure 3 (right); Madam, figure 1: classifier",
    figures=(Figure("", BY_LOSS, fromage_figure_3_right_classifier, also=(BY_ACCURACY,)),),
    claims=(
        claim("fromage", OF_FROMAGE, BY_LOSS, "paper50", "small", "quick"),
        claim("madam", OF_MADAM, BY_ACCURACY, "madam", "small"),
    ),
    cost={
        "paper50": ("make reproduce-cifar-classifier SCALE=paper50", "20 runs of 19,550 steps: a GPU"),
        "madam": ("make reproduce-cifar-classifier SCALE=madam", "20 runs of 14,700 steps: a GPU"),
        "small": (
            "make reproduce-cifar-classifier SCALE=small LAUNCHER=processes",
            "12 runs of 1,560 steps: an hour, 2 CPU cores",
        ),
        "quick": ("make reproduce-cifar-classifier", "about 3 minutes, 2 CPU cores"),
    },
    published={"paper50": OF_FROMAGE},
    elsewhere=("bits",),  # madam_bits
)
