"""What is compared, and the rules by which the claims of arXiv 2101.07367 are judged."""

import math

import pandas as pd

from reltrust.reporting.claims import Verdict
from reltrust.reporting.pairwise import paired
from reltrust.reporting.selection import Comparison, Measure, Selection

# 4 is the most that a loss counts: what no optimizer has.
META_LOSS = Measure("meta_loss", "meta-loss of the best", best="min", diverged=4.0, ties="meta_loss", bounds=(0, 4))
TRAINED = Comparison(META_LOSS, x="generations", arm="method", tuned="rate")

MARGIN = 0.02  # of the meta-loss: a difference up to it counts for nothing
FIRST = 0.25  # of the curve: what comes after it is late
MOST, HALF = 0.8, 0.5  # of the seeds


def of_methods(ours: Selection, *methods: str) -> list[pd.DataFrame]:
    """Of each method the runs at the selected rate, by seed, at the most generations that all of them have."""
    by_method = [ours.best[ours.best["method"] == method] for method in methods]
    common = set.intersection(*(set(runs["generations"]) for runs in by_method))
    return [runs[runs["generations"] == max(common, default=None)].set_index("seed") for runs in by_method]


def difference(a: "pd.Series[float]", b: "pd.Series[float]") -> tuple[int, float, float, float] | None:
    """n, mean and Student's 95 % interval of a - b over the seeds that both have; None with fewer than two."""
    values = (a - b).dropna().to_numpy(float)
    if len(values) < 2:
        return None
    mean, low, high, _ = paired(values)
    return len(values), mean, low, high


def judge_above_frozen(ours: Selection) -> tuple[str, Verdict]:
    """Whether a population that trains itself becomes better than one that is trained by itself as it began.

    The meta-loss of the best at the end, over paired seeds, each at its selected multiplier. reproduced: all of
    Student's 95 % interval of the difference is on its side; partly: the mean is; not reproduced: it is not; not run:
    fewer than two seeds.
    """
    frozen, own = of_methods(ours, "frozen", "self")
    found = difference(frozen["value"], own["value"])
    if found is None:
        return "-", Verdict.NOT_RUN
    n, mean, low, high = found
    text = (
        f"{own['value'].mean():.3f} against {frozen['value'].mean():.3f}, better by {mean:.3f} [{low:.3f}, {high:.3f}] "
        f"(n={n} seeds)"
    )
    return text, Verdict.REPRODUCED if low > 0 else Verdict.PARTLY if mean > 0 else Verdict.NOT_REPRODUCED


def judge_acceleration(ours: Selection) -> tuple[str, Verdict]:
    """Whether a population that trains itself is slow first and faster later.

    Steps as published: the multiplier is 1 at the beginning. Of eight equal parts of the curve of the best, that in
    which it falls most. reproduced: it comes after the first quarter in at least four of five seeds, and all of
    Student's 95 % interval of the whole fall is above 0; partly: in at least half of the seeds, or that interval
    reaches 0; not reproduced: in fewer, or the mean does not fall; not run: fewer than two seeds.
    """
    own = ours.runs[(ours.runs["method"] == "self") & (ours.runs["rate"] == 1)]
    own = own[own["generations"] == own["generations"].max()].set_index("seed")
    if len(own) < 2:
        return "-", Verdict.NOT_RUN
    fall = difference(own["start_loss"], own["value"])
    if fall is None:
        return "-", Verdict.NOT_RUN
    n, mean, low, high = fall
    late = int((own["steepest"] > FIRST).sum())
    text = f"steepest after the first quarter in {late} of {n} seeds; falls by {mean:.3f} [{low:.3f}, {high:.3f}]"
    if late / n < HALF or mean <= 0:
        return text, Verdict.NOT_REPRODUCED
    return text, Verdict.REPRODUCED if late / n >= MOST and low > 0 else Verdict.PARTLY


def judge_by_adam(ours: Selection) -> tuple[str, Verdict]:
    """Whether no hand-designed optimizer is needed: a population that trains itself is as good as one trained by Adam.

    The meta-loss of the best at the end, over paired seeds, Adam at the best of its learning rates. reproduced: the
    lower end of Student's 95 % interval of Adam's minus its own is at least -0.02; partly: the mean is; not reproduced:
    it is not; not run: fewer than two seeds.
    """
    adam, own = of_methods(ours, "adam", "self")
    found = difference(adam["value"], own["value"])
    if found is None:
        return "-", Verdict.NOT_RUN
    n, mean, low, high = found
    rate = float(adam["rate"].iloc[0])
    text = (
        f"{own['value'].mean():.3f} against {adam['value'].mean():.3f} at {rate:g}, better by {mean:.3f} "
        f"[{low:.3f}, {high:.3f}] (n={n} seeds)"
    )
    reproduced, partly = low >= -MARGIN, mean >= -MARGIN
    return text, Verdict.REPRODUCED if reproduced else Verdict.PARTLY if partly else Verdict.NOT_REPRODUCED


def judge_as_by_hand(ours: Selection) -> tuple[str, Verdict]:
    """Whether the learned optimizer is as good as Adam on what it was trained for, and on what it was not.

    The mean meta-loss over seeds beside that of Adam at the learning rate that is the best on the former. reproduced:
    on all four kinds of problems it is at most 0.02 above; partly: on some; not reproduced: on none; not run: one is
    missing.
    """
    (hand,), (own,) = of_methods(ours, "hand"), of_methods(ours, "self")
    if hand.empty or own.empty:
        return "-", Verdict.NOT_RUN
    texts, good = [], 0
    for column, words in TRIALS.items():
        mine, theirs = float(own[column].mean()), float(hand[column].iloc[0])
        if math.isnan(mine) or math.isnan(theirs):
            return "-", Verdict.NOT_RUN
        good += mine <= theirs + MARGIN
        texts.append(f"{words} {mine:.3f} against {theirs:.3f}")
    every = Verdict.REPRODUCED if good == len(TRIALS) else Verdict.PARTLY
    return f"{'; '.join(texts)} (n={len(own)} seeds)", every if good else Verdict.NOT_REPRODUCED


TRIALS = {
    "meta_loss": "as in training",
    "held_out_size": "larger",
    "held_out_data": "other data",
    "held_out_length": "longer",
}
