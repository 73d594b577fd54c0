"""Fromage paper, figure 1: loss and gradient of perceptrons along the gradient.

- ``mlp_curvature-<scale>``: both against the relative size of the step, coloured by the moment, a column a network;
- ``mlp_curvature-<scale>-trust``: how many times the change exceeds the model of deep relative trust, against depth and
  layer by layer.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from reltrust.records.artifacts import read_published
from reltrust.reporting.claims import Claim, Verdict
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Measure, Selection, arms
from reltrust.reporting.style import Styles, headline

FAR = 10.0  # times: one change is of another order than another
NEAR = 2.0  # times: a change of one seed is the published one, of one seed too

NETWORK = ("network", "hidden_layers")  # an arm: "plain 15"
# 1e9: a slice that leaves the finite numbers has no result; no run has this value.
CHANGE = Measure("change_1", "change of the gradient, layer 1", "min", 1e9, ties="loss", bounds=(0, math.inf))
SLICES = Comparison(CHANGE, x="train_steps", arm=NETWORK, tuned=None)

PUBLISHED = read_published(Path(__file__).with_name("published.csv"))
PUBLISHED = PUBLISHED.assign(status="finished", seed=0, arm=arms(PUBLISHED, NETWORK))
# At the end of the slices, one row a network and moment, as in our table.
ENDS = PUBLISHED[PUBLISHED["eta"] == 0.099].pivot(
    index=["arm", *NETWORK, "train_steps", "status", "seed"], columns="quantity", values="value"
)
ENDS = ENDS.reset_index()
AT_START = ENDS[ENDS["train_steps"] == 0].set_index("arm")["change_1"]

LOOKS: dict[str, dict[str, Any]] = {  # of the kinds of networks, which are no optimizers
    "plain": {"color": "#444444", "marker": "o"},
    "residual": {"color": "#AA3377", "marker": "s"},
}


def layers(hidden_layers: Any) -> Any:
    """Weight matrices, the read-out's too."""
    return hidden_layers + 1


def modelled(eta: float, hidden_layers: int) -> float:
    """Deep relative trust, if every layer moves by ``eta`` of its norm: (1 + eta)^layers - 1."""
    return math.expm1(layers(hidden_layers) * math.log1p(eta))


def at_start(ours: Selection) -> pd.DataFrame:
    """The slices at initialisation: a row a network and seed."""
    return ours.best[(ours.best["train_steps"] == 0) & (ours.best["status"] == "finished")]


def mean(values: "pd.Series[float]") -> float:
    """Geometric."""
    return float(np.exp(np.log(values).mean()))


# --- claims ----------------------------------------------------------------------------------------------------------


def in_words(values: "pd.Series[float]") -> str:
    """The geometric mean as ``12.3 (n=3: 11.9 to 12.8)``."""
    extremes = f": {values.min():.4g} to {values.max():.4g}" if len(values) > 1 else ""
    return f"{mean(values):.4g} (n={len(values)}{extremes})"


def judge_more(arm: str, other: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether one network's gradient changes more than another's, at initialisation and the largest eta.

    reproduced: the least change of its seeds is more than ten times the largest of the other's; partly: its geometric
    mean is larger; not reproduced: it is not; not run: one of the two is missing.
    """
    starts = at_start(ours)
    one, two = (starts.loc[starts["arm"] == name, "value"] for name in (arm, other))
    if one.empty or two.empty:
        return "-", Verdict.NOT_RUN
    text = f"{in_words(one)} vs {in_words(two)}"
    if one.min() > FAR * two.max():
        return text, Verdict.REPRODUCED
    return text, Verdict.PARTLY if mean(one) > mean(two) else Verdict.NOT_REPRODUCED


def judge_value(arm: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether a network's change at initialisation is the published one of one seed.

    reproduced: the geometric mean over seeds is at most twice or at least half of it; partly: ten times, a tenth;
    not reproduced: further away; not run: no seed.
    """
    starts = at_start(ours)
    found = starts.loc[starts["arm"] == arm, "value"]
    if found.empty:
        return "-", Verdict.NOT_RUN
    away = abs(math.log(mean(found) / AT_START[arm]))
    verdict = Verdict.PARTLY if away <= math.log(FAR) else Verdict.NOT_REPRODUCED
    return in_words(found), Verdict.REPRODUCED if away <= math.log(NEAR) else verdict


def excess_slope(hidden_layers: Sequence[float], ratios: Sequence[float]) -> float:
    """The slope of ln(measured / modelled) in the number of layers, by least squares."""
    return float(np.polyfit(layers(np.asarray(hidden_layers, dtype=float)), np.log(ratios), 1)[0])


def judge_excess(ours: Selection) -> tuple[str, Verdict]:
    """Whether the change of plain networks at initialisation outgrows the model of deep relative trust with depth.

    reproduced: the slope of ln(measured / modelled) in the number of layers is above 0 for every seed; partly: their
    mean is; not reproduced: it is not; not run: fewer than two depths.
    """
    starts = at_start(ours)
    plain = starts[starts["network"] == "plain"]
    slopes = [
        excess_slope(list(of_seed["hidden_layers"]), list(of_seed["value"] / of_seed["model"]))
        for _, of_seed in plain.groupby("seed")
        if of_seed["hidden_layers"].nunique() > 1
    ]
    if not slopes:
        return "-", Verdict.NOT_RUN
    ratio = (plain["value"] / plain["model"]).groupby(plain["hidden_layers"]).apply(mean)
    ends = ", ".join(f"x {ratio[depth]:.3g} at {layers(depth)}" for depth in (ratio.index.min(), ratio.index.max()))
    extremes = f": {min(slopes):.3g} to {max(slopes):.3g}" if len(slopes) > 1 else ""
    text = f"{np.mean(slopes):.3g} a layer (n={len(slopes)}{extremes}; {ends})"
    if min(slopes) > 0:
        return text, Verdict.REPRODUCED
    return text, Verdict.PARTLY if np.mean(slopes) > 0 else Verdict.NOT_REPRODUCED


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
    return (
        f"{selection.scale} protocol: all training images of {first['data']}, width {first['width']}, trained by "
        f"Fromage {first['train_lr']:g} in batches of {first['train_batch']}, {seeds} seed{'s' * (seeds > 1)}"
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
    figures=(Figure("", SLICES, fromage_figure_1), Figure("-trust", SLICES, deep_relative_trust_at_initialisation)),
    claims=(*ORDERS, *VALUES, EXCESS),
    cost={
        "paper": (
            "make reproduce-mlp-curvature SCALE=paper LAUNCHER=serial ARGS=task.train_steps=0",
            "5 slices at initialisation: 2 to 4 hours of a CPU core, one thread",
        ),
        "quick": ("make reproduce-mlp-curvature SEEDS=5", "about 1 minute, 2 CPU cores"),
    },
    published={"paper": ENDS, "quick": ENDS},
)
