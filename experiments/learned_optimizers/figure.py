"""arXiv 2101.07367: learned optimizers that train themselves, and what they are worth.

- ``learned_optimizers-<scale>``: the meta-loss of the best against the generation, and on problems that are held out.
"""

from typing import Any

import matplotlib.pyplot as plt

from reltrust.reporting.claims import Claim
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Selection
from reltrust.reporting.style import Styles, headline

from .verdicts import (
    META_LOSS,
    TRAINED,
    TRIALS,
    judge_above_frozen,
    judge_acceleration,
    judge_as_by_hand,
    judge_by_adam,
    of_methods,
)

LOOKS = {  # label, colour, marker, line
    "self": ("by itself", "#D55E00", "o", "-"),
    "frozen": ("by itself as it began", "#E69F00", "v", (0, (5, 1.5))),
    "adam": ("by Adam", "#0072B2", "s", (0, (3, 1, 1, 1))),
    "evolution": ("by evolution alone", "#009E73", "^", (0, (1, 1))),
    "hand": ("Adam itself", "#000000", "D", (0, (6, 3))),
}


# --- figure ----------------------------------------------------------------------------------------------------------


def draw_training(ours: Selection, styles: Styles) -> Any:
    """Means over seeds, bands from the best seed to the worst, each method at its best rate; a dot is a seed."""
    figure, (curves, trials) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1.3, 1))
    for place, (method, (label, color, marker, line)) in enumerate(LOOKS.items()):
        (runs,) = of_methods(ours, method)
        if runs.empty:
            continue
        rate = f"{label}, {runs['rate'].iloc[0]:g}"
        if method == "hand":
            curves.axhline(runs["value"].mean(), color=color, linewidth=1, linestyle=line, label=rate)
        else:
            rows = ours.curves[ours.curves["run"].isin(runs["run"])]
            by_step = rows.groupby("step")["best"]
            curves.plot(by_step.mean(), color=color, linestyle=line, label=rate)
            curves.fill_between(by_step.min().index, by_step.min(), by_step.max(), color=color, alpha=0.12, linewidth=0)
        for at, column in enumerate(TRIALS):
            x = [at + 0.14 * (place - 2)] * len(runs)
            trials.plot(x, runs[column], marker, color=color, markersize=3, alpha=0.5)
            trials.plot(x[:1], runs[column].mean(), marker, color=color, markersize=6)
    curves.set(xlabel="generation", ylabel=META_LOSS.label, yscale="log")
    curves.legend(fontsize=7, title="trained, at the best rate", title_fontsize=7)
    trials.set(ylabel="meta-loss at the end", yscale="log")
    trials.set_xticks(range(len(TRIALS)), TRIALS.values(), fontsize=8)
    for axes in (curves, trials):
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:.1g}")
        axes.tick_params(axis="y", which="minor", labelsize=7)
    first = ours.runs.iloc[0]
    headline(
        figure,
        f"{ours.scale}: {first['population']:.0f} learned optimizers of {first['hidden']:.0f} hidden units, trainings "
        f"of {first['episode']:.0f} steps; {ours.runs['seed'].nunique()} seeds",
    )
    return figure


# --- all of it -------------------------------------------------------------------------------------------------------

UNREAD = "abstract; no number could be read"
SCALES = ("quick",)
FINDING = (
    "Randomly initialised learned optimizers train themselves, slowly first, then faster, with no hand-designed one"
)
COMMAND = "make reproduce-learned-optimizers"

REPORT = Report(
    title="Learned optimizers that train themselves (arXiv 2101.07367)",
    figures=(Figure("", TRAINED, draw_training),),
    claims=(
        Claim(
            "A population that trains itself becomes better than one whose trainers stay as they began",
            TRAINED, SCALES, UNREAD, judge_above_frozen, finding=FINDING, label="than frozen trainers",
            arms=("self", "frozen"),
        ),
        Claim(
            "Progress is slow first, then a feedback loop makes it faster",
            TRAINED, SCALES, UNREAD, judge_acceleration, finding=FINDING, label="faster later", arms=("self",),
        ),
        Claim(
            "No hand-designed optimizer is needed: as good as a population trained by tuned Adam",
            TRAINED, SCALES, UNREAD, judge_by_adam, finding=FINDING, label="as by tuned Adam", arms=("self", "adam"),
        ),
        Claim(
            "The learned optimizer is as good as tuned Adam on problems of its training, and on others",
            TRAINED, SCALES, "not in the abstract", judge_as_by_hand, arms=("self", "hand"),
        ),
    ),
    cost={
        "quick": (COMMAND, "about 8 minutes, 2 CPU cores"),
    },
)  # fmt: skip
