"""What is compared, and the rules by which the claims of arXiv 2106.03763 are judged."""

import math
from typing import Any

import numpy as np
import pandas as pd

from reltrust.reporting.claims import Verdict, judge_all
from reltrust.reporting.selection import Comparison, Measure, Selection

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


# --- claims: of networks at initialisation ---------------------------------------------------------------------------


def rows_of(ours: Selection, network: str) -> pd.DataFrame:
    """The analyses of a network, by depth; none if there are fewer than two."""
    rows = ours.runs[ours.runs["network"] == network].sort_values("depth")
    return rows if rows["depth"].nunique() > 1 else rows.iloc[:0]


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
    return in_words(*found), judge_all(sum(falling), len(falling))


def judge_flat(networks: tuple[str, ...], ours: Selection) -> tuple[str, Verdict]:
    """Whether the mean logarithm of the gradient does not depend on depth.

    reproduced: the 95 % interval of its slope contains 0 for every network; partly: for some; not reproduced: for none;
    not run: one of the networks is missing.
    """
    if (found := slopes_of(ours, networks, "gradient")) is None:
        return "-", Verdict.NOT_RUN
    flat = [slope.low <= 0 <= slope.high for slope in found[0].values()]
    return in_words(*found), judge_all(sum(flat), len(flat))


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
    text = f"-smallest / largest eigenvalue at depth {depth}, {text} (n={n:.0f} networks)"
    return text, judge_all(sum(like), len(like))


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
    """The arm's runs at their selected learning rates, with the logarithm of their steps on the plateau.

    A diverged run has the curvature at the start of another one from the same weights; without any it is left out.
    """
    start = ["depth", "seed"]
    known = ours.runs.groupby(start, as_index=False)["log_curvature"].first()
    runs = ours.best[ours.best["arm"] == arm].drop(columns="log_curvature").merge(known.dropna(), on=start)
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
    return text, judge_all(sum(met), len(met))
