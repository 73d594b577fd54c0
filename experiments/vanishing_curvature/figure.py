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
import pandas as pd

from reltrust.reporting.claims import Claim, Verdict
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Measure, Selection, describe
from reltrust.reporting.style import Styles

from . import theory
from .architectures import ARCHITECTURES, CHAINS
from .fits import least_squares, slope_of_means, slope_over_seeds

GRADIENT = Comparison(
    Measure("gradient_mean", "|df/dW₁|", best="max", diverged=-math.inf, ties="gradient_mean"),
    x="depth",
    arm="network",
    tuned=None,
)
PLATEAU = Comparison(
    Measure(
        "plateau_share", "share of steps on the plateau", best="min", diverged=1.0, ties="train_loss", bounds=(0, 1)
    ),
    x="depth",
)
STANDARD_ERRORS = 3  # within which a measured mean is theory's
PLAIN = ("he", "he_root", "he_proportional", "xavier", "xavier_proportional", "linear", "linear_proportional")
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


# --- claims: of networks at initialisation ---------------------------------------------------------------------------


def rows_of(ours: Selection, network: str) -> pd.DataFrame:
    """The analyses of a network, by depth; none if there are fewer than two."""
    rows = ours.runs[ours.runs["network"] == network].sort_values("depth")
    return rows if len(rows) > 1 else rows.iloc[:0]


def in_words(slopes: dict[str, Any], n: float) -> str:
    named = "; ".join(f"{ARCHITECTURES[name].label}: {slope}" for name, slope in slopes.items())
    return f"slope of the mean logarithm a layer, {named} (n={n:.0f} networks a depth)"


def slopes_of(ours: Selection, networks: tuple[str, ...], name: str) -> tuple[dict[str, Any], float] | None:
    """The slopes in depth, and the fewest networks at a depth; None if one of the networks is missing."""
    rows = {network: rows_of(ours, network) for network in networks}
    if any(own.empty for own in rows.values()):
        return None
    least = min(float(own[f"{name}_n"].min()) for own in rows.values())
    return {network: slope_of_means(own, name) for network, own in rows.items()}, least


def judge_vanishing(networks: tuple[str, ...], name: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether the mean logarithm of a quantity falls with depth.

    reproduced: the whole 95 % interval of its slope is below 0 for every network; partly: for some; not reproduced: for
    none; not run: one of the networks is missing.
    """
    if (found := slopes_of(ours, networks, name)) is None:
        return "-", Verdict.NOT_RUN
    falling = [slope.high < 0 for slope in found[0].values()]
    verdict = Verdict.REPRODUCED if all(falling) else Verdict.PARTLY if any(falling) else Verdict.NOT_REPRODUCED
    return in_words(*found), verdict


def judge_flat(networks: tuple[str, ...], ours: Selection) -> tuple[str, Verdict]:
    """Whether the mean logarithm of the gradient does not depend on depth.

    reproduced: the 95 % interval of its slope contains 0 for every network; partly: for some; not reproduced: for none;
    not run: one of the networks is missing.
    """
    if (found := slopes_of(ours, networks, "gradient")) is None:
        return "-", Verdict.NOT_RUN
    flat = [slope.low <= 0 <= slope.high for slope in found[0].values()]
    verdict = Verdict.REPRODUCED if all(flat) else Verdict.PARTLY if any(flat) else Verdict.NOT_REPRODUCED
    return in_words(*found), verdict


def judge_theory(ours: Selection) -> tuple[str, Verdict]:
    """Whether the mean log-gradients of plain networks and of chains are those of the closed forms.

    reproduced: at least 95 % of all (network, depth) are within three standard errors; partly: at least half;
    not reproduced: fewer; not run: there are none.
    """
    cells = ours.runs[ours.runs["network"].isin([*PLAIN, *CHAINS])]
    if cells.empty:
        return "-", Verdict.NOT_RUN
    away = [
        abs(row["gradient_mean"] - mean_log_gradient(row)) * math.sqrt(row["gradient_n"]) / row["gradient_std"]
        for _, row in cells.iterrows()
    ]
    within = sum(one <= STANDARD_ERRORS for one in away)
    text = f"{within} of {len(away)} within {STANDARD_ERRORS} standard errors, the farthest {max(away):.1f}"
    share = within / len(away)
    return text, (Verdict.REPRODUCED if share >= 0.95 else Verdict.PARTLY if share >= 0.5 else Verdict.NOT_REPRODUCED)


def mean_log_gradient(row: "pd.Series[Any]") -> float:
    if row["network"] in CHAINS:
        return theory.log_chain_gradient(row["network"], int(row["depth"]))
    return theory.log_gradient(ARCHITECTURES[row["network"]], int(row["width"]), int(row["depth"]))


def judge_saddle(networks: tuple[str, ...], ours: Selection) -> tuple[str, Verdict]:
    """Whether the start of the deepest networks is like a saddle: the Hessian as negative as it is positive.

    reproduced: in every network the median smallest eigenvalue is negative and at least half as large as the median
    largest; partly: in some; not reproduced: in none; not run: one of the networks is missing.
    """
    rows = {network: rows_of(ours, network) for network in networks}
    if any(own.empty for own in rows.values()):
        return "-", Verdict.NOT_RUN
    ratios = {name: math.exp(own["bottom_p50"].iloc[-1] - own["top_p50"].iloc[-1]) for name, own in rows.items()}
    like = [ratio >= 0.5 for ratio in ratios.values()]
    text = "; ".join(f"{ARCHITECTURES[name].label}: {ratio:.2f}" for name, ratio in ratios.items())
    n = min(float(own["bottom_n"].iloc[-1]) for own in rows.values())
    depth = min(int(own["depth"].iloc[-1]) for own in rows.values())
    verdict = Verdict.REPRODUCED if all(like) else Verdict.PARTLY if any(like) else Verdict.NOT_REPRODUCED
    return f"-smallest / largest eigenvalue at depth {depth}, {text} (n={n:.0f} networks)", verdict


# --- claims: of escape -----------------------------------------------------------------------------------------------

FLOWS = {"flow": "gradient flow", "sign": "sign descent", "rms": "RMS descent"}


def judge_flows(ours: Selection) -> tuple[str, Verdict]:
    """Whether gradient flow stays on a chain's plateau for about 1 / curvature, and sign and RMS descent do not.

    The slopes are those of the median log-time against the median log-curvature, over depths, for each kind of chain.
    reproduced: of gradient flow all are in [-1.2, -0.8], of the others all in [-0.1, 0.1]; partly: gradient flow's are
    below -0.5 and the others' above half of that; not reproduced: otherwise; not run: one kind is missing.
    """
    slopes: dict[str, list[float]] = {flow: [] for flow in FLOWS}
    for chain in CHAINS:
        if (rows := rows_of(ours, chain)).empty:
            return "-", Verdict.NOT_RUN
        for flow, own in slopes.items():
            own.append(least_squares(rows["curvature_p50"].to_numpy(float), rows[f"{flow}_time_p50"].to_numpy(float)))
    text = "; ".join(f"{FLOWS[flow]}: {', '.join(f'{one:.3f}' for one in own)}" for flow, own in slopes.items())
    n = ours.runs["curvature_n"].min()
    text = f"slope of log-time in log-curvature, normal and uniform weights, {text} (n={n:.0f} chains a depth)"
    others = [*slopes["sign"], *slopes["rms"]]
    if all(-1.2 <= one <= -0.8 for one in slopes["flow"]) and all(abs(one) <= 0.1 for one in others):
        return text, Verdict.REPRODUCED
    weakest = max(slopes["flow"])
    return text, Verdict.PARTLY if weakest < -0.5 and min(others) > weakest / 2 else Verdict.NOT_REPRODUCED


def escapes(ours: Selection, arm: str) -> pd.DataFrame:
    """The arm's runs at their selected learning rates, with the logarithm of their steps on the plateau."""
    runs = ours.best[ours.best["arm"] == arm]
    return runs.assign(log_steps=np.log((runs["value"] * runs["steps"]).clip(lower=1).to_numpy(float)))


def escape_in_words(slope: Any, runs: pd.DataFrame) -> str:
    deepest = runs[runs["depth"] == runs["depth"].max()]
    steps = np.exp(deepest["log_steps"]).mean()
    return f"slope {slope}, {steps:.0f} steps at {runs['depth'].max()} layers"


def judge_sgd(ours: Selection) -> tuple[str, Verdict]:
    """Whether SGD's steps on the plateau are inversely related to the curvature at its start.

    The slope is that of log-steps against log-curvature over depths and seeds, at the selected learning rates;
    a run that never left counts with all its steps, which makes the slope flatter.
    reproduced: all of its 95 % interval (seeds resampled) is in [-1.5, -0.5]; partly: all is below 0;
    not reproduced: otherwise; not run: fewer than two depths or seeds.
    """
    runs = escapes(ours, "sgd")
    if runs["depth"].nunique() < 2 or runs["seed"].nunique() < 2:
        return "-", Verdict.NOT_RUN
    slope, _ = slope_over_seeds(runs, "log_curvature", "log_steps")
    text = f"{escape_in_words(slope, runs)} (n={runs['seed'].nunique()} seeds, {len(runs)} runs)"
    if slope.low >= -1.5 and slope.high <= -0.5:
        return text, Verdict.REPRODUCED
    return text, Verdict.PARTLY if slope.high < 0 else Verdict.NOT_REPRODUCED


def judge_fast(arm: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether a method leaves the plateau faster than SGD, and depends less on curvature.

    reproduced: at the greatest depth it stays for at most a fifth of SGD's mean steps, and all of the 95 % interval of
    its slope minus SGD's (seeds resampled, the same for both) is above 0; partly: one of the two; not reproduced:
    none; not run: one of them is missing, or has fewer than two depths or seeds.
    """
    own, sgd = escapes(ours, arm), escapes(ours, "sgd")
    if any(runs["depth"].nunique() < 2 or runs["seed"].nunique() < 2 for runs in (own, sgd)):
        return "-", Verdict.NOT_RUN
    (slope, draws), (_, of_sgd) = (slope_over_seeds(runs, "log_curvature", "log_steps") for runs in (own, sgd))
    at = own["depth"].max()
    times = [float(np.exp(runs[runs["depth"] == at]["log_steps"]).mean()) for runs in (own, sgd)]
    flatter = float(np.quantile(draws - of_sgd, 0.025)) > 0
    text = f"{escape_in_words(slope, own)}, SGD {times[1]:.0f} (n={own['seed'].nunique()} seeds)"
    met = [times[0] <= times[1] / 5, flatter]
    return text, Verdict.REPRODUCED if all(met) else Verdict.PARTLY if any(met) else Verdict.NOT_REPRODUCED


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
    figure.suptitle(
        f"{ours.scale}: width {first['width']} (at 8 layers, where it grows), medians, middle halves of {n} networks, "
        f"Hessian: {hessians}",
        fontsize=8, x=0.01, ha="left",
    )  # fmt: skip
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
    figure.suptitle(
        f"{ours.scale}: medians and middle halves of {int(ours.runs['gradient_n'].max())} chains; lines are theory",
        fontsize=8, x=0.01, ha="left",
    )  # fmt: skip
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
    figure.suptitle(
        f"{ours.scale}: {first['data']}, {first['network']}, width {first['width']}, batch {first['batch_size']:.0f}, "
        f"each at its best learning rate of {ours.runs['lr'].groupby(ours.runs['arm']).nunique().max()}, "
        f"{ours.runs['seed'].nunique()} seeds",
        fontsize=8, x=0.01, ha="left",
    )  # fmt: skip
    return figure


# --- all of it -------------------------------------------------------------------------------------------------------

UNREAD = "abstract; no number could be read"
DERIVED = "derived, not published"
OURS = "not in the paper"
FIXED = ("he", "xavier", "linear")
SLOW = (*FIXED, "he_root")


def claim(text: str, comparison: Comparison, part: str, judge: Any, published: str = UNREAD) -> Claim:
    return Claim(text, comparison, (f"quick{part}",), published, judge)


COMMAND = "make reproduce-vanishing-curvature"
COST = "about 4 minutes, 2 CPU cores, all three parts"
REPORT = Report(
    title="Vanishing curvature (arXiv 2106.03763)",
    figures=(
        Figure("", GRADIENT, draw_networks, scales=("quick", "smoke")),
        Figure("", GRADIENT, draw_chains, scales=("quick_chains", "smoke_chains")),
        Figure("", PLATEAU, draw_training, scales=("quick_training", "smoke_training")),
    ),
    claims=(
        claim(
            "Gradients vanish where width grows slower than depth, under He and Xavier initialisation",
            GRADIENT, "", partial(judge_vanishing, SLOW, "gradient"),
        ),
        claim(
            "Gradients do not vanish where width is proportional to depth",
            GRADIENT, "", partial(judge_flat, ("he_proportional", "linear_proportional")),
        ),
        claim(
            "The Hessian's eigenvalues vanish with depth at fixed width",
            GRADIENT, "", partial(judge_vanishing, FIXED, "curvature"),
        ),
        claim("At fixed width the start is like a saddle", GRADIENT, "", partial(judge_saddle, FIXED)),
        claim(
            "Residual connections and normalisation layers cure it: no slope in depth",
            GRADIENT, "", partial(judge_flat, ("residual", "batch_norm")),
        ),
        claim("Mean log-gradients are those of the closed form", GRADIENT, "", judge_theory, DERIVED),
        claim("Mean log-gradients are those of the closed form", GRADIENT, "_chains", judge_theory, DERIVED),
        claim(
            "The time on a chain's plateau is 1 / curvature under gradient flow, not under sign and RMS descent",
            GRADIENT, "_chains", judge_flows,
        ),
        claim("SGD's escape time is inversely related to curvature", PLATEAU, "_training", judge_sgd),
        claim("RMSprop escapes the plateau fast", PLATEAU, "_training", partial(judge_fast, "rmsprop")),
        claim("Adam escapes the plateau fast", PLATEAU, "_training", partial(judge_fast, "adam")),
        claim("Fromage escapes the plateau fast", PLATEAU, "_training", partial(judge_fast, "fromage"), OURS),
        claim("Madam escapes the plateau fast", PLATEAU, "_training", partial(judge_fast, "madam"), OURS),
    ),
    cost={
        "quick": (COMMAND, COST),
        "quick_chains": (f"{COMMAND} SCALE=quick_chains", "20 seconds of a CPU core"),
        "quick_training": (f"{COMMAND} SCALE=quick_training", "about 2 minutes, 2 CPU cores"),
    },
    parts={"quick": ("quick_chains", "quick_training"), "smoke": ("smoke_chains", "smoke_training")},
)  # fmt: skip
