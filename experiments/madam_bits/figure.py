"""Madam paper, section 4: B-bit Madam against the bits of a weight, on every benchmark.

- ``madam_bits-<scale>``: the error against bits, and against bytes of packed weights; a panel a benchmark.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from reltrust.records.artifacts import read_published
from reltrust.reporting.claims import Claim
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Selection
from reltrust.reporting.style import Styles

from .representation import FP32, Strategy, packed_bytes
from .verdicts import (
    BENCHMARKS,
    INIT,
    Benchmark,
    along,
    comparisons,
    judge_close,
    judge_loses,
    judge_strategies,
    points,
    references,
)

# The authors' settings of B-bit Madam; what they measured with them could not be read.
PUBLISHED = read_published(Path(__file__).with_name("published.csv"))


# --- claims ----------------------------------------------------------------------------------------------------------


def claims(scale: str) -> list[Claim]:
    every = comparisons(scale)
    with_8 = [name for name in every if scale == "quick" or name in set(PUBLISHED[PUBLISHED["bits"] == 8]["benchmark"])]
    finding = "12-bit Madam stays close to FP32 Madam, and 8 bits lose"

    def claim(text: str, names: Sequence[str], judge: Any, *given: Any, **more: Any) -> Claim:
        first, *others = (every[name] for name in names)
        return Claim(text, first, (scale,), also=tuple(others), judge=partial(judge, scale, names, *given), **more)

    told = "no number could be read"
    found = [
        claim(
            "12-bit Madam stays close to FP32 Madam",
            list(every),
            judge_close,
            12,
            "madam",
            published=told,
            finding=finding,
            label="12 bits",
        ),
        claim("8-bit Madam loses", with_8, judge_loses, 8, published=told, finding=finding, label="8 bits"),
        claim(
            "12-bit Madam stays close to the better one of SGD and Adam",
            list(every),
            judge_close,
            12,
            "best",
            published=told,
        ),
    ]
    if scale == "quick":
        text = "Of 8 bits a fixed dynamic range loses less than a fixed base precision"
        found.append(claim(text, list(every), judge_strategies, 8, published="not claimed"))
    return found


# --- figure ----------------------------------------------------------------------------------------------------------

_LINES: dict[Strategy | None, dict[str, Any]] = {
    Strategy.RANGE: {"label": f"B-bit Madam, {Strategy.RANGE}", "marker": "d", "linestyle": "-"},
    Strategy.PRECISION: {"label": f"B-bit Madam, {Strategy.PRECISION}", "marker": "v", "linestyle": (0, (5, 1.5))},
    None: {"label": "B-bit Madam, as published", "marker": "d", "linestyle": "-"},
}
_COLORS = {
    Strategy.RANGE: "#56B4E9",
    Strategy.PRECISION: "#AA3377",
    None: "#56B4E9",
}  # the first is the optimizer's own


def error_against_bits(*ours_and_styles: Any) -> Any:
    """The error against the bits of a level, below, and the bytes of all weights packed, above; a panel a benchmark."""
    *ours, styles = ours_and_styles
    compared = [one.comparison for one in ours]
    scale = next(scale for scale in BENCHMARKS if list(comparisons(scale).values()) == compared)
    every = BENCHMARKS[scale]
    figure, panels = plt.subplots(1, len(every), figsize=(2.7 * len(every), 3.9), squeeze=False)
    for axes, selection, (name, of) in zip(panels[0], ours, every.items(), strict=True):
        _draw_benchmark(axes, selection, of, scale, styles)
        axes.set_title(f"{name}: {of.label}", fontsize=9)
    handles = {
        label: handle
        for axes in panels[0]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }  # fmt: skip
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=6, fontsize=7.5)
    return figure


def _draw_benchmark(axes: Any, ours: Selection, of: Benchmark, scale: str, styles: Styles) -> None:
    shown: list[float] = []
    for arm, errors in references(ours, of).items():
        look = styles.line(arm)
        label = "FP32 Madam" if arm == "madam" else styles.label(arm)
        axes.axhline(errors.mean(), color=look["color"], linestyle=look["linestyle"], linewidth=1.2, label=label)
        shown.append(float(errors.mean()))
    found = points(ours, of, INIT[scale])
    for strategy in Strategy if scale == "quick" else (None,):
        own = along(found, strategy)
        if own.empty:
            continue
        means = own.groupby("bits")["error"].mean()
        axes.plot(means.index, means, color=_COLORS[strategy], markersize=5, **_LINES[strategy], zorder=3)
        axes.scatter(own["bits"], own["error"], s=9, color=_COLORS[strategy], alpha=0.5)
        shown += own["error"].tolist()
    if not shown:
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color="0.5")
        axes.set_yticks([])
    bits = sorted({*found["bits"]}) or [8, 12]
    seeds = f" (n={found['seed'].nunique()})" if len(found) else ""
    axes.set(xlabel=f"bits of a level{seeds}", xlim=(min(bits) - 0.7, max(bits) + 0.7), xticks=bits)
    if shown and min(shown) > 0 and max(shown) > 4 * min(shown):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter("{x:g}")
    size, unit = (1e6, "MB") if of.weights * FP32 >= 1e6 else (1e3, "kB")
    above = axes.secondary_xaxis("top")
    above.set_xticks(bits, [f"{of.weights * packed_bytes(int(one)) / size:.3g}" for one in bits], fontsize=7)
    above.set_xlabel(f"{unit} of all weights, packed (FP32: {of.weights * FP32 / size:.3g})", fontsize=7)


RATES = {  # in captions: what is selected was selected elsewhere
    "quick": "Madam's learning rate is 0.01 at every number of bits; that of SGD and Adam is selected by quick runs.",
    "paper": "Nothing is selected: learning rates are those of the Madam paper.",
}
REPORT = Report(
    title="Madam, section 4: B-bit Madam",
    figures=tuple(
        Figure("", first, error_against_bits, also=tuple(others), scales=(scale,), selected=RATES[scale])
        for scale in BENCHMARKS
        for first, *others in [comparisons(scale).values()]
    ),
    claims=tuple(claim for scale in ("paper", "quick") for claim in claims(scale)),
    cost={
        "paper": ("make reproduce-madam-bits SCALE=paper", "18 runs of the benchmarks' paper scales: a GPU"),
        "quick": ("make reproduce-madam-bits", "72 runs, about half an hour (estimated), 2 CPU cores"),
    },
)
