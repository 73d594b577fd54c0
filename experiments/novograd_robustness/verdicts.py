"""Widths of ranges of learning rates, and the rules by which the claims of arXiv 1905.11286 are judged."""

import math
from typing import NamedTuple

import numpy as np

from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import Comparison, Measure, Selection

# A diverged run counts as far worse than chance: log 10 = 2.3 nats of digits, log 12,769 = 9.5 of words.
LOSS = Measure(
    "valid_loss", "validation loss, nats", best="min", diverged=100.0, ties="train_loss", bounds=(0, math.inf)
)
BY_LR = Comparison(LOSS, x="lr", arm=("arm", "init_scale"), tuned=None)
STATE = Measure(
    "state_novograd", "bytes of state a parameter", best="min", diverged=100.0, ties="state_adamw", bounds=(0, math.inf)
)
BY_STATE = Comparison(STATE, x="width", arm="model", tuned=None)

OURS = "novograd"
RIVALS = ("adamw", "sgd_momentum")  # those of the abstract
NAMES = {
    "novograd": "NovoGrad",
    "adamw": "AdamW",
    "sgd_momentum": "SGD (momentum 0.9)",
    "fromage": "Fromage",
    "madam": "Madam",
}
NEAR = 1.05  # times the lowest loss is a good one at most


class Range(NamedTuple):
    """Of the learning rates of one optimizer at one scale of its initial weights."""

    best: float  # the lowest median loss
    lr: float  # where it is
    low: float  # the ends of the good range
    high: float
    open: bool  # it reaches an end of the grid: its width is a lower bound

    @property
    def width(self) -> float:
        """In decades."""
        return math.log10(self.high / self.low)


def good_range(lrs: np.ndarray, losses: np.ndarray) -> Range:
    """The learning rates around the best one at which the loss is within 5 % of the lowest.

    Between neighbours of the grid the logarithm of the loss is taken as linear in the logarithm of the learning rate.

    Args:
        lrs: ascending, (n,).
        losses: positive, at each of them.
    """
    x, y = np.log10(lrs), np.log(losses)
    place = int(y.argmin())
    limit = y[place] + math.log(NEAR)
    ends, at_end = [], False
    for step in (-1, 1):
        here = place
        while 0 <= here + step < len(x) and y[here + step] <= limit:
            here += step
        if not 0 <= here + step < len(x):
            ends.append(x[here])
            at_end = True
        else:
            share = (limit - y[here]) / (y[here + step] - y[here])
            ends.append(x[here] + share * (x[here + step] - x[here]))
    low, high = (10.0**end for end in ends)
    return Range(float(np.exp(y[place])), float(lrs[place]), float(low), float(high), at_end)


def medians(ours: Selection) -> dict[tuple[str, float], tuple[np.ndarray, np.ndarray]]:
    """By optimizer and scale of the initial weights: learning rates, ascending, and the median loss over seeds."""
    found = {}
    for (optimizer, scale), runs in ours.best.groupby(["optimizer", "init_scale"]):
        values = runs.groupby("lr")["value"].median().sort_index()
        found[str(optimizer), float(str(scale))] = (values.index.to_numpy(float), values.to_numpy(float))
    return found


def ranges(ours: Selection) -> dict[tuple[str, float], Range]:
    """Of each with at least three learning rates."""
    return {key: good_range(*curve) for key, curve in medians(ours).items() if len(curve[0]) >= 3}


def scales_of(found: dict[tuple[str, float], Range]) -> list[float]:
    """Scales of the initial weights at which NovoGrad and both of its rivals ran."""
    every = [{scale for name, scale in found if name == optimizer} for optimizer in (OURS, *RIVALS)]
    return sorted(set.intersection(*every))


def seeds_of(ours: Selection) -> int:
    return int(ours.best.groupby(["arm", "lr"])["seed"].nunique().min())


def in_words(width: Range) -> str:
    return f"{'≥' if width.open else ''}{width.width:.2f}"


def judge_width(ours: Selection) -> tuple[str, Verdict]:
    """Whether NovoGrad's range of good learning rates is at least as wide as AdamW's and SGD's with momentum.

    Good: the median validation loss over seeds is within 5 % of the optimizer's lowest. reproduced: at every scale of
    the initial weights; partly: in the mean over scales, or no more than by what was tried of a range of theirs that
    goes on; not reproduced: it is narrower than one of theirs; not run: one is missing.
    """
    found = ranges(ours)
    if not (scales := scales_of(found)):
        return "-", Verdict.NOT_RUN
    text = "; ".join(
        f"{NAMES[name]} {', '.join(in_words(found[name, scale]) for scale in scales)}"
        for name in NAMES
        if all((name, scale) in found for scale in scales)
    )
    at = ", ".join(f"{scale:g}" for scale in scales)
    text = f"decades at initial weights x {at}: {text} (n={seeds_of(ours)} seeds)"
    pairs = [(found[OURS, scale], found[rival, scale]) for rival in RIVALS for scale in scales]
    if all(ours.width >= theirs.width and not theirs.open for ours, theirs in pairs):
        return text, Verdict.REPRODUCED
    means = {name: float(np.mean([found[name, scale].width for scale in scales])) for name in (OURS, *RIVALS)}
    return text, Verdict.PARTLY if means[OURS] >= max(means[one] for one in RIVALS) else Verdict.NOT_REPRODUCED


def cost_of_init(found: dict[tuple[str, float], Range], curves: dict[tuple[str, float], tuple[np.ndarray, np.ndarray]],
                 optimizer: str, scales: list[float]) -> float:  # fmt: skip
    """The loss at the learning rate that is best at scale 1, over the lowest at a scale, where that is largest."""
    lr = found[optimizer, 1.0].lr
    costs = []
    for scale in scales:
        lrs, losses = curves[optimizer, scale]
        costs.append(float(losses[lrs == lr][0]) / found[optimizer, scale].best if lr in lrs else math.inf)
    return max(costs)


def judge_init(ours: Selection) -> tuple[str, Verdict]:
    """Whether NovoGrad's learning rate depends less on the scale of the initial weights than AdamW's and SGD's.

    Looked at is the learning rate that is best from weights x 1: its median loss from weights x 0.3 and x 3, as a
    multiple of the optimizer's lowest loss there, the larger of both. reproduced: NovoGrad's is at most each of the
    others'; partly: at most one of theirs; not reproduced: it is larger than both; not run: a scale is missing.
    """
    found, curves = ranges(ours), medians(ours)
    scales = scales_of(found)
    if 1.0 not in scales or len(scales) < 3:
        return "-", Verdict.NOT_RUN
    costs = {
        name: cost_of_init(found, curves, name, scales)
        for name in NAMES
        if all((name, scale) in found for scale in scales)
    }
    text = "costs " + ", ".join(f"{NAMES[name]} x {cost:.2f}" for name, cost in costs.items())
    text += f" (n={seeds_of(ours)} seeds)"
    count = sum(costs[OURS] <= costs[rival] for rival in RIVALS)
    return text, (Verdict.NOT_REPRODUCED, Verdict.PARTLY, Verdict.REPRODUCED)[count]


def judge_par(ours: Selection) -> tuple[str, Verdict]:
    """Whether NovoGrad, at its best learning rate, is on par with tuned AdamW and tuned SGD with momentum, or better.

    On par: its lowest median validation loss is at most 1.05 times the lower of theirs. reproduced: at every scale of
    the initial weights; partly: at some; not reproduced: at none; not run: one of them is missing.
    """
    found = ranges(ours)
    if not (scales := scales_of(found)):
        return "-", Verdict.NOT_RUN
    ratios = [found[OURS, scale].best / min(found[rival, scale].best for rival in RIVALS) for scale in scales]
    text = ", ".join(
        f"x {ratio:.2f} ({found[OURS, scale].best:.3g} at weights x {scale:g})"
        for ratio, scale in zip(ratios, scales, strict=True)
    )
    text = f"loss over the better one's {text} (n={seeds_of(ours)} seeds)"
    good = sum(ratio <= NEAR for ratio in ratios)
    every = Verdict.REPRODUCED if good == len(ratios) else Verdict.PARTLY
    return text, every if good else Verdict.NOT_REPRODUCED


def judge_state(ours: Selection) -> tuple[str, Verdict]:
    """Whether NovoGrad keeps half of the bytes that AdamW keeps.

    reproduced: between 0.49 and 0.51 of them; partly: less than 0.75; not reproduced: more; not run: not counted.
    """
    if ours.best.empty:
        return "-", Verdict.NOT_RUN
    row = ours.best.iloc[0]
    text = ", ".join(f"{NAMES[name]} {row[f'state_{name}']:.3g}" for name in NAMES)
    share = float(row["state_novograd"] / row["state_adamw"])
    text = f"bytes a parameter: {text}"
    if 0.49 <= share <= 0.51:
        return text, Verdict.REPRODUCED
    return text, Verdict.PARTLY if share < 0.75 else Verdict.NOT_REPRODUCED
