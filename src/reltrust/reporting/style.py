"""How the figures look: colours for all eyes, readable in grey, the same files for the same numbers."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

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

# Okabe and Ito's colours, whose lightness differs too; marker and dash tell the lines apart without any colour.
_OPTIMIZERS: dict[str, tuple[str, str, str, Any]] = {
    "fromage": ("Fromage", "#D55E00", "o", "-"),
    "adam": ("Adam", "#0072B2", "s", (0, (5, 1.5))),
    "sgd_momentum": ("SGD (momentum 0.9)", "#000000", "^", (0, (1, 1))),
    "sgd": ("SGD", "#999999", "v", (0, (3, 1, 1, 1))),
    "lars": ("LARS", "#E69F00", "P", (0, (4, 1, 1, 1))),
    "madam": ("Madam", "#009E73", "D", (0, (2, 1))),
    "integer_madam": ("Madam (integer)", "#56B4E9", "d", (0, (2, 1, 1, 1))),
    "signsgd": ("signSGD", "#CC79A7", "X", (0, (1, 2))),
    "novograd": ("NovoGrad", "#8C6D1F", "*", (0, (6, 1))),
}
_OTHERS = ("#7A7A7A", "h", (0, (6, 2, 1, 2)))


def label(optimizer: str) -> str:
    """The name under which an optimizer stands in figures; one that is not known here keeps its own."""
    return _OPTIMIZERS.get(optimizer, (optimizer,))[0]


def line(optimizer: str) -> dict[str, Any]:
    """Keyword arguments for ``Axes.plot``: colour, marker and dash of an optimizer."""
    color, marker, dash = _OPTIMIZERS[optimizer][1:] if optimizer in _OPTIMIZERS else _OTHERS
    return {"color": color, "marker": marker, "linestyle": dash, "linewidth": 1.6, "markersize": 5}


def order(optimizers: Any) -> list[str]:
    """The optimizers in the order in which legends and tables name them."""
    known = list(_OPTIMIZERS)
    return sorted(optimizers, key=lambda name: (known.index(name) if name in known else len(known), name))


def save(figure: Any, folder: str | Path, name: str) -> list[Path]:
    """Writes ``name``.pdf and ``name``.png, without the time of day in them, and returns their paths."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder, f"{name}.pdf"), Path(folder, f"{name}.png")]
    figure.savefig(paths[0], metadata={"CreationDate": None})
    figure.savefig(paths[1], dpi=200, metadata={"Software": None})
    return paths
