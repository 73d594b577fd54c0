"""arXiv 2106.03763: gradients, curvature and escape of deep networks at initialisation.

- ``vanishing_curvature-<scale>``: gradient and curvature against depth, of plain networks beside theory, and of cures;
- ``vanishing_curvature-<scale>_chains``: the same of chains, and how long descent stays on their plateau;
- ``vanishing_curvature-<scale>_training``: how long training does, against curvature and depth.
"""

import math
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from reltrust.reporting.claims import Claim
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Selection, describe
from reltrust.reporting.style import Styles, headline

from . import theory
from .architectures import ARCHITECTURES, CHAINS
from .verdicts import (
    FLOWS,
    GRADIENT,
    PLAIN,
    PLATEAU,
    escapes,
    judge_fast,
    judge_flat,
    judge_flows,
    judge_saddle,
    judge_sgd,
    judge_theory,
    judge_vanishing,
    mean_log_gradient,
    rows_of,
)

CURES = ("he", "batch_norm", "residual", "residual_plain")
LOOKS = {
    "he": ("#000000", "o", "-"),
    "he_root": ("#777777", "v", "-"),
    "he_proportional": ("#000000", "s", "--"),
    "xavier": ("#D55E00", "o", "-"),
    "xavier_proportional": ("#D55E00", "s", "--"),
    "linear": ("#0072B2", "o", "-"),
    "linear_proportional": ("#0072B2", "s", "--"),
    "batch_norm": ("#CC79A7", "D", "-"),
    "residual": ("#009E73", "^", "-"),
    "residual_plain": ("#E69F00", "P", "-"),
    "chain_normal": ("#0072B2", "o", "-"),
    "chain_uniform": ("#D55E00", "s", "--"),
}


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_quantity(axes: Any, ours: Selection, networks: tuple[str, ...], name: str) -> None:
    """Medians against depth, and the middle half of the networks as a bar."""
    for number, network in enumerate(networks):
        rows = rows_of(ours, network)
        if rows.empty:
            continue
        color, marker, _ = LOOKS[network]
        middle = np.exp(rows[[f"{name}_p25", f"{name}_p50", f"{name}_p75"]].to_numpy(float))
        errors = np.stack((middle[:, 1] - middle[:, 0], middle[:, 2] - middle[:, 1]))
        label = (
            (ARCHITECTURES[network].label if network in ARCHITECTURES else CHAINS[network])
            if name == "gradient"
            else None
        )
        away = 0.003 * (number - len(networks) / 2) * ours.runs["depth"].max()  # so that bars do not hide each other
        axes.errorbar(
            rows["depth"] + away, middle[:, 1], errors, fmt=marker, color=color, markersize=4, elinewidth=1,
            markerfacecolor="none" if "proportional" in network else color, label=label,
        )  # fmt: skip
    axes.set(yscale="log")


def draw_theory(axes: Any, ours: Selection, networks: tuple[str, ...], name: str) -> None:
    """The closed form of the gradient; of curvature its rate times L, through the median of the second depth."""
    for network in networks:
        rows = rows_of(ours, network)
        if rows.empty:
            continue
        first, last, width = int(rows["depth"].min()), int(rows["depth"].max()), int(rows["width"].iloc[0])
        depths = np.unique(np.geomspace(first, last, 40).round().astype(int))
        if network in CHAINS:
            logs = np.array([theory.log_chain_gradient(network, depth) for depth in depths])
        else:
            logs = np.array([theory.log_gradient(ARCHITECTURES[network], width, depth) for depth in depths])
        if name == "curvature":
            at = rows.iloc[1]
            anchor = at["curvature_p50"] - mean_log_gradient(at) - math.log(at["depth"])
            logs = logs + np.log(depths) + anchor
        color, _, dash = LOOKS[network]
        axes.plot(depths, np.exp(logs), color=color, linestyle=dash, linewidth=1)


def draw_networks(ours: Selection, styles: Styles) -> Any:
    figure, panels = plt.subplots(2, 2, figsize=(10, 6.6))
    for column, networks in enumerate((PLAIN, CURES)):
        for row, name in enumerate(("gradient", "curvature")):
            axes = panels[row][column]
            draw_theory(axes, ours, networks if column == 0 else ("he",), name)
            draw_quantity(axes, ours, networks, name)
        panels[0][column].legend(fontsize=7, loc="upper left" if column else "lower left")
        panels[1][column].set_xlabel("depth: weight matrices")
    panels[0][0].set(ylabel="|df/dW₁|, input of norm 1")
    panels[1][0].set(ylabel="largest |eigenvalue| of the Hessian")
    panels[0][0].set_title("plain networks: points measured, lines theory", fontsize=9)
    panels[0][1].set_title("normalisation and residual branches", fontsize=9)
    n, hessians = (int(ours.runs[f"{name}_n"].max()) for name in ("gradient", "curvature"))
    first = ours.runs.iloc[0]
    headline(
        figure,
        f"{ours.scale}: width {first['width']} (at 8 layers, where it grows), medians, middle halves of {n} networks, "
        f"Hessian: {hessians}",
    )
    return figure


def draw_chains(ours: Selection, styles: Styles) -> Any:
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.6))
    for axes, name in zip(panels, ("gradient", "curvature"), strict=False):
        draw_theory(axes, ours, tuple(CHAINS), name)
        draw_quantity(axes, ours, tuple(CHAINS), name)
        axes.set_xlabel("depth: weights of the chain")
    panels[0].set(ylabel="|df/dw₁|")
    panels[1].set(ylabel="largest |eigenvalue| of the Hessian")
    panels[0].legend(fontsize=7)
    axes = panels[2]
    curvatures = np.exp(ours.runs["curvature_p50"].to_numpy(float))
    line = np.geomspace(curvatures.min(), curvatures.max(), 50)
    axes.plot(line, 1 / line, color="0.4", linewidth=1, label="1 / curvature")
    for flow, color in zip(FLOWS, ("#000000", "#009E73", "#CC79A7"), strict=True):
        for chain in CHAINS:
            rows = rows_of(ours, chain)
            middle = np.exp(rows[[f"{flow}_time_p25", f"{flow}_time_p50", f"{flow}_time_p75"]].to_numpy(float))
            errors = np.stack((middle[:, 1] - middle[:, 0], middle[:, 2] - middle[:, 1]))
            label = FLOWS[flow] if chain == "chain_normal" else None
            filled = color if chain == "chain_normal" else "none"
            axes.errorbar(
                np.exp(rows["curvature_p50"]), middle[:, 1], errors, fmt=LOOKS[chain][1], color=color, markersize=4,
                elinewidth=1, markerfacecolor=filled, label=label,
            )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="median curvature at the start", ylabel="time on the plateau")
    axes.legend(fontsize=7, title="hollow: uniform weights", title_fontsize=7)
    headline(
        figure,
        f"{ours.scale}: medians and middle halves of {int(ours.runs['gradient_n'].max())} chains; lines are theory",
    )
    return figure


def draw_training(ours: Selection, styles: Styles) -> Any:
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.8), sharey=True)
    means = describe(ours)
    for arm in ours.arms:
        runs, line = escapes(ours, arm), styles.line(arm)
        steps = int(runs["steps"].iloc[0])
        cells = means[means["arm"] == arm]
        panels[0].plot(cells["depth"], (cells["mean"] * steps).clip(lower=1), **line, label=styles.label(arm))
        points = {**line, "linestyle": "none", "markersize": 4, "alpha": 0.7}
        panels[0].plot(runs["depth"], np.exp(runs["log_steps"]), **points | {"markersize": 2})
        panels[1].plot(np.exp(runs["log_curvature"]), np.exp(runs["log_steps"]), **points)
    for axes in panels:
        axes.axhline(steps, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set(yscale="log")
    panels[0].annotate("all steps", (0.01, steps), xycoords=("axes fraction", "data"), va="bottom", fontsize=7)
    sgd = escapes(ours, "sgd")
    if not sgd.empty:  # slope -1 through SGD's middle
        x, y = sgd["log_curvature"].to_numpy(float), sgd["log_steps"].to_numpy(float)
        ends = np.array([max(x.min(), x.mean() + y.mean() - math.log(steps)), x.max()])
        panels[1].plot(
            np.exp(ends), np.exp(y.mean() + x.mean() - ends), color="0.4", label="1 / curvature", linewidth=1
        )
    panels[0].set(xlabel="depth: weight matrices", ylabel="steps on the plateau")
    panels[1].set(xscale="log", xlabel="curvature at the start: largest |eigenvalue|")
    handles, labels = (a + b for a, b in zip(*(axes.get_legend_handles_labels() for axes in panels), strict=True))
    panels[1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5))
    first = ours.runs.iloc[0]
    headline(
        figure,
        f"{ours.scale}: {first['data']}, {first['network']}, width {first['width']}, batch {first['batch_size']:.0f}, "
        f"each at its best learning rate of {ours.runs['lr'].groupby(ours.runs['arm']).nunique().max()}, "
        f"{ours.runs['seed'].nunique()} seeds",
    )
    return figure


# --- all of it -------------------------------------------------------------------------------------------------------

UNREAD = "abstract; no number could be read"
DERIVED = "derived, not published"
OURS = "not in the paper"
FIXED = ("he", "xavier", "linear")
SLOW = (*FIXED, "he_root")


VANISHING = (
    "Gradients and curvature vanish with depth, not where width grows with it; shortcuts and normalisation cure it"
)
ESCAPE = "SGD leaves the plateau after about 1 / curvature steps, adaptive methods much sooner"


def claim(text: str, comparison: Comparison, part: str, judge: Any, published: str = UNREAD, **more: Any) -> Claim:
    return Claim(text, comparison, (f"quick{part}",), published, judge, **more)


COMMAND = "make reproduce-vanishing-curvature"
COST = "about 3 minutes, 2 CPU cores, all three parts"
MANY = "A seed draws many networks, their number is above: points are medians over them."
REPORT = Report(
    title="Vanishing curvature (arXiv 2106.03763)",
    figures=(
        Figure("", GRADIENT, draw_networks, scales=("quick", "smoke"), note=MANY),
        Figure("", GRADIENT, draw_chains, scales=("quick_chains", "smoke_chains"), note=MANY),
        Figure("", PLATEAU, draw_training, scales=("quick_training", "smoke_training")),
    ),
    claims=(
        claim(
            "Gradients vanish where width grows slower than depth, under He and Xavier initialisation",
            GRADIENT, "", partial(judge_vanishing, SLOW, "gradient"), finding=VANISHING, label="gradient", arms=SLOW,
        ),
        claim(
            "Gradients do not vanish where width is proportional to depth",
            GRADIENT, "", partial(judge_flat, ("he_proportional", "linear_proportional")), finding=VANISHING,
            label="width ~ depth", arms=("he_proportional", "linear_proportional"),
        ),
        claim(
            "The Hessian's eigenvalues vanish with depth at fixed width",
            GRADIENT, "", partial(judge_vanishing, FIXED, "curvature"), finding=VANISHING, label="curvature",
            arms=FIXED,
        ),
        claim(
            "At fixed width the start is like a saddle", GRADIENT, "", partial(judge_saddle, FIXED), finding=VANISHING,
            label="saddle", arms=FIXED,
        ),
        claim(
            "Residual connections and normalisation layers cure it: no slope in depth",
            GRADIENT, "", partial(judge_flat, ("residual", "batch_norm")), finding=VANISHING,
            label="cures", arms=("residual", "batch_norm"),
        ),
        claim("Mean log-gradients are those of the closed form", GRADIENT, "", judge_theory, DERIVED),
        claim("Mean log-gradients are those of the closed form", GRADIENT, "_chains", judge_theory, DERIVED),
        claim(
            "The time on a chain's plateau is 1 / curvature under gradient flow, not under sign and RMS descent",
            GRADIENT, "_chains", judge_flows, finding=f"{ESCAPE}: of chains",
        ),
        claim(
            "SGD's escape time is inversely related to curvature", PLATEAU, "_training", judge_sgd, finding=ESCAPE,
            label="SGD", arms=("sgd",),
        ),
        *(
            claim(
                f"{name} escapes the plateau fast", PLATEAU, "_training", partial(judge_fast, arm), published,
                finding=ESCAPE if published == UNREAD else "", label=name, arms=(arm, "sgd"),
            )
            for arm, name, published in (
                ("rmsprop", "RMSprop", UNREAD), ("adam", "Adam", UNREAD),
                ("fromage", "Fromage", OURS), ("madam", "Madam", OURS),
            )
        ),
    ),
    cost={
        "quick": (COMMAND, COST),
        "quick_chains": (f"{COMMAND} SCALE=quick_chains", "20 seconds of a CPU core"),
        "quick_training": (f"{COMMAND} SCALE=quick_training", "about 2 minutes, 2 CPU cores"),
    },
    parts={"quick": ("quick_chains", "quick_training"), "smoke": ("smoke_chains", "smoke_training")},
)  # fmt: skip
