"""Fromage paper, figure 1: loss and gradient of perceptrons along the gradient.

- ``mlp_curvature-<scale>``: both against the relative size of the step, coloured by the moment, a column a network;
- ``mlp_curvature-<scale>-trust``: how many times the change exceeds the model of deep relative trust, against depth and
  layer by layer.
"""

from functools import partial
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from reltrust.reporting.claims import Claim
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Selection
from reltrust.reporting.style import Styles, headline

from .verdicts import (
    AT_START,
    CHANGE,
    ENDS,
    PUBLISHED,
    SLICES,
    at_start,
    excess_slope,
    judge_excess,
    judge_more,
    judge_value,
    layers,
    mean,
    modelled,
)

LOOKS: dict[str, dict[str, Any]] = {  # of the kinds of networks, which are no optimizers
    "plain": {"color": "#444444", "marker": "o"},
    "residual": {"color": "#AA3377", "marker": "s"},
}


# --- claims ----------------------------------------------------------------------------------------------------------

BREAKDOWN = "A small step changes the gradient of a network more, the deeper it is; residual branches tame it"
NAMES = {"plain 1": "2 layers", "plain 15": "16 layers", "residual 15": "16 layers with sums"}
ORDERS = [
    Claim(
        text=f"At initialisation a step of relative size 0.099 changes the first layer's gradient more in {deep}",
        comparison=SLICES,
        scales=("paper", "quick"),
        published=f"{AT_START[arm]:.4g} > {AT_START[other]:.4g}",
        judge=partial(judge_more, arm, other),
        finding=BREAKDOWN,
        label=f"{NAMES[arm]}, {NAMES[other]}",
        arms=(arm, other),
    )
    for arm, other, deep in (
        ("plain 15", "plain 1", "a plain network of 16 layers than in one of 2"),
        ("plain 15", "residual 15", "a plain network of 16 layers than in a residual one"),
        ("residual 15", "plain 1", "a residual network of 16 layers than in a plain one of 2"),
    )
]
VALUES = [
    Claim(
        text=f"Change of the first layer's gradient at initialisation, eta = 0.099: {NAMES[arm]}",
        comparison=SLICES,
        scales=("paper",),
        published=f"{AT_START[arm]:.4g}",
        judge=partial(judge_value, arm),
        finding=BREAKDOWN,
        label=NAMES[arm],
        arms=(arm,),
    )
    for arm in NAMES
]
THEIR_RATIOS = [AT_START[f"plain {depth}"] / modelled(0.099, depth) for depth in (1, 15)]
EXCESS = Claim(
    text="It outgrows the model of deep relative trust with depth: slope of ln(measured / modelled), plain networks",
    comparison=SLICES,
    scales=("paper", "quick"),
    published=f"{excess_slope([1, 15], THEIR_RATIOS):.2g} a layer "
    f"(x {THEIR_RATIOS[0]:.2g} at 2, x {THEIR_RATIOS[1]:.4g} at 16: from the published slices)",
    judge=judge_excess,
    finding="The change outgrows the model of deep relative trust with depth",
)


# --- figures ---------------------------------------------------------------------------------------------------------


def title(selection: Selection) -> str:
    first, seeds = selection.runs.iloc[0], selection.runs["seed"].nunique()
    trained = f"trained by Fromage {first['train_lr']:g} in batches of {first['train_batch']}"
    if not selection.runs["train_steps"].any():
        trained = "untrained"
    return (
        f"{selection.scale} protocol: all training images of {first['data']}, width {first['width']}, {trained}, "
        f"{seeds} seed{'s' * (seeds > 1)}"
    )


def shown(selection: Selection) -> list[tuple[str, str, int]]:
    """Arm, kind and hidden layers of the networks of the paper's columns: shallow, deep, deep and residual."""
    depths = selection.runs.groupby("network")["hidden_layers"]
    least, most = depths.min(), depths.max()
    chosen = [("plain", least.get("plain")), ("plain", most.get("plain")), ("residual", most.get("residual"))]
    found = [(f"{kind} {depth}", kind, int(depth)) for kind, depth in chosen if depth is not None]
    return list(dict.fromkeys(found))


def name(kind: str, depth: int) -> str:
    return f"{layers(depth)} layers" + (", residual" * (kind == "residual"))


def fromage_figure_1(selection: Selection, styles: Styles) -> Any:
    """Loss, and change of the first layer's gradient, against eta: a line a seed, coloured by the moment."""
    points = selection.curves
    if not points.empty:
        points = points.merge(selection.best[["run", "train_steps"]], on="run")
    columns = shown(selection)
    moments = sorted(
        selection.best.loc[selection.best["arm"].isin([arm for arm, *_ in columns]), "train_steps"].unique()
    )
    colors = dict(zip(moments, mpl.colormaps["viridis"](np.linspace(0, 0.88, len(moments))), strict=True))
    width = 1.1 if selection.best["seed"].nunique() == 1 else 0.7
    figure, panels = plt.subplots(
        2, max(1, len(columns)), figsize=(2.9 * len(columns) + 1.6, 4.9), sharex=True, squeeze=False
    )
    for (arm, kind, depth), (above, below) in zip(columns, panels.T, strict=False):
        for axes, quantity in ((above, "loss"), (below, CHANGE.column)):
            if not points.empty:
                for (moment, _), line in points[points["arm"] == arm].groupby(["train_steps", "seed"]):
                    line = line[line[quantity] > 0].sort_values("eta")
                    axes.plot(line["eta"], line[quantity], color=colors[moment], linewidth=width)
            theirs = PUBLISHED[(PUBLISHED["arm"] == arm) & (PUBLISHED["quantity"] == quantity)]
            theirs = theirs[theirs["train_steps"].isin(moments) & (selection.scale == "paper")]
            for moment, own in theirs.groupby("train_steps"):
                axes.plot(own["eta"], own["value"], "o", color=colors[moment], markerfacecolor="none", markersize=6)
            seen = np.concatenate([np.empty(0), *(line.get_ydata() for line in axes.lines)])
            if not seen.size or seen.max() > 10 * seen.min():  # within a decade logarithmic labels are hard to read
                axes.set(yscale="log")
        eta = np.linspace(0.001, float(selection.best["eta"].max()), 100)
        below.plot(eta, [modelled(one, depth) for one in eta], color="0.1", linewidth=1.1, linestyle=(0, (4, 2)))
        above.set_title(name(kind, depth), fontsize=9)
        below.set(xlabel=r"relative size of the step, $\eta$")
    panels[0][0].set(ylabel="loss, nats")
    panels[1][0].set(ylabel=CHANGE.label)
    handles = [Line2D([], [], color=colors[m], label=f"{m:,}" if m else "0 (start)") for m in moments]
    handles += [Line2D([], [], color="0.1", linestyle=(0, (4, 2)), label="model")]
    if selection.scale == "paper":
        handles.append(
            Line2D([], [], color="0.4", marker="o", markerfacecolor="none", linestyle="none", label="published")
        )
    figure.legend(
        handles=handles, title="after steps of training", fontsize=7, title_fontsize=7, loc="outside right center"
    )
    headline(figure, title(selection))
    return figure


def deep_relative_trust_at_initialisation(selection: Selection, styles: Styles) -> Any:
    """Measured / modelled change at initialisation, largest eta: of the first layer by depth, and layer by layer."""
    starts = at_start(selection)
    figure, (by_depth, by_layer) = plt.subplots(1, 2, figsize=(8.2, 3.5), sharey=True)
    for kind, runs in starts.groupby("network"):
        look, ratio = LOOKS[str(kind)], runs["value"] / runs["model"]
        means = ratio.groupby(runs["hidden_layers"]).apply(mean)
        by_depth.plot(layers(means.index), means, **look, markersize=5, label=str(kind))
        by_depth.scatter(layers(runs["hidden_layers"]), ratio, s=9, color=look["color"], alpha=0.5)
    for arm, kind, depth in shown(selection):
        runs = starts[starts["arm"] == arm]
        if runs.empty:
            continue
        places = list(range(1, layers(depth) + 1))
        ratios = pd.DataFrame({place: runs[f"change_{place}"] / runs["model"] for place in places})
        means = ratios.apply(mean)
        small = {"markersize": 4, "linestyle": "-" if depth > 1 else (0, (1, 1))}
        by_layer.plot(places, means, **LOOKS[kind], **small, label=name(kind, depth))
        by_layer.fill_between(places, ratios.min(), ratios.max(), color=LOOKS[kind]["color"], alpha=0.15, linewidth=0)
    for theirs, change in AT_START.items() if selection.scale == "paper" else ():
        network, hidden_layers = str(theirs).split()
        hollow = {"markerfacecolor": "none", "markersize": 8, "linestyle": "none"}
        ratio = change / modelled(0.099, int(hidden_layers))
        by_depth.plot(layers(int(hidden_layers)), ratio, **(LOOKS[network] | hollow))
    if selection.scale == "paper":
        by_depth.plot([], [], "o", color="0.4", markerfacecolor="none", markersize=8, label="as published")
    for axes in (by_depth, by_layer):
        axes.axhline(1, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.legend(fontsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
    by_depth.set(yscale="log")
    by_depth.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    by_depth.yaxis.set_major_formatter("{x:g}")
    by_depth.yaxis.set_minor_formatter(NullFormatter())
    by_depth.set(xlabel="layers of the network", ylabel="measured / modelled change")
    by_depth.set_title("first layer", fontsize=9)
    by_layer.set(xlabel="layer, counted from the input")
    by_layer.set_title("every layer", fontsize=9)
    headline(figure, title(selection))
    return figure


REPORT = Report(
    title="Fromage, figure 1",
    figures=(
        Figure("", SLICES, fromage_figure_1, curves=True),
        Figure("-trust", SLICES, deep_relative_trust_at_initialisation),
    ),
    claims=(*ORDERS, *VALUES, EXCESS),
    cost={
        "paper": (
            "make reproduce-mlp-curvature SCALE=paper LAUNCHER=serial ARGS=task.train_steps=0",
            "5 slices at initialisation: 2 to 4 hours of a CPU core, one thread",
        ),
        "quick": ("make reproduce-mlp-curvature SEEDS=5", "about 1 minute, 2 CPU cores"),
    },
    published={"paper": ENDS},
)
