"""Of B-bit Madam on every benchmark: whose runs are compared, what their errors are, and the rules of the verdicts."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from reltrust.reporting.claims import Verdict, judge_all
from reltrust.reporting.selection import Comparison, Measure, Selection

from ..cifar_classifier import figure as classifier
from ..cifar_gan import verdicts as gan
from ..transformer_lm import figure as transformer
from .representation import Strategy, bits_of, strategies

LR = 0.01  # of FP32 Madam, the paper's on every benchmark
CLOSE = 1.1  # times FP32 Madam's is an error at most, to be close to it
SHARED = ("p_scale", "g_bound", "beta")  # what B-bit Madam has as FP32 Madam has it

PERCEPTRON = Measure(
    "test_accuracy", "test accuracy", best="max", diverged=0.0, ties="train_loss", bounds=(0.0, 1.0)
)  # as training accuracies are 1


class Benchmark(NamedTuple):
    """One panel: whose runs are compared by what."""

    source: tuple[str, str]  # experiment and scale
    measure: Measure
    x: str  # a column that has one value, or ``at``
    sgd: str  # the arm that stands for SGD
    weights: int  # all that are trained
    at: float | None = None

    @property
    def comparison(self) -> Comparison:
        return Comparison(self.measure, x=self.x, source=self.source)

    @property
    def label(self) -> str:
        """Of what is called its error: the measure, or what is missing from it to 1."""
        return self.measure.label.replace("accuracy", "error")


BENCHMARKS: dict[str, dict[str, Benchmark]] = {
    "quick": {
        "perceptron": Benchmark(("mlp_depth", "bits"), PERCEPTRON, "hidden_layers", "sgd_momentum", 25_610, at=6),
        "classifier": Benchmark(("cifar_classifier", "bits"), classifier.LOSS, "channels", "sgd", 175_202),
        "GAN": Benchmark(("cifar_gan", "bits"), gan.DISTANCE, "channels", "sgd", 106_286),
        "transformer": Benchmark(("transformer_lm", "bits"), transformer.VALID, "width", "sgd", 842_913),
    },
    "paper": {
        "classifier": Benchmark(
            ("cifar_classifier", "madam"), classifier.ACCURACY, "channels", "sgd_momentum", 11_164_362
        ),
        "GAN": Benchmark(("cifar_gan", "paper"), gan.DISTANCE, "channels", "sgd", 4_557_670),
        "transformer": Benchmark(("transformer_lm", "paper"), transformer.VALID, "width", "sgd", 13_828_478),
    },
}
INIT = {"quick": "quantize", "paper": "random"}  # as published: magnitudes are drawn anew


def comparisons(scale: str) -> dict[str, Comparison]:
    """One a benchmark."""
    return {name: one.comparison for name, one in BENCHMARKS[scale].items()}


# --- errors ----------------------------------------------------------------------------------------------------------


def errors_of(runs: pd.DataFrame, measure: Measure) -> "pd.Series[float]":
    """Of each run: what it is compared by, where less is better."""
    return 1 - runs["value"] if measure.best == "max" else runs["value"]


def references(ours: Selection, of: Benchmark) -> dict[str, "pd.Series[float]"]:
    """The errors, one a seed, of FP32 Madam at its one learning rate and of SGD and Adam at their selected ones.

    Those that were not run are absent.
    """
    of_madam = ours.runs[(ours.runs["arm"] == "madam") & (ours.runs["lr"] == LR)]
    rows = {"madam": of_madam} | {arm: ours.best[ours.best["arm"] == arm] for arm in (of.sgd, "adam")}
    return {arm: errors_of(_at(every, of), of.measure) for arm, every in rows.items() if len(_at(every, of))}


def _at(runs: pd.DataFrame, of: Benchmark) -> pd.DataFrame:
    return runs if of.at is None or runs.empty else runs[runs[of.x] == of.at]


def points(ours: Selection, of: Benchmark, init: str) -> pd.DataFrame:
    """A row a run of B-bit Madam, of whole bits, that differs from FP32 Madam in its representation alone: ``bits``,
    ``levels``, ``base_lr``, ``seed``, ``error``."""
    runs = _at(ours.best[ours.best["optimizer"] == "integer_madam"], of)
    madam = ours.runs[ours.runs["arm"] == "madam"]
    if runs.empty or madam.empty:
        return pd.DataFrame(columns=["bits", "levels", "base_lr", "seed", "error"])
    usual = json.loads(madam["hyperparameters"].iloc[0])
    own = [json.loads(text) for text in runs["hyperparameters"]]
    same = [
        one["init"] == init and one["levels"].bit_count() == 1 and all(one[key] == usual[key] for key in SHARED)
        for one in own
    ]
    settings = pd.DataFrame(own, index=runs.index)[["levels", "base_lr"]]
    found = settings.assign(seed=runs["seed"], error=errors_of(runs, of.measure))[same]
    return found.assign(bits=[bits_of(count) for count in found["levels"]])


def along(found: pd.DataFrame, strategy: Strategy | None) -> pd.DataFrame:
    """The points of a strategy, or, without one, all."""
    if strategy is None or found.empty:
        return found
    return found[[strategy in strategies(*pair) for pair in zip(found["levels"], found["base_lr"], strict=True)]]


def error_at(bits: int, found: pd.DataFrame, strategy: Strategy | None) -> float | None:
    """The mean error over seeds, None if it was not run."""
    own = along(found, strategy)
    own = own[own["bits"] == bits]
    return None if own.empty else float(own["error"].mean())


def ratio(a: float, b: float) -> float:
    """a / b, and 1 where both are 0."""
    return a / b if b else (1.0 if a == b else math.inf)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def _compared(
    scale: str, names: Sequence[str], ours: Sequence[Selection], strategy: Strategy | None, bits: int, to: str
) -> dict[str, float] | None:
    """By benchmark, how many times the error of a reference it is; None if one is missing.

    Args:
        to: ``madam``, or ``best`` for the lower one of SGD and Adam.
    """
    found = {}
    for name, selection in zip(names, ours, strict=True):
        of = BENCHMARKS[scale][name]
        means = {arm: float(errors.mean()) for arm, errors in references(selection, of).items()}
        error = error_at(bits, points(selection, of, INIT[scale]), strategy)
        wanted = ("madam",) if to == "madam" else (of.sgd, "adam")
        if error is None or not set(wanted) <= set(means):
            return None
        found[name] = ratio(error, min(means[arm] for arm in wanted))
    return found


def _in_words(ratios: Mapping[str, float], ours: Sequence[Selection]) -> str:
    seeds = [int(one.best["seed"].nunique()) for one in ours]
    n = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    return ", ".join(f"{name} x {value:.3g}" for name, value in ratios.items()) + f" (n={n})"


def judge_close(scale: str, names: Sequence[str], bits: int, to: str, *ours: Selection) -> tuple[str, Verdict]:
    """Whether Madam of so many bits stays close to a reference: FP32 Madam at the learning rate 0.01, or the better one
    of SGD and Adam. Said of each benchmark is how many times the reference's mean error it has.

    reproduced: at most 1.1 times on every benchmark; partly: on half of them or more; not reproduced: on fewer;
    not run: a benchmark is missing.
    """
    ratios = _compared(scale, names, ours, Strategy.RANGE if scale == "quick" else None, bits, to)
    if ratios is None:
        return "-", Verdict.NOT_RUN
    return _in_words(ratios, ours), judge_all(sum(value <= CLOSE for value in ratios.values()), len(ratios), partly=0.5)


def judge_loses(scale: str, names: Sequence[str], bits: int, *ours: Selection) -> tuple[str, Verdict]:
    """Whether Madam of so many bits, in a fixed dynamic range or as published, is worse than FP32 Madam.

    reproduced: more than 1.1 times its mean error on every benchmark; partly: on half of them or more; not reproduced:
    on fewer; not run: a benchmark is missing.
    """
    ratios = _compared(scale, names, ours, Strategy.RANGE if scale == "quick" else None, bits, "madam")
    if ratios is None:
        return "-", Verdict.NOT_RUN
    return _in_words(ratios, ours), judge_all(sum(value > CLOSE for value in ratios.values()), len(ratios), partly=0.5)


def judge_strategies(scale: str, names: Sequence[str], bits: int, *ours: Selection) -> tuple[str, Verdict]:
    """Whether, of so many bits, a fixed dynamic range loses less than a fixed base precision. Said of each benchmark is
    how many times the mean error of the other one the fixed range has.

    reproduced: less than 1 / 1.1 times on every benchmark; partly: on half of them or more; not reproduced: on fewer;
    not run: a benchmark is missing.
    """
    both = {one: _compared(scale, names, ours, one, bits, "madam") for one in Strategy}
    of_range, of_precision = both[Strategy.RANGE], both[Strategy.PRECISION]
    if of_range is None or of_precision is None:
        return "-", Verdict.NOT_RUN
    ratios = {name: ratio(of_range[name], of_precision[name]) for name in names}
    return _in_words(ratios, ours), judge_all(
        sum(value < 1 / CLOSE for value in ratios.values()), len(ratios), partly=0.5
    )
