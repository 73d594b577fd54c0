"""A measure against the learning rate: which is an optimizer's best, and the figure of all."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from reltrust.reporting.claims import Verdict
from reltrust.reporting.lines import draw_means, draw_published
from reltrust.reporting.selection import Selection, describe
from reltrust.reporting.style import Styles

FAR = 100.0  # times the median error is what a figure has room for
NEAR = 1.1  # times as good is the best learning rate's value at most, for another one to be partly the best


def best_of(values: "pd.Series[float]", best: str) -> tuple[float, float]:
    """The learning rate, of the index, with the lowest value (``best="min"``) or the largest, and that."""
    place = int(values.argmin() if best == "min" else values.argmax())
    return float(values.index.to_numpy()[place]), float(values.iloc[place])


def judge_best(arm: str, lr: float, ours: Selection) -> tuple[str, Verdict]:
    """Whether this is the optimizer's best learning rate of those tried, at least three; of a comparison by ``lr``.

    reproduced: its mean is the best; partly: the best is at most 1.1 times as good; not reproduced: it is better still;
    not run: this one, or two others, are missing.
    """
    cells, better = describe(ours), ours.comparison.measure.best
    cells = cells[cells["arm"] == arm]
    own = cells.set_index("lr")["mean"]
    if lr not in own.index or len(own) < 3:
        return "-", Verdict.NOT_RUN
    best, value = best_of(own, better)
    _, following = best_of(own.drop(best), better)
    text = f"{best:g}: {value:.4g}, next best {following:.4g} (n={int(cells['n'].min())})"
    if best == lr:
        return text, Verdict.REPRODUCED
    ratio = own[lr] / value if better == "min" else value / own[lr]
    return f"{text}; {lr:g}: {own[lr]:.4g}", Verdict.PARTLY if ratio <= NEAR else Verdict.NOT_REPRODUCED


def draw_learning_rates(
    selections: Sequence[Selection],
    styles: Styles,
    published: Sequence[tuple[pd.DataFrame, str] | None],
    *,
    sharey: bool = False,
    **of_axes: Any,
) -> Any:
    """A panel for each selection, all by ``lr``: means, seeds, and published runs with their column, hollow.

    Errors of more than 100 times their median would leave no room for the others, and are numbers at the upper edge.
    """
    size = (1.6 + 3.3 * len(selections), 3.5)
    figure, panels = plt.subplots(1, len(selections), figsize=size, sharey=sharey, squeeze=False)
    errors: list[tuple[Any, pd.DataFrame]] = []  # of each panel of which less is better: arm, lr, error
    for axes, selection, theirs in zip(panels[0], selections, published, strict=True):
        measure, means = selection.comparison.measure, describe(selection)
        beside = [] if theirs is None else [str(arm) for arm in theirs[0]["arm"]]
        if theirs is not None:
            draw_published(axes, theirs[0], "lr", theirs[1], styles, beside=selection.arms)
        draw_means(axes, selection, styles, beside=beside)
        axes.set(xscale="log", xlabel="learning rate", **of_axes)
        axes.set_title(measure.label, fontsize=9)
        if measure.best == "min":
            parts = [(means, "mean"), *([] if theirs is None else [theirs])]
            own = pd.concat([points.rename(columns={value: "error"}) for points, value in parts], ignore_index=True)
            errors.append((axes, own[["arm", "lr", "error"]]))
    for one_scale in [errors] if sharey and errors else [[one] for one in errors]:
        _leave_out_far_ones(one_scale, styles)
    panels[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _leave_out_far_ones(panels: Sequence[tuple[Any, pd.DataFrame]], styles: Styles) -> None:
    """Ends y where the errors end that are not far off; the panels have one scale."""
    every = pd.concat([points["error"] for _, points in panels])
    most = FAR * every.median()
    if (every <= most).all():
        return
    others = every[every <= most]
    for axes, points in panels:
        axes.set_ylim(others.min() / 1.5, 4 * others.max())  # above them is room for numbers
        for lr, far in points[points["error"] > most].groupby("lr"):
            for place, (arm, error) in enumerate(zip(far["arm"], far["error"], strict=True)):
                axes.annotate(
                    f"\u2191 {error:.1e}", (lr, 1), xycoords=("data", "axes fraction"), va="top", ha="center",
                    xytext=(0, -9 * place), textcoords="offset points", fontsize=7,
                    color=styles.line(str(arm))["color"],
                )  # fmt: skip
