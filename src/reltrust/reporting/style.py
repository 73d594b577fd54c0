"""How the figures look: colours for all eyes, readable in grey, the same files for the same numbers."""

import hashlib
import io
import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf

from reltrust.records.artifacts import write_figure

mpl.use("Agg")
mpl.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "0.9",
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "pdf.fonttype": 42,  # text stays text
        "svg.hashsalt": "reltrust",
    }
)

_MARKERS = "hp8<>HdvPX*D^so"
_DASHES = [[], [6, 2, 1, 2], [3, 1], [1, 1.5], [5, 1, 1, 1, 1, 1], [8, 2]]


class Styles:
    """Label, colour, marker and dash of every arm of a table, as its optimizer's config states them in ``style:``.

    What a config leaves open, and all of an arm that is a variant, is derived from the arm's name: the same in every
    figure, and another for every arm. Two arms that would have one colour and marker get another marker.

    Args:
        table: as :func:`reltrust.reporting.table.load` returns it.
        also: arms that may stand in a figure without a row in the table, published ones.
    """

    def __init__(self, table: pd.DataFrame, also: Iterable[str] = ()) -> None:
        self._labels: dict[str, str] = {}
        self._lines: dict[str, dict[str, Any]] = {}
        # Records from before there were styles have an empty one.
        rows: dict[str, Any] = {
            str(arm): runs.sort_values("style", key=lambda style: style != "{}", kind="stable").iloc[-1]
            for arm, runs in table.groupby("arm")
        }
        self._taken: set[tuple[str, str]] = set()
        # Optimizers as their configs have them come first, so that no variant takes their looks.
        for arm in sorted({*rows, *also}, key=lambda arm: (" (" in arm, arm)):
            name = rows[arm]["optimizer"] if arm in rows else arm
            self._add(arm, name, json.loads(rows[arm]["style"]) if arm in rows else {})

    def _add(self, arm: str, name: str, stated: dict[str, Any]) -> None:
        self._labels[arm] = arm.replace(name, stated.get("label") or name, 1)
        digest = hashlib.sha256(arm.encode()).digest()
        derived: dict[str, Any] = {
            "color": "#" + "".join(f"{channel // 2 + 32:02X}" for channel in digest[:3]),  # dark on white
            "marker": _MARKERS[digest[3] % len(_MARKERS)],
            "dash": _DASHES[digest[4] % len(_DASHES)],
        }
        look = derived | {key: value for key, value in stated.items() if arm == name and value is not None}
        free = [one for one in _MARKERS if (look["color"], one) not in self._taken]
        if (look["color"], look["marker"]) in self._taken and free:
            look["marker"] = free[0]
        self._taken.add((look["color"], look["marker"]))
        self._lines[arm] = {
            "color": look["color"],
            "marker": look["marker"],
            "linestyle": (0, tuple(look["dash"])) if look["dash"] else "-",
            "linewidth": 1.6,
            "markersize": 5,
        }

    def label(self, arm: str) -> str:
        """The name under which an arm stands in figures."""
        self.line(arm)
        return self._labels[arm]

    def line(self, arm: str) -> dict[str, Any]:
        """Keyword arguments for ``Axes.plot``: colour, marker and dash; of an arm that was only published, derived."""
        if arm not in self._lines:
            self._add(arm, arm, {})
        return self._lines[arm]


def annotate(figure: Any, text: str) -> None:
    """Writes a caption below the figure, in lines of its width."""
    size = 6.0  # points; a letter is about half as wide
    lines = textwrap.wrap(text, int(figure.get_figwidth() * 72 / (0.52 * size)))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=size, color="0.35")


def headline(figure: Any, text: str) -> None:
    """Says above all panels, small and on the left, what the figure is of."""
    figure.suptitle(text, fontsize=8, x=0.01, ha="left")


def save(figure: Any, results: str | Path, name: str) -> list[Path]:
    """Writes ``figures/<name>.pdf`` and ``.png``, without the time of day in them, and returns their paths."""
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")  # it is laid out: not once more for every file
    paths, content = [], {"pdf": io.BytesIO(), "png": io.BytesIO()}
    # Not savefig, which draws everything twice.
    pages: Any = FigureCanvasPdf(figure)
    pages.print_pdf(content["pdf"], metadata={"CreationDate": None})
    figure.set_dpi(200)
    pixels: Any = FigureCanvasAgg(figure)
    pixels.print_png(content["png"], metadata={"Software": None})
    for suffix, made in content.items():
        paths.append(write_figure(results, name, suffix, made.getvalue()))
    return paths
