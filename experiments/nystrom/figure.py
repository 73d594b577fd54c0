"""arXiv 1911.13036: adaptive Nystrom tops beside dense ones, from few images and from all.

- ``nystrom-<scale>``: held-out accuracy against the learned parameters of the top, a panel a number of training images.
"""

from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from reltrust.reporting.claims import Claim
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Selection
from reltrust.reporting.statistics import with_intervals
from reltrust.reporting.style import Styles, headline

from .kernels import KERNELS, NO_KERNEL
from .verdicts import ACCURACY, ALL, BY_SAMPLES, DENSE, NARROW, judge_as_good, judge_few, judge_learned, nystrom

LOOKS = {  # top and kernel: label, colour, marker, line
    ("dense", NO_KERNEL): ("dense", "#000000", "s", "-"),
    ("nystrom", "linear"): ("linear", "#E69F00", "o", "-"),
    ("nystrom", "rbf"): ("RBF", "#0072B2", "^", "-"),
    ("nystrom", "chi2"): ("chi²", "#009E73", "v", "-"),
    ("nystrom", "exp_chi2"): ("exp chi²", "#CC79A7", "D", "-"),
    ("nystrom", "linear+rbf+chi2"): ("linear, RBF\nand chi²", "#56B4E9", "P", "none"),
    ("fixed", "rbf"): ("RBF, matrix\nnot learned", "#D55E00", "x", (0, (3, 2))),
}


# --- figure ----------------------------------------------------------------------------------------------------------


def draw_tops(ours: Selection, styles: Styles) -> Any:
    """Means over splits with Student's 95 % intervals; numbers beside points are landmarks, or dense units."""
    numbers = sorted(ours.best["samples"].unique(), key=lambda n: (n == ALL, n))
    figure, panels = plt.subplots(1, len(numbers), figsize=(1.8 + 2.6 * len(numbers), 3.6), sharex=True, squeeze=False)
    for axes, number in zip(panels[0], numbers, strict=True):
        runs = ours.best[ours.best["samples"] == number]
        for (top, kernel), (label, color, marker, line) in LOOKS.items():
            cells = of_sizes(runs[(runs["top"] == top) & (runs["kernel"] == kernel)])
            if cells.empty:
                continue
            axes.errorbar(
                cells["top_parameters"], cells["mean"], yerr=(cells["high"] - cells["low"]) / 2, color=color,
                marker=marker, linestyle=line, markersize=4.5, linewidth=1.2, elinewidth=0.7, label=label,
            )  # fmt: skip
            if (top, kernel) in (("dense", NO_KERNEL), ("nystrom", "linear")):
                for _, cell in cells.iterrows():
                    axes.annotate(
                        f"{cell['size']:.0f}", (cell["top_parameters"], cell["mean"]), xytext=(3, -9),
                        textcoords="offset points", fontsize=6, color=color,
                    )  # fmt: skip
        axes.set(xscale="log", xlabel="learned parameters of the top")
        axes.set_title("all training images" if number == ALL else f"{number} images of each class", fontsize=9)
    panels[0][0].set_ylabel(ACCURACY.label)
    handles = {
        label: handle for axes in panels[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), fontsize=8, loc="outside right center")
    first = ours.runs.iloc[0]
    headline(
        figure,
        f"{ours.scale}: {first['data']}, {first['network']} network, {first['steps']:.0f} steps of batch "
        f"{first['batch_size']:.0f}, {first['optimizer']}; {ours.runs['seed'].nunique()} splits",
    )
    return figure


def of_sizes(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a size: ``top_parameters``, and mean and interval of accuracy over splits."""
    cells = runs.groupby("size").agg(
        top_parameters=("top_parameters", "max"), n=("value", "size"), mean=("value", "mean"), std=("value", "std")
    )
    return with_intervals(cells.reset_index()).dropna(subset="top_parameters")


# --- all of it -------------------------------------------------------------------------------------------------------

UNREAD = "abstract; no number could be read"
SCALES = ("paper", "paper_cifar100", "small_cifar10", "small", "quick")
FINDING = "A Nystrom top is as accurate as a dense one with far fewer parameters, and suits few training images"
COMMAND = "make reproduce-nystrom"
OF_KERNELS = tuple(nystrom(kernel) for kernel in KERNELS)

REPORT = Report(
    title="Adaptive Nystrom tops (arXiv 1911.13036)",
    figures=(Figure("", BY_SAMPLES, draw_tops),),
    claims=(
        Claim(
            "From all training images a Nystrom top is as accurate as a dense one, with far fewer parameters",
            BY_SAMPLES, SCALES, UNREAD, judge_as_good, finding=FINDING, label="all images",
            arms=(*OF_KERNELS, f"dense none {DENSE}"),
        ),
        Claim(
            "From 5 to 20 images of each class a Nystrom top is better than a dense one",
            BY_SAMPLES, SCALES, UNREAD, partial(judge_few, DENSE), finding=FINDING, label="few images",
            arms=(*OF_KERNELS, f"dense none {DENSE}"),
        ),
        Claim(
            "From 5 to 20 images of each class it is better than a dense top with as few parameters",
            BY_SAMPLES, SCALES, "not in the abstract", partial(judge_few, NARROW),
            arms=(*OF_KERNELS, f"dense none {NARROW}"),
        ),
        Claim(
            "A learned matrix is better than the inverse root of the kernel matrix",
            BY_SAMPLES, SCALES, UNREAD, partial(judge_learned, "rbf"), arms=(nystrom("rbf"), nystrom("rbf", "fixed")),
        ),
    ),
    cost={
        "paper": (f"{COMMAND} SCALE=paper", "VGG-19 on SVHN: days of a GPU"),
        "paper_cifar100": (f"{COMMAND} SCALE=paper_cifar100", "VGG-19 on CIFAR-100: days of a GPU"),
        "small_cifar10": (f"{COMMAND} SCALE=small_cifar10", "420 runs: 3 to 5 hours of a CPU core"),
        "small": (f"{COMMAND} SCALE=small", "420 runs: 2 to 3 hours of a CPU core"),
        "quick": (COMMAND, "about 4 minutes, 2 CPU cores"),
    },
)  # fmt: skip
