"""What is compared, published and ours, and the rules by which the claims on learning rates are judged."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from reltrust.records.artifacts import read_published
from reltrust.reporting.claims import Verdict
from reltrust.reporting.learning_rates import best_of
from reltrust.reporting.selection import Comparison, Measure, Selection, describe

from ..cifar_classifier import figure as classifier
from ..cifar_gan import verdicts as gan
from ..transformer_lm import figure as transformer

DEFAULT = 0.01  # of both papers' optimizers
CLOSE = 1.1  # times the lowest error is an error at most, to be as good

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
