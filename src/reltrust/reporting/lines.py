"""The figures that most experiments have: a measure against x, at the selected learning rates and at every one."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from reltrust.reporting.selection import UNTUNED, Selection, describe
from reltrust.reporting.style import Styles

_TUNED_LOOKS = [  # grey, marker, dash
    ("0.0", "o", "-"),
    ("0.4", "s", (0, (5, 1.5))),
    ("0.65", "^", (0, (1, 1))),
    ("0.2", "D", (0, (3, 1, 1, 1))),
    ("0.8", "v", (0, (6, 2))),
]


_APART = 2.5  # points between the markers of two arms that have the same value


def draw_means(axes: Any, selection: Selection, styles: Styles, beside: Sequence[str] = ()) -> None:
    """For each arm a line through the means over seeds at the selected learning rates, and a dot for every seed.

    Arms are drawn a few points apart along x, so that equal values do not hide each other.

    Args:
        beside: arms that are drawn into the same axes by others.
    """
    means, x = describe(selection), selection.comparison.x
    for arm in selection.arms:
        line, seeds = means[means["arm"] == arm], selection.best[selection.best["arm"] == arm]
        place = _apart(axes, arm, [*selection.arms, *beside])
        (means_line,) = axes.plot(line[x], line["mean"], **styles.line(arm), label=styles.label(arm), zorder=3)
        dots = axes.scatter(seeds[x], seeds["value"], s=9, color=styles.line(arm)["color"], alpha=0.5)
        means_line.set_transform(place)  # afterwards: the limits of the axes are those of the data
        dots.set_offset_transform(place)


def draw_published(
    axes: Any, points: pd.DataFrame, x: str, value: str, styles: Styles, beside: Sequence[str] = ()
) -> None:
    """Hollow points, with one entry in the legend. The table has the columns ``arm``, x and the value.

    Args:
        beside: as of :func:`draw_means`, so that an arm has the same place in both.
    """
    arms = points["arm"].astype(str)
    for arm, own in points.groupby(arms):
        look = {**styles.line(str(arm)), "linestyle": "none", "markerfacecolor": "none", "markersize": 6.5}
        (hollow,) = axes.plot(own[x], own[value], **look, alpha=0.7)
        hollow.set_transform(_apart(axes, str(arm), [*arms, *beside]))
    axes.plot([], [], "o", color="0.4", markerfacecolor="none", markersize=8, label="as published")


def _apart(axes: Any, arm: str, arms: Sequence[str]) -> Any:
    """The transform of an arm's data: shifted along x by its place among the arms, in points."""
    order = sorted(set(arms))
    points = _APART * (order.index(arm) - (len(order) - 1) / 2)
    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def spread_x(axes: Any, places: "Sequence[float] | pd.Series[Any]") -> None:
    """Makes x logarithmic, with a tick at every place, if the nearest two of these places (above 0) are then further
    apart, as a share of the axis, than on a linear one."""
    values = np.unique(np.asarray(places, dtype=float))
    if len(values) < 3 or values[0] <= 0:
        return
    linear, logarithmic = (np.diff(one).min() / (one[-1] - one[0]) for one in (values, np.log(values)))
    if logarithmic > linear:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(values.tolist()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")


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
        spread_x(axes, own[comparison.x])
        axes.set_title(styles.label(arm), fontsize=9)
        axes.legend(title="learning rate", fontsize=7, title_fontsize=7)
    panels[0][0].set_ylabel(comparison.measure.label)
    return figure, panels[0]
