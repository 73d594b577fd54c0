"""The figures that most experiments have: a measure against x, at the selected learning rates and at every one."""

import itertools
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from reltrust.reporting.selection import UNTUNED, Selection, describe
from reltrust.reporting.style import Styles

_TUNED_LOOKS = [  # grey, marker, dash
    ("0.0", "o", "-"),
    ("0.4", "s", (0, (5, 1.5))),
    ("0.65", "^", (0, (1, 1))),
    ("0.2", "D", (0, (3, 1, 1, 1))),
    ("0.8", "v", (0, (6, 2))),
]


def draw_means(axes: Any, selection: Selection, styles: Styles) -> None:
    """For each arm a line through the means over seeds at the selected learning rates, and a dot for every seed."""
    means, x = describe(selection), selection.comparison.x
    for arm in selection.arms:
        line, seeds = means[means["arm"] == arm], selection.best[selection.best["arm"] == arm]
        axes.plot(line[x], line["mean"], **styles.line(arm), label=styles.label(arm), zorder=3)
        axes.scatter(seeds[x], seeds["value"], s=9, color=styles.line(arm)["color"], alpha=0.5)


def draw_published(axes: Any, points: pd.DataFrame, x: str, value: str, styles: Styles) -> None:
    """Hollow points, with one entry in the legend. The table has the columns ``arm``, x and the value."""
    for arm, own in points.groupby("arm"):
        look = {**styles.line(str(arm)), "linestyle": "none", "markerfacecolor": "none", "markersize": 8}
        axes.plot(own[x], own[value], **look, alpha=0.7)
    axes.plot([], [], "o", color="0.4", markerfacecolor="none", markersize=8, label="as published")


def draw_tuning(selection: Selection, styles: Styles, x_label: str) -> tuple[Any, Any]:
    """A figure, and its axes, with a panel an arm: means over seeds and single seeds at every learning rate."""
    comparison, arms, tuned = selection.comparison, selection.arms, selection.comparison.tuned or UNTUNED
    figure, panels = plt.subplots(1, len(arms), figsize=(2.9 * len(arms), 2.9), sharey=True, squeeze=False)
    for axes, arm in zip(panels[0], arms, strict=True):
        own = selection.runs[selection.runs["arm"] == arm]
        values = sorted(own[tuned].unique(), reverse=True)
        for value, (shade, marker, dash) in zip(values, itertools.cycle(_TUNED_LOOKS), strict=False):
            cell = own[own[tuned] == value]
            mean = cell.groupby(comparison.x)["value"].mean()
            axes.plot(mean.index, mean, color=shade, marker=marker, linestyle=dash, markersize=4, label=f"{value:g}")
            axes.scatter(cell[comparison.x], cell["value"], s=6, color=shade, alpha=0.5)
        axes.set(xlabel=x_label)
        axes.set_title(styles.label(arm), fontsize=9)
        axes.legend(title="learning rate", fontsize=7, title_fontsize=7)
    panels[0][0].set_ylabel(comparison.measure.label)
    return figure, panels[0]
