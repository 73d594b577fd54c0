"""arXiv 1905.12207: the dimension of polynomial networks, which of them fill their space, and what it is worth.

- ``polynomial_networks-<scale>``: dimensions with one hidden layer, and how many have less than expected at each depth;
- ``polynomial_networks-<scale>_fillings``: the widths of the smallest networks that fill;
- ``polynomial_networks-<scale>_training``: the loss that is left of fits to random polynomials.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from reltrust.reporting.claims import Claim
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Selection
from reltrust.reporting.style import Styles, headline

from .verdicts import (
    A_FLOOR,
    FILLINGS,
    NO_FLOOR,
    TABLE,
    TRAINING,
    judge_bounds,
    judge_floors,
    judge_high,
    judge_known,
    judge_unimodal,
    rows_of,
    widths_of,
)

SHOWN_OUTPUTS = (1, 2, 3)
COLORS = {"filling": "#B7D8EE", "expected": "#FFFFFF", "defect": "#F2B8A0"}


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_dimensions(ours: Selection, styles: Styles) -> Any:
    """Tables for each power and number of outputs, one hidden layer; below, all depths counted."""
    rows = rows_of(ours)
    one = rows[rows["depth"] == 2]
    powers = sorted(int(power) for power in ours.best["power"].unique())
    lines = [outputs for outputs in SHOWN_OUTPUTS if outputs in set(one["d2"])]
    figure, panels = plt.subplots(
        len(lines) + 1, len(powers), figsize=(2.5 * len(powers), 2.3 * (len(lines) + 1)), squeeze=False
    )
    for line, outputs in enumerate(lines):
        for column, power in enumerate(powers):
            axes = panels[line][column]
            draw_one(axes, one[(one["power"] == power) & (one["d2"] == outputs)])
            axes.set_title(f"power {power}, {outputs} output{'s' * (outputs > 1)}", fontsize=8)
            if column == 0:
                axes.set_ylabel("inputs d₀", fontsize=8)
            if line + 1 == len(lines):
                axes.set_xlabel("hidden units d₁", fontsize=8)
    for column, power in enumerate(powers):
        axes = panels[-1][column]
        draw_counts(axes, ours.best[ours.best["power"] == power].sort_values("depth"))
        axes.set_xlabel("depth", fontsize=8)
        if column == 0:
            axes.set_ylabel("share of networks", fontsize=8)
    panels[-1][0].legend(fontsize=6, loc="lower left", frameon=True, framealpha=1)
    widest = ", ".join(f"{depth:.0f}: d ≤ {own['widest'].iloc[0]:.0f}" for depth, own in ours.best.groupby("depth"))
    headline(
        figure,
        f"{ours.scale}: dimensions; blue fills its space, red has less than expected, by so much; depths {widest}",
    )
    return figure


def draw_one(axes: Any, rows: pd.DataFrame) -> None:
    if rows.empty:
        axes.set_axis_off()
        return
    for _, row in rows.iterrows():
        d0, d1 = int(row["d0"]), int(row["d1"])
        defect = int(row["expected"] - row["dimension"])
        kind = "defect" if defect else "filling" if row["dimension"] == row["ambient"] else "expected"
        axes.add_patch(Rectangle((d1 - 0.5, d0 - 0.5), 1, 1, facecolor=COLORS[kind], edgecolor="0.8", linewidth=0.5))
        text = f"{int(row['dimension'])}" + (f"\n-{defect}" if defect else "")
        axes.text(d1, d0, text, ha="center", va="center", fontsize=6.5, linespacing=0.9)
    widest = int(rows["d0"].max())
    axes.set(
        xlim=(0.5, widest + 0.5), ylim=(widest + 0.5, 0.5), xticks=range(1, widest + 1), yticks=range(1, widest + 1)
    )
    axes.tick_params(length=0, labelsize=7)
    axes.grid(visible=False)


def draw_counts(axes: Any, runs: pd.DataFrame) -> None:
    depths = runs["depth"].to_numpy(float)
    shares = {key: (runs[key] / runs["networks"]).to_numpy(float) for key in ("filling", "defective")}
    # One that fills is never defective.
    axes.bar(depths, shares["filling"], 0.6, color=COLORS["filling"], label="fills its space")
    middle = 1 - shares["filling"] - shares["defective"]
    axes.bar(depths, middle, 0.6, bottom=shares["filling"], color="0.9", label="as expected")
    axes.bar(depths, shares["defective"], 0.6, bottom=1 - shares["defective"], color=COLORS["defect"], label="less")
    for depth, share in zip(depths, shares["defective"], strict=True):
        axes.text(depth, 1.01, f"{share:.1%}", ha="center", fontsize=6)
    axes.set(ylim=(0, 1.12), xticks=depths)
    axes.grid(visible=False)
    axes.tick_params(labelsize=7)


def draw_fillings(ours: Selection, styles: Styles) -> Any:
    """A panel a search, a line a network."""
    runs = ours.best.sort_values(["depth", "inputs", "outputs"])
    columns = min(4, len(runs))
    lines = -(-len(runs) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(2.6 * columns, 2.0 * lines), squeeze=False)
    for axes, (_, run) in zip(panels.flat, runs.iterrows(), strict=False):
        found = ours.curves[ours.curves["run"] == run["run"]]
        for number, (_, row) in enumerate(found.iterrows()):
            widths = np.array(widths_of(row)) + 0.06 * (number - len(found) / 2)  # so that none hides another
            color = "#0072B2" if row["unimodal"] else "#D00000"
            axes.plot(range(len(widths)), widths, "o-", color=color, markersize=3, linewidth=1)
        axes.set_title(
            f"depth {run['depth']:.0f}, {run['inputs']:.0f} inputs, {run['outputs']:.0f} "
            f"output{'s' * (run['outputs'] > 1)}: {len(found)}", fontsize=7,
        )  # fmt: skip
        axes.set(ylim=(0, None), xticks=range(int(run["depth"]) + 1))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=7)
    for axes in panels.flat[len(runs) :]:
        axes.axis("off")
    headline(
        figure,
        f"{ours.scale}: widths, layer by layer, of all minimal filling networks of power 2; red: neither rise nor fall "
        "alone, nor a rise and then a fall",
    )
    return figure


def draw_training(ours: Selection, styles: Styles) -> Any:
    """A row a network, a dot a target."""
    runs = ours.best.assign(filling=ours.best["dimension"] == ours.best["ambient"])
    runs = runs.sort_values(["filling", "power", "network"], ascending=[True, True, True])
    figure, axes = plt.subplots(figsize=(6.5, 0.45 * len(runs) + 1.3))
    for line, (_, run) in enumerate(runs.iterrows()):
        floors = ours.curves.loc[ours.curves["run"] == run["run"], "floor"].clip(lower=1e-32)
        color = "#0072B2" if run["filling"] else "#D55E00"
        axes.plot(floors, np.full(len(floors), line), "o", color=color, markersize=4, alpha=0.7)
    labels = [
        f"{run['network']}, power {run['power']:.0f}: {run['dimension']:.0f} of {run['ambient']:.0f}"
        for _, run in runs.iterrows()
    ]
    axes.set_yticks(range(len(runs)), labels, fontsize=8)
    for value, text in ((NO_FLOOR, "no floor"), (A_FLOOR, "a floor")):
        axes.axvline(value, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.annotate(
            text, (value, 1.0), xycoords=("data", "axes fraction"), fontsize=7, rotation=90, va="top", ha="right"
        )
    axes.set(xscale="log", xlabel="loss of the best restart, over that of 0", ylim=(-0.6, len(runs) - 0.4))
    first = runs.iloc[0]
    headline(
        figure,
        f"{ours.scale}: {first['targets']:.0f} random polynomials, {first['restarts']:.0f} restarts each; blue: the "
        "network fills its space",
    )
    return figure


# --- all of it -------------------------------------------------------------------------------------------------------

UNREAD = "abstract"
COMMAND = "make reproduce-polynomial-networks"
DIMENSIONS = (
    "The dimension of a polynomial network is exact, and the expected one at high degrees; widths have bounds to fill "
    "the space, and should increase and then decrease; networks that fill it have no floor of their loss"
)

REPORT = Report(
    title="Polynomial networks (arXiv 1905.12207)",
    figures=(
        Figure("", TABLE, draw_dimensions, scales=("quick", "smoke")),
        Figure("", FILLINGS, draw_fillings, scales=("quick_fillings", "smoke_fillings")),
        Figure("", TRAINING, draw_training, scales=("quick_training", "smoke_training")),
    ),
    claims=(
        Claim(
            "Dimensions are exact: those of the closed forms",
            TABLE,
            ("quick",),
            "known algebra",
            judge_known,
            finding=DIMENSIONS,
            label="closed forms",
        ),
        Claim(
            "For high activation degrees the dimension is the expected one",
            TABLE,
            ("quick",),
            UNREAD,
            judge_high,
            finding=DIMENSIONS,
            label="high degrees",
        ),
        Claim(
            "There are bounds on widths to fill the space",
            FILLINGS,
            ("quick_fillings",),
            UNREAD,
            judge_bounds,
            finding=DIMENSIONS,
            label="bounds",
        ),
        Claim(
            "It is profitable for widths to increase and then decrease monotonically",
            FILLINGS,
            ("quick_fillings",),
            UNREAD,
            judge_unimodal,
            finding=DIMENSIONS,
            label="monotone widths",
        ),
        Claim(
            "Favorable optimization: only networks that do not fill have a floor of their loss",
            TRAINING,
            ("quick_training",),
            UNREAD,
            judge_floors,
            finding=DIMENSIONS,
            label="floors",
        ),
    ),
    cost={
        "quick": (COMMAND, "about a minute, 2 CPU cores, all parts"),
        "quick_fillings": (f"{COMMAND} SCALE=quick_fillings", "about a minute, 2 CPU cores"),
        "quick_training": (f"{COMMAND} SCALE=quick_training", "about a minute, 2 CPU cores"),
    },
    parts={"quick": ("quick_fillings", "quick_training"), "smoke": ("smoke_fillings", "smoke_training")},
)
