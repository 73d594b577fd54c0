"""arXiv 2111.00841: spectra of Jacobians by free probability, and what they tell of training.

- ``free_probability-<scale>``: densities by Newton lilypads, of sampled networks, and as the public code has them;
- ``free_probability-<scale>_training``: test loss and accuracy against the spectrum before training.
"""

import math
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

from reltrust.reporting.claims import Claim
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Selection
from reltrust.reporting.style import Styles, headline

from .architectures import ARCHITECTURES
from .verdicts import (
    BY_ACCURACY,
    BY_LOSS,
    SPECTRA,
    judge_accuracy,
    judge_certified,
    judge_fast,
    judge_hyperbolic,
    judge_quantiles,
    judge_spectra,
    judge_strong,
    trained,
    uneven,
)

GAINS = {0.25: "#0072B2", 0.5: "#56B4E9", 1.0: "#000000", 2.0: "#E69F00", 4.0: "#D55E00"}
MARKERS = "os^Dv<>PXhp*"


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_spectra(ours: Selection, styles: Styles) -> Any:
    """Densities of the logarithm, a panel an architecture."""
    runs = {str(row["network"]): row for _, row in ours.best.iterrows()}
    shown = [name for name in ARCHITECTURES if name in runs]
    columns = min(4, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure, panels = plt.subplots(lines, columns, figsize=(2.7 * columns, 2.2 * lines), squeeze=False)
    for axes, name in zip(panels.flat, shown, strict=False):
        row = runs[name]
        curve = ours.curves[ours.curves["run"] == row["run"]].sort_values("step")
        axes.bar(
            curve["x"], curve["density_sampled"], width=curve["x"].diff().bfill(), color="0.8",
            label="sampled networks",
        )  # fmt: skip
        if row["distance_code"] > row["distance"] + 1e-6:
            axes.plot(
                curve["x"], curve["density_code"], color="#D55E00", linewidth=1, linestyle=(0, (3, 1.5)),
                label="as in the public code",
            )  # fmt: skip
        axes.plot(curve["x"], curve["density"], color="#0072B2", linewidth=1.5, label="free probability")
        axes.set(xscale="log", ylim=(0, None))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(visible=False)
        axes.set_title(f"{ARCHITECTURES[name].label}, {row['mass']:.0%} at 0", fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in panels.flat[len(shown) :]:
        axes.axis("off")
    handles = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), fontsize=8, ncols=3, loc="outside lower center")
    first = ours.runs.iloc[0]
    headline(
        figure,
        f"{ours.scale}: density of log x, x an eigenvalue of JᵀJ; {first['networks']:.0f} networks with "
        f"{first['width']:.0f} inputs",
    )
    return figure


def draw_training(ours: Selection, accuracy: Selection, styles: Styles) -> Any:
    """Each architecture is a point: its mean over seeds."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6))
    for axes, selection in zip(panels, (ours, accuracy), strict=True):
        table = trained(selection)
        networks = sorted(table["network"].unique(), key=lambda name: (len(name), name))
        for number, network in enumerate(networks):
            for _, row in table[table["network"] == network].iterrows():
                axes.plot(
                    row["log_quantile"], row["value"], MARKERS[number % len(MARKERS)], markersize=5, alpha=0.85,
                    color=GAINS.get(row["gain"], "0.5"),
                )  # fmt: skip
        axes.axvline(0, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set(
            xlabel="log₁₀(q + 0.01), q the 0.9-quantile before training", ylabel=selection.comparison.measure.label
        )
    panels[0].set(yscale="log")
    for gain, color in GAINS.items():
        panels[1].plot([], [], "o", color=color, label=f"gain {gain:g}")
    panels[1].legend(fontsize=7, loc="lower right", title="a marker a shape", title_fontsize=7)
    first = ours.runs.iloc[0]
    headline(
        figure,
        f"{ours.scale}: {first['data']}, three hidden ReLU layers, SGD at {first['lr']:g}, {first['steps']:.0f} steps "
        f"of batch {first['batch_size']:.0f}; means of {ours.runs['seed'].nunique()} seeds",
    )
    return figure


# --- all of it -------------------------------------------------------------------------------------------------------

UNREAD = "abstract; no number could be read"
CODE = "redachhaibi/FreeNN passes N_l/N_{l-1} for its reciprocal"
SCALES = ("quick_training", "paper")
AT_START = "Free probability gives the spectra of Jacobians at initialisation, certified and fast"
FORETOLD = "The spectrum before training foretells the test loss; hyperbolicity is desirable"

REPORT = Report(
    title="Free probability (arXiv 2111.00841)",
    figures=(
        Figure("", SPECTRA, draw_spectra, scales=("quick", "smoke")),
        Figure("", BY_LOSS, draw_training, also=(BY_ACCURACY,), scales=(*SCALES, "smoke_training")),
    ),
    claims=(
        Claim(
            "Convergence is proven: every point is certified",
            SPECTRA,
            ("quick",),
            UNREAD,
            judge_certified,
            finding=AT_START,
            label="certified",
        ),
        Claim(
            "The spectra are those of sampled networks",
            SPECTRA,
            ("quick",),
            UNREAD,
            partial(judge_spectra, "distance", lambda network: True),
            finding=AT_START,
            label="distance to samples",
        ),
        Claim(
            "Their 0.9-quantiles too",
            SPECTRA,
            ("quick",),
            UNREAD,
            judge_quantiles,
            finding=AT_START,
            label="0.9-quantiles",
        ),
        Claim(
            "Of unequal widths they are so as the public code computes them",
            SPECTRA,
            ("quick",),
            CODE,
            partial(judge_spectra, "distance_code", uneven),
        ),
        Claim("The method is very fast", SPECTRA, ("quick",), UNREAD, judge_fast, finding=AT_START, label="time"),
        Claim(
            "Spectrum before training and final test loss correlate strongly",
            BY_LOSS,
            SCALES,
            UNREAD,
            judge_strong,
            finding=FORETOLD,
            label="test loss",
        ),
        Claim(
            "Its correlation with the final test accuracy is up to 85 %",
            BY_ACCURACY,
            SCALES,
            "0.85 (abstract)",
            judge_accuracy,
            finding=FORETOLD,
            label="test accuracy",
        ),
        Claim(
            "Hyperbolicity of the Jacobian is desirable, not the edge of chaos",
            BY_LOSS,
            SCALES,
            UNREAD,
            judge_hyperbolic,
            finding=FORETOLD,
            label="hyperbolicity",
        ),
    ),
    cost={
        "paper": ("make reproduce-free-probability SCALE=paper", "days of one GPU"),
        "quick": ("make reproduce-free-probability", "about a minute, 2 CPU cores, both parts"),
        "quick_training": ("make reproduce-free-probability SCALE=quick_training", "about a minute, 2 CPU cores"),
    },
    parts={"quick": ("quick_training",), "smoke": ("smoke_training",)},
)
