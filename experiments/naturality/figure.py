"""arXiv 2312.04739: which optimizers are natural, and what it is worth.

- ``naturality-<scale>``: the table rule x class of maps, the measured entry in colours, the derived one in words;
- ``naturality-<scale>_descent``: steps against the condition number of the coordinates.
"""

import textwrap
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from reltrust.reporting.claims import Claim
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Selection, describe
from reltrust.reporting.style import Styles, headline

from .expectations import CLASSES, RULES, expected
from .verdicts import (
    DEFECTS,
    DESCENT,
    entries,
    judge_derived,
    judge_descent,
    judge_natural,
    judge_unnatural,
)

SHADES = {"exact": "#7FBF7B", "limit": "#C7E5C3", "no": "#F2B8A0", "differs": "#D9D9D9"}
SIGNS = {"exact": "=", "limit": "→", "no": "≠"}
LOOKS = {"gd": ("#D55E00", "o"), "ngd": ("#0072B2", "s")}


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_table(ours: Selection, styles: Styles) -> Any:
    """A cell says the median defect over seeds at the smallest steps and, if it is none of rounding, its order."""
    rules = [rule for rule in RULES if rule in set(ours.best["rule"])]
    figure, axes = plt.subplots(figsize=(10.5, 0.42 * len(rules) + 1.6))
    for line, rule in enumerate(rules):
        runs, found = ours.best[ours.best["rule"] == rule], entries(ours, rule)
        for column, kind in enumerate(CLASSES):
            said = {one or "differs" for one in found[kind]}
            one = said.pop() if len(said) == 1 else "differs"
            derived = expected(rule, kind)
            axes.add_patch(Rectangle((column - 0.48, line - 0.46), 0.96, 0.92, facecolor=SHADES[one], edgecolor="none"))
            if one != derived:
                axes.add_patch(
                    Rectangle((column - 0.48, line - 0.46), 0.96, 0.92, fill=False, edgecolor="#D00000", linewidth=2)
                )
            defect = runs.get(f"defect_{kind}", runs["step_size"] * np.nan).median()
            text = "0" if defect == 0 else f"{defect:.0e}"
            if one != "exact":
                order = runs.get(f"order_{kind}", runs["step_size"] * np.nan).median()
                text += f", order {round(order, 1) + 0:.1f}"  # no minus before a zero
            axes.text(column, line, f"{SIGNS[derived]}  {text}", ha="center", va="center", fontsize=7)
    labels = [textwrap.fill(label, 13) for label in CLASSES.values()]
    axes.set_xticks(range(len(CLASSES)), labels, fontsize=8)
    axes.set_yticks(range(len(rules)), [RULES[rule] for rule in rules], fontsize=8)
    axes.set(xlim=(-0.5, len(CLASSES) - 0.5), ylim=(len(rules) - 0.5, -0.5))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    first = ours.runs.iloc[0]
    headline(
        figure,
        f"{ours.scale}: defects of {len(rules)} rules, medians of {ours.runs['seed'].nunique()} networks, maps; step "
        f"sizes halved {first['halvings']:.0f} times\n"
        "colour: measured, dark green each step, light green the flow, red neither, grey not the same in all seeds, or "
        "not finite; a red frame: not as derived.\n"
        "sign: derived, = each step, → the flow, ≠ neither; number: |φ(q(T)) - w(T)| / |w(T) - w(0)|, smallest steps",
    )
    return figure


def draw_descent(ours: Selection, styles: Styles) -> Any:
    figure, axes = plt.subplots(figsize=(5, 3.4))
    means = describe(ours)
    for rule, (color, marker) in LOOKS.items():
        own, seeds = means[means["arm"] == rule], ours.best[ours.best["rule"] == rule]
        axes.plot(own["condition"], own["mean"], color=color, marker=marker, label=RULES[rule])
        axes.scatter(seeds["condition"], seeds["value"], s=9, color=color, alpha=0.5)
    first = ours.runs.iloc[0]
    most = ours.runs["iterations"].max()
    axes.axhline(most, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate("all steps", (0.01, most), xycoords=("axes fraction", "data"), va="bottom", fontsize=7)
    axes.set(xscale="log", yscale="log", xlabel="condition number of A, W = A V", ylabel=ours.comparison.measure.label)
    axes.legend(fontsize=8)
    headline(
        figure,
        f"{ours.scale}: {first['images']:.0f} digits, {first['hidden']:.0f} hidden units, best step size each; means "
        f"of {ours.runs['seed'].nunique()} seeds",
    )
    return figure


# --- all of it -------------------------------------------------------------------------------------------------------

UNREAD = "abstract; no table could be read"
COMMAND = "make reproduce-naturality"
EVERY = tuple(CLASSES)
NATURAL = (
    "Most optimizers depend on the parametrisation; natural gradient does not, and is efficient where that is poor; "
    "others can be made natural"
)

REPORT = Report(
    title="Naturality (arXiv 2312.04739)",
    figures=(
        Figure("", DEFECTS, draw_table, scales=("quick", "smoke")),
        Figure("", DESCENT, draw_descent, scales=("quick_descent", "smoke_descent")),
    ),
    claims=(
        Claim(
            "Most popular training algorithms are unnatural",
            DEFECTS,
            ("quick",),
            UNREAD,
            judge_unnatural,
            finding=NATURAL,
            label="popular ones",
        ),
        Claim("Every entry of the table is the derived one", DEFECTS, ("quick",), "derived", judge_derived),
        Claim(
            "In the limit of small steps natural gradient descent is invariant under smooth reparametrisation",
            DEFECTS,
            ("quick",),
            UNREAD,
            partial(judge_natural, ("ngd",), EVERY),
            finding=NATURAL,
            label="natural gradient",
        ),
        Claim(
            "Non-invertible maps such as projections are accounted for",
            DEFECTS,
            ("quick",),
            UNREAD,
            partial(judge_natural, ("ngd", "ngd_geodesic"), ("projection",)),
            finding=NATURAL,
            label="projections",
        ),
        Claim(
            "A simple method makes other algorithms natural (ours: the rule moves the outputs)",
            DEFECTS,
            ("quick",),
            UNREAD,
            partial(judge_natural, ("natural_adam", "natural_momentum"), EVERY),
            finding=NATURAL,
            label="made natural",
        ),
        Claim(
            "Natural gradient is efficient where a network is poorly parameterized, gradient descent is not",
            DESCENT,
            ("quick_descent",),
            UNREAD,
            judge_descent,
            finding=NATURAL,
            label="efficient",
        ),
    ),
    cost={
        "quick": (COMMAND, "about 2 minutes, 2 CPU cores, both parts"),
        "quick_descent": (f"{COMMAND} SCALE=quick_descent", "about a minute, 2 CPU cores"),
    },
    parts={"quick": ("quick_descent",), "smoke": ("smoke_descent",)},
)
