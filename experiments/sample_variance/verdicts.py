"""What is compared, and the rules by which the claims of arXiv 1902.04942 are judged."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from reltrust.reporting.claims import Verdict, judge_order
from reltrust.reporting.selection import Comparison, Measure, Selection
from reltrust.reporting.statistics import Outcomes, bootstrap_difference

from . import theory

RATIO = Measure("forward_p50", "v / (v + m²)", best="max", diverged=0.0, ties="forward_p50", bounds=(0, 1))
BY_WIDTH = Comparison(RATIO, x="width", arm="network", tuned=None)
# A diverged run counts as worse than chance, log 10 = 2.3 nats, by far.
LOSS = Measure("train_loss", "training loss", best="min", diverged=100.0, ties="test_loss", bounds=(0, math.inf))
AT_END = Comparison(LOSS, x="depth", arm="network")
EARLY_STEP = 150
EARLY = Comparison(LOSS, x="depth", arm="network", step=EARLY_STEP)


def layers(ours: Selection, network: str) -> dict[int, pd.DataFrame]:
    """By width, narrowest first, the rows of the network's layers, ``step`` their number; the first seed's."""
    runs = ours.best[ours.best["network"] == network].sort_values(["width", "seed"])
    found = {}
    for width, own in runs.groupby("width"):
        curve = ours.curves[ours.curves["run"] == own["run"].iloc[0]]
        if not curve.empty:
            found[int(str(width))] = curve.sort_values("step")
    return found


def inputs_of(ours: Selection) -> int:
    return int(ours.runs["inputs"].iloc[0])


def judge_decay(ours: Selection) -> tuple[str, Verdict]:
    """Whether He's sample variance decays as the recursion says.

    reproduced: at the greatest width the median share is within a quarter of theory's in each of the first 20 layers,
    and below a tenth in the last; partly: it is below a tenth in the last; not reproduced: it is not; not run: no
    layers.
    """
    if not (found := layers(ours, "he")):
        return "-", Verdict.NOT_RUN
    width, rows = max(found.items())
    expected = np.array(theory.forward_ratios(len(rows), inputs_of(ours)))
    ratios = rows["forward_p50"].to_numpy(float)
    near = np.abs(np.log(ratios / expected))[:20] <= math.log(1.25)
    text = f"width {width}: {ratios[-1]:.3g} in layer {len(rows)}, theory {expected[-1]:.3g}; " + (
        f"{near.sum()} of {len(near)} layers within a quarter (n={int(ours.runs['networks'].min())} networks)"
    )
    if ratios[-1] >= 0.1:
        return text, Verdict.NOT_REPRODUCED
    return text, Verdict.REPRODUCED if near.all() else Verdict.PARTLY


def judge_width(ours: Selection) -> tuple[str, Verdict]:
    """Whether finite width comes nearer to theory as it grows.

    The distance is the mean over layers of |log(median share / theory)|. reproduced: it falls with every width; partly:
    it is less at the greatest than at the smallest; not reproduced: it is not; not run: fewer than two widths.
    """
    found = layers(ours, "he")
    if len(found) < 2:
        return "-", Verdict.NOT_RUN
    distances = []
    for rows in found.values():
        expected = np.array(theory.forward_ratios(len(rows), inputs_of(ours)))
        distances.append(float(np.mean(np.abs(np.log(rows["forward_p50"].to_numpy(float) / expected)))))
    text = ", ".join(f"{distance:.3f} at width {width}" for width, distance in zip(found, distances, strict=True))
    if all(after < before for before, after in itertools.pairwise(distances)):
        return f"mean log-distance {text}", Verdict.REPRODUCED
    better = distances[-1] < distances[0]
    return f"mean log-distance {text}", Verdict.PARTLY if better else Verdict.NOT_REPRODUCED


def judge_kept(network: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether sample variance is kept to the last layer.

    reproduced: at every width the median share there is at least 0.9; partly: at least 0.5; not reproduced: less; not
    run: no layers.
    """
    if not (found := layers(ours, network)):
        return "-", Verdict.NOT_RUN
    ends = {width: float(rows["forward_p50"].iloc[-1]) for width, rows in found.items()}
    text = ", ".join(f"{end:.3f} at width {width}" for width, end in ends.items())
    text += f" (n={int(ours.runs['networks'].min())} networks)"
    least = min(ends.values())
    return text, Verdict.REPRODUCED if least >= 0.9 else Verdict.PARTLY if least >= 0.5 else Verdict.NOT_REPRODUCED


def compare(network: str, ours: Selection) -> tuple[str, float, tuple[float, float] | None] | None:
    """He's mean loss and the network's in words, their difference, and its interval: seeds and with them learning rates
    are drawn anew. None if one is missing."""
    he, own = Outcomes.of(ours, "he"), Outcomes.of(ours, network)
    if he is None or own is None:
        return None

    def loss(_: Any, means: Any) -> float:
        return float(means[0])

    difference, interval = he.statistic(loss) - own.statistic(loss), bootstrap_difference(he, own, loss)
    text = f"He {he.statistic(loss):.3g}, {own.statistic(loss):.3g} (n={min(he.n, own.n)}"
    return (
        text + (f", difference in [{interval[0]:.3g}, {interval[1]:.3g}])" if interval else ")"),
        difference,
        interval,
    )


def judge_lower(network: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether a network's training loss is below He's, by the rule of :func:`~reltrust.reporting.claims.judge_order`
    for He's mean minus its own, each at its best learning rate."""
    if (found := compare(network, ours)) is None:
        return "-", Verdict.NOT_RUN
    text, difference, interval = found
    return text, judge_order(difference, interval)


def judge_impact(network: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether a network's training loss differs from He's, in either direction.

    reproduced: the 95 % interval of the difference does not contain 0; not reproduced: it does; not run: one of them is
    missing, or has one seed.
    """
    if (found := compare(network, ours)) is None:
        return "-", Verdict.NOT_RUN
    text, difference, interval = found
    if interval is None:
        return text, Verdict.NOT_RUN
    text = f"{'lower' if difference > 0 else 'higher'}: {text}"
    return text, Verdict.NOT_REPRODUCED if interval[0] <= 0 <= interval[1] else Verdict.REPRODUCED
