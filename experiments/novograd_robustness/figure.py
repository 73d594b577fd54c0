"""arXiv 1905.11286: how wide the range of good learning rates is, for NovoGrad and four others.

- ``novograd_robustness-<scale>``: validation loss against the learning rate, a panel a scale of the initial weights,
  and the widths of the good ranges;
- ``novograd_robustness-<scale>_state``: bytes of state.
"""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from reltrust.reporting.claims import Claim
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Selection
from reltrust.reporting.style import Styles, headline

from .verdicts import (
    BY_LR,
    BY_STATE,
    LOSS,
    NAMES,
    OURS,
    RIVALS,
    STATE,
    judge_init,
    judge_par,
    judge_state,
    judge_width,
    medians,
    ranges,
)

_ROOM = 2.5  # times the lowest loss, and a little, is what the panels show


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_ranges(ours: Selection, styles: Styles) -> Any:
    """Medians over seeds, with single seeds as dots; right, the learning rates within 5 % of each one's lowest loss."""
    curves, found = medians(ours), ranges(ours)
    scales = sorted({scale for _, scale in curves})
    figure, axes = plt.subplots(
        1, len(scales) + 1, figsize=(2.7 * len(scales) + 4.4, 3.5), width_ratios=[1] * len(scales) + [1.15]
    )
    *panels, bars = axes
    lowest = min(float(losses.min()) for _, losses in curves.values())
    highest = max(float(losses.min()) for _, losses in curves.values())
    for panel, scale in zip(panels, scales, strict=True):
        for name in NAMES:
            if (name, scale) not in curves:
                continue
            lrs, losses = curves[name, scale]
            look = looks_of(name)
            panel.plot(lrs, losses, **look, label=NAMES[name])
            own = ours.best[(ours.best["optimizer"] == name) & (ours.best["init_scale"] == scale)]
            panel.scatter(own["lr"], own["value"], s=6, color=look["color"], alpha=0.4)
        panel.set(xscale="log", yscale="log", xlabel="learning rate", ylim=(0.93 * lowest, _ROOM * highest))
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_title(f"initial weights x {scale:g}", fontsize=9)
        if panel is not panels[0]:
            panel.sharey(panels[0])
            panel.tick_params(labelleft=False)
    panels[0].set_ylabel(LOSS.label)
    shown = [name for name in NAMES if any(key[0] == name for key in found)]
    for row, name in enumerate(shown):
        color = looks_of(name)["color"]
        for number, scale in enumerate(scales):
            if (name, scale) not in found:
                continue
            one, height = found[name, scale], row + 0.24 * (number - (len(scales) - 1) / 2)
            bars.plot([one.low, one.high], [height] * 2, color=color, linewidth=3.5, solid_capstyle="butt")
            bars.plot(one.lr, height, marker="|", color="white", markersize=5)
            text = f"{'≥' if one.open else ''}{one.width:.2f}" + (f"  (x {scale:g})" if len(scales) > 1 else "")
            bars.annotate(text, (one.high, height), xytext=(3, -2.5), textcoords="offset points", fontsize=6)
    bars.set(xscale="log", xlabel="good learning rates, and decades", ylim=(len(shown) - 0.4, -0.6))
    bars.set_yticks(range(len(shown)), [NAMES[name].replace(" (", "\n(") for name in shown], fontsize=7)
    bars.margins(x=0.2)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, [label.replace(" (", "\n(") for label in labels], fontsize=8, loc="outside right center")
    first = ours.runs.iloc[0]
    headline(
        figure,
        f"{ours.scale}: {first['data']}, {first['model']} of width {first['width']}, {first['steps']:.0f} steps of "
        f"batch {first['batch_size']:.0f}; {ours.runs['seed'].nunique()} seeds",
    )
    return figure


def looks_of(name: str) -> dict[str, Any]:
    """One look an optimizer, whatever the scale of its initial weights."""
    colors = dict(zip(NAMES, ("#8C6D1F", "#44AA99", "#000000", "#D55E00", "#009E73"), strict=True))
    markers = dict(zip(NAMES, "*p^oD", strict=True))
    return {"color": colors[name], "marker": markers[name], "markersize": 4, "linewidth": 1.3, "linestyle": "-"}


def draw_state(ours: Selection, styles: Styles) -> Any:
    """What each optimizer keeps besides weights and gradients of 4 bytes each."""
    figure, axes = plt.subplots(figsize=(5, 2.2))
    row = ours.best.iloc[0]
    for place, name in enumerate(NAMES):
        value = float(row[f"state_{name}"])
        axes.barh(place, value, color=looks_of(name)["color"], height=0.6)
        axes.annotate(
            f"{value:.3g}", (value, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(range(len(NAMES)), list(NAMES.values()))
    axes.set(xlabel=STATE.label, ylim=(len(NAMES) - 0.5, -0.5))
    axes.margins(x=0.15)
    axes.grid(visible=False)
    return figure


# --- all of it -------------------------------------------------------------------------------------------------------

UNREAD = "abstract; no number could be read"
FINDING = "NovoGrad is on par with tuned others, robust to learning rate and initialisation, also in large batches"
COMMAND = "make reproduce-novograd-robustness"
TRAINED = {"quick": "batch 64", "quick_large": "batch 1,024", "quick_lm": "language model"}
ARMS = tuple(f"{name} {scale}" for name in (OURS, *RIVALS) for scale in (0.3, 1.0, 3.0))


def claims(scale: str) -> list[Claim]:
    """Of one scale of trainings."""
    what, arms = TRAINED[scale], ARMS if scale != "quick_lm" else tuple(arm for arm in ARMS if arm.endswith(" 1.0"))
    found = [
        Claim(
            f"NovoGrad is robust to the learning rate: its good range is no narrower than the others'; {what}",
            BY_LR, (scale,), UNREAD, judge_width, finding=FINDING, label=f"learning rate, {what}", arms=arms,
        ),
        Claim(
            f"NovoGrad is on par with well-tuned SGD with momentum and AdamW, or better; {what}",
            BY_LR, (scale,), UNREAD, judge_par, finding=FINDING, label=f"tuned, {what}", arms=arms,
        ),
    ]  # fmt: skip
    if scale != "quick_lm":
        found.append(
            Claim(
                f"NovoGrad is robust to the weights' initialisation; {what}",
                BY_LR, (scale,), UNREAD, judge_init, finding=FINDING, label=f"initialisation, {what}", arms=arms,
            )
        )  # fmt: skip
    return found


REPORT = Report(
    title="NovoGrad (arXiv 1905.11286)",
    figures=(
        Figure("", BY_LR, draw_ranges, scales=(*TRAINED, "smoke", "smoke_large", "smoke_lm")),
        Figure("", BY_STATE, draw_state, scales=("quick_state", "smoke_state")),
    ),
    claims=(
        *(claim for scale in TRAINED for claim in claims(scale)),
        Claim(
            "NovoGrad has half the memory footprint of Adam",
            BY_STATE, ("quick_state",), "half (abstract)", judge_state, finding=FINDING, label="state",
        ),
    ),
    cost={
        "quick": (COMMAND, "about 8 minutes, 2 CPU cores, all four parts"),
        "quick_large": (f"{COMMAND} SCALE=quick_large", "about 2 minutes, 2 CPU cores"),
        "quick_lm": (f"{COMMAND} SCALE=quick_lm", "about 3 minutes, 2 CPU cores"),
        "quick_state": (f"{COMMAND} SCALE=quick_state", "seconds"),
    },
    parts={
        "quick": ("quick_large", "quick_lm", "quick_state"),
        "smoke": ("smoke_large", "smoke_lm", "smoke_state"),
    },
)  # fmt: skip
