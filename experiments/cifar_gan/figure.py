"""Fromage paper, figures 2 (right) and 3 (right) and its table of FIDs, and Madam paper, figure 1: the GAN.

- ``cifar_gan-<scale>``: the Frechet distance over time, and at the end beside published FIDs.
- ``cifar_gan-paper-lr``: the distance at every learning rate.
- ``cifar_gan-<scale>-norms``: how the norms of spectrally normalised weights grow, beside the theory.
- ``cifar_gan-<scale>-samples``: an image of each class at every evaluation.
"""

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from reltrust.metrics.networks import distance_name
from reltrust.reporting.claims import Claim
from reltrust.reporting.learning_rates import draw_learning_rates
from reltrust.reporting.lines import draw_published
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Selection
from reltrust.reporting.style import Styles, headline

from .verdicts import (
    BY_LR,
    BY_OPTIMIZER,
    DISTANCE,
    EPOCH_100,
    GROWTH,
    NORMS,
    OF_RERUN,
    OF_TUNING,
    PUBLISHED,
    PUBLISHED_LR,
    RERUN,
    TUNED,
    TUNING,
    distances,
    judge_competitive,
    judge_growth,
    judge_nearer,
    lr_factors,
)

LABELS = {"fromage": "Fromage", "madam": "Madam", "adam": "Adam", "sgd": "SGD", "lars": "LARS"}


# --- claims ----------------------------------------------------------------------------------------------------------

SCALES = ("paper", "small", "quick")
ORDERS = [
    Claim(
        text=f"{LABELS[arm]}'s GAN comes nearer to the training images than {LABELS[other]}'s",
        comparison=BY_OPTIMIZER,
        scales=SCALES,
        published=f"FID {RERUN[arm]:g} < {RERUN[other]:g}",
        judge=partial(judge_nearer, arm, other),
        finding="Fromage's GAN comes nearer to the training images than Adam's, and that than SGD's",
        label=f"{LABELS[arm]}, {LABELS[other]}",
        arms=(arm, other),
    )
    for arm, other in (("fromage", "adam"), ("fromage", "sgd"), ("adam", "sgd"))
]
COMPETITIVE = [
    Claim(
        text="Madam's GAN is competitive with Adam's",
        comparison=comparison,
        scales=scales,
        published=f"FID {TUNING['madam']['madam']:g}, {TUNING['madam']['adam']:g} (epoch 100)",
        judge=partial(judge_competitive, "madam", "adam"),
        finding="Madam's GAN is competitive with Adam's",
        arms=("madam", "adam"),
    )
    for comparison, scales in ((TUNED, ("paper",)), (BY_OPTIMIZER, ("small", "quick")))
]
RATIOS = PUBLISHED[(PUBLISHED["measure"] == "norm ratio") & (PUBLISHED["epoch"] == 99)].set_index("optimizer")["value"]
STABLE = [
    Claim(
        text=text,
        comparison=NORMS,
        scales=SCALES,
        published=f"x {RATIOS[arm]:.4g} in 99 epochs",
        judge=partial(judge_growth, arm),
        finding="Norms of spectrally normalised weights stay under Fromage, and grow under LARS",
        label=LABELS[arm],
        arms=(arm,),
    )
    for arm, text in (
        ("fromage", "Under Fromage the norms of spectrally normalised weights stay as they are"),
        ("lars", "Under LARS (Fromage without its last factor) they grow by the root of 1 + lr² a step"),
    )
]


# --- figures ---------------------------------------------------------------------------------------------------------


def title(selection: Selection) -> str:
    first, seeds = selection.runs.iloc[0], selection.runs["seed"].nunique()
    examples = "" if pd.isna(first["examples"]) else f" ({first['examples']:,.0f} images)"
    return (
        f"{selection.scale} protocol: {first['data']}{examples}, {first['channels']} channels, "
        f"batch {first['batch_size']}, {first['steps']:,} steps, {first['samples']:,} samples, "
        f"{seeds} seed{'s' * (seeds > 1)}"
    )


def distance_label(selection: Selection) -> str:
    return distance_name(str(selection.runs["features"].iloc[0]))


def draw_curves(axes: Any, selection: Selection, styles: Styles, *columns: str) -> None:
    """For each arm the mean over seeds of a column, or the band between two, over steps."""
    for arm in selection.arms:
        own = selection.curves[selection.curves["arm"] == arm].groupby("step")
        if not len(own):
            continue
        least, most = own[columns[0]].min(), own[columns[-1]].max()
        middle = own[list(columns)].mean().mean(axis=1)
        axes.plot(middle.index, middle, **styles.line(arm), label=styles.label(arm), zorder=3)
        axes.fill_between(least.index, least, most, color=styles.line(arm)["color"], alpha=0.15, linewidth=0)


def fromage_table_of_fids(selection: Selection, styles: Styles) -> Any:
    """The distance over time at each optimizer's best learning rate; at the end, one dot a seed; published FIDs."""
    figure, (over_time, at_end, theirs) = plt.subplots(1, 3, figsize=(9.6, 3.3), width_ratios=(2, 1.1, 1.1))
    draw_curves(over_time, selection, styles, DISTANCE.column)
    over_time.set(xlabel="step", yscale="log", ylabel=f"{distance_label(selection)} to training images")
    for axis in (over_time.yaxis.set_major_formatter, over_time.yaxis.set_minor_formatter):
        axis("{x:g}")
    over_time.tick_params(axis="y", which="both", labelsize=7)
    over_time.legend(fontsize=7)
    cells = distances(selection).sort_values("mean", ascending=False)
    for place, (arm, cell) in enumerate(cells.iterrows()):
        look = styles.line(str(arm)) | {"linestyle": "none"}
        seeds = selection.best[selection.best["arm"] == arm]["value"]
        at_end.plot(cell["mean"], place, **look)
        at_end.scatter(seeds, [place] * len(seeds), s=9, color=look["color"], alpha=0.5)
    at_end.set_yticks(
        range(len(cells)), [f"{styles.label(str(a))} {lr:g}" for a, lr in cells["lr"].items()], fontsize=7
    )
    at_end.set(xlabel=distance_label(selection), xlim=(0, 1.1 * cells["max"].max()), ylim=(-0.6, len(cells) - 0.4))
    at_end.set_title("at the end, at the best learning rate", fontsize=8)
    order = RERUN.sort_values(ascending=False)
    for place, (arm, fid) in enumerate(order.items()):
        theirs.plot(fid, place, **(styles.line(str(arm)) | {"linestyle": "none", "markerfacecolor": "none"}))
    theirs.set_yticks(range(len(order)), [LABELS[str(arm)] for arm in order.index], fontsize=7)
    theirs.set(
        xlabel="FID (CIFAR-10, 121 epochs)", xlim=(0, 1.1 * RERUN.max()), ylim=(-0.6, max(len(cells), len(order)) - 0.4)
    )
    theirs.set_title("published: the rerun of 2020", fontsize=8)
    headline(figure, title(selection))
    return figure


def fromage_figure_3_right_gan(selection: Selection, styles: Styles) -> Any:
    """The distance in epoch 100 against the learning rate, published FIDs hollow, Madam's those of its own paper."""
    figure = draw_learning_rates([selection], styles, [(OF_TUNING, "value")], yscale="log")
    figure.axes[0].set(ylabel=f"{distance_label(selection)} to training images")
    headline(figure, title(selection))
    return figure


def fromage_figure_2_right(selection: Selection, styles: Styles) -> Any:
    """The least and the largest growth of the norms at the published learning rate, and what scale invariance makes of
    them under LARS."""
    figure, axes = plt.subplots(figsize=(7.4, 3.3))
    draw_curves(axes, selection, styles, "norm_growth_min", "norm_growth_max")
    run = selection.runs.iloc[0]
    theory = np.exp(0.5 * np.cumsum(np.log1p(np.square(PUBLISHED_LR * lr_factors(run)))))
    axes.plot(
        np.arange(1, len(theory) + 1), theory, color="0.3", linewidth=0.8, label=r"$(1+\eta^2)^{t/2}$, $\eta=0.01$"
    )
    if selection.scale == "paper":
        ratios = PUBLISHED[PUBLISHED["measure"] == "norm ratio"].assign(arm=lambda rows: rows["optimizer"])
        steps = ratios.assign(step=ratios["epoch"] * EPOCH_100 / 100)
        draw_published(axes, steps, "step", "value", styles)
    axes.set(xlabel="step", ylabel=GROWTH.label)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    headline(figure, title(selection))
    return figure


def samples_of_every_class(selection: Selection, styles: Styles, pictures: dict[str, dict[int, Path]]) -> Any:
    """A column of images, one of each class, at every evaluation; a panel an optimizer."""
    arms = [arm for arm in distances(selection).sort_values("mean").index if arm in pictures]
    steps = max((len(pictures[arm]) for arm in arms), default=1)
    size = (max(7.4, 0.42 * steps * len(arms) + 0.6), 4.6)
    figure, panels = plt.subplots(1, max(1, len(arms)), figsize=size, squeeze=False)
    for axes in panels[0]:
        axes.set_axis_off()
    for axes, arm in zip(panels[0], arms, strict=False):
        strips = [plt.imread(path) for path in pictures[arm].values()]
        axes.imshow(np.concatenate(strips, axis=1), interpolation="nearest")
        axes.set_title(styles.label(arm), fontsize=8)
        for i, step in enumerate(pictures[arm]):
            axes.annotate(f"{step:,}", (32 * i + 16, 325), fontsize=5, ha="center", va="top", annotation_clip=False)
    headline(figure, title(selection))
    return figure


REPORT = Report(
    title="Fromage, figures 2 and 3 (right); Madam, figure 1: GAN",
    figures=(
        Figure("", BY_OPTIMIZER, fromage_table_of_fids, curves=True),
        Figure("-lr", BY_LR, fromage_figure_3_right_gan, scales=("paper",)),
        Figure("-norms", NORMS, fromage_figure_2_right, only={"lr": PUBLISHED_LR}, curves=True),
        Figure("-samples", BY_OPTIMIZER, samples_of_every_class, pictures="strip.png"),
    ),
    claims=(*ORDERS, *COMPETITIVE, *STABLE),
    cost={
        "paper": ("make reproduce-cifar-gan SCALE=paper SEEDS=3", "81 runs of 23,716 steps: a GPU"),
        "small": (
            "make reproduce-cifar-gan SCALE=small LAUNCHER=processes",
            "6 runs of 3,120 steps: 2 hours, 2 CPU cores",
        ),
        "quick": ("make reproduce-cifar-gan", "about 9 minutes, 2 CPU cores"),
    },
    published={"paper": OF_RERUN},
    elsewhere=("bits",),  # madam_bits
)
