"""What is compared, and the rules by which the claims of arXiv 1911.13036 are judged."""

import math
from typing import NamedTuple

import numpy as np

from reltrust.reporting.claims import Verdict
from reltrust.reporting.pairwise import holm, paired
from reltrust.reporting.selection import Comparison, Measure, Selection

from .kernels import KERNELS

ACCURACY = Measure("test_accuracy", "held-out accuracy", best="max", diverged=0.0, ties="test_loss", bounds=(0.0, 1.0))
BY_SAMPLES = Comparison(ACCURACY, x="samples", arm=("top", "kernel", "size"))

FEW = (5, 10, 20)  # training images of each class, as in the abstract
ALL = 0
LANDMARKS, DENSE, NARROW = 32, 128, 8  # sizes of the tops that are compared, stated before any run
MARGIN = 0.02  # of accuracy: a difference up to it counts for nothing
LEVEL = 0.05


class Pair(NamedTuple):
    """The accuracy of one arm minus another's over the splits that both have."""

    n: int
    mean: float
    low: float
    high: float
    p: float


def nystrom(kernel: str, top: str = "nystrom") -> str:
    return f"{top} {kernel} {LANDMARKS}"


def dense(size: int) -> str:
    return f"dense none {size}"


def pair(ours: Selection, a: str, b: str, samples: int) -> Pair | None:
    """None with fewer than two splits in common."""
    runs = ours.best[ours.best["samples"] == samples]
    one, other = (runs[runs["arm"] == arm].groupby("seed")["value"].mean() for arm in (a, b))
    differences = (one - other).dropna().to_numpy(float)
    if len(differences) < 2:
        return None
    return Pair(len(differences), *paired(differences))


def top_parameters(ours: Selection, arm: str, samples: int) -> float:
    """NaN if it did not run, or every one diverged."""
    runs = ours.best[(ours.best["arm"] == arm) & (ours.best["samples"] == samples)]
    return float(runs["top_parameters"].dropna().max()) if "top_parameters" in runs else math.nan


def judge_as_good(ours: Selection) -> tuple[str, Verdict]:
    """Whether 32 landmarks are as good as 128 dense units from all training images, with few parameters; each kernel.

    As good: the lower end of Student's 95 % interval of the mean difference in accuracy, over splits, each top at its
    learning rate, is at least -0.02, and the top has at most a tenth of the dense one's parameters. reproduced: with
    each of the kernels; partly: with some; not reproduced: with none; not run: fewer than two kernels with two splits.
    """
    good, texts, n = 0, [], math.inf
    for kernel in KERNELS:
        if (found := pair(ours, nystrom(kernel), dense(DENSE), ALL)) is None:
            continue
        share = top_parameters(ours, nystrom(kernel), ALL) / top_parameters(ours, dense(DENSE), ALL)
        good += found.low >= -MARGIN and share <= 0.1
        texts.append(f"{kernel} {100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]")
        n = min(n, found.n)
    if len(texts) < 2:
        return "-", Verdict.NOT_RUN
    share = top_parameters(ours, nystrom(KERNELS[0]), ALL) / top_parameters(ours, dense(DENSE), ALL)
    text = f"points of accuracy, {', '.join(texts)}, with {share:.1%} of its parameters (n={n} splits)"
    every = Verdict.REPRODUCED if good == len(texts) else Verdict.PARTLY
    return text, every if good else Verdict.NOT_REPRODUCED


def judge_few(size: int, ours: Selection) -> tuple[str, Verdict]:
    """Whether 32 landmarks are better than a dense top from 5, 10 and 20 images of each class.

    Better: the paired t-test over splits, each top at its learning rate, corrected by Holm for all kernels and numbers
    of images, has p at most 0.05. reproduced: at each number of images some kernel is better, and none is worse;
    partly: some is better at some number; not reproduced: none is at any; not run: a number of images is missing.
    """
    pairs = {
        (samples, kernel): found
        for samples in FEW
        for kernel in KERNELS
        if (found := pair(ours, nystrom(kernel), dense(size), samples)) is not None
    }
    if {samples for samples, _ in pairs} != set(FEW):
        return "-", Verdict.NOT_RUN
    adjusted = dict(zip(pairs, holm(np.array([one.p for one in pairs.values()])), strict=True))
    better = [key for key, one in pairs.items() if adjusted[key] <= LEVEL and one.mean > 0]
    worse = [key for key, one in pairs.items() if adjusted[key] <= LEVEL and one.mean < 0]
    texts = []
    for samples in FEW:
        kernel = max((key for key in pairs if key[0] == samples), key=lambda key: pairs[key].mean)[1]
        one, count = pairs[samples, kernel], sum(key[0] == samples for key in better)
        least = min(found.mean for key, found in pairs.items() if key[0] == samples)
        texts.append(
            f"{samples} images: {100 * least:+.1f} to {100 * one.mean:+.1f} ({kernel}, p "
            f"{adjusted[samples, kernel]:.2g}; {count} of {sum(key[0] == samples for key in pairs)} better)"
        )
    text = f"points of accuracy, {'; '.join(texts)} (n={min(one.n for one in pairs.values())} splits)"
    if not better:
        return text, Verdict.NOT_REPRODUCED
    everywhere = {samples for samples, _ in better} == set(FEW) and not worse
    return text, Verdict.REPRODUCED if everywhere else Verdict.PARTLY


def judge_learned(kernel: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether a learned matrix is better than the inverse root of the kernel matrix, with 32 landmarks.

    Better: as in :func:`judge_few`, corrected for the numbers of images. reproduced: at some of them, and worse at
    none; partly: better at some, worse at others; not reproduced: better at none; not run: neither has two splits.
    """
    numbers = (*FEW, ALL)
    found = {n: pair(ours, nystrom(kernel), nystrom(kernel, "fixed"), n) for n in numbers}
    pairs = {n: one for n, one in found.items() if one is not None}
    if not pairs:
        return "-", Verdict.NOT_RUN
    adjusted = holm(np.array([one.p for one in pairs.values()]))
    signs = [
        0 if p > LEVEL else 1 if one.mean > 0 else -1 for p, one in zip(adjusted.tolist(), pairs.values(), strict=True)
    ]
    text = ", ".join(
        f"{'all' if n == ALL else n} images {100 * one.mean:+.1f} (p {p:.2g})"
        for (n, one), p in zip(pairs.items(), adjusted.tolist(), strict=True)
    )
    text = f"points of accuracy, {text} (n={min(one.n for one in pairs.values())} splits)"
    if 1 not in signs:
        return text, Verdict.NOT_REPRODUCED
    return text, Verdict.PARTLY if -1 in signs else Verdict.REPRODUCED
