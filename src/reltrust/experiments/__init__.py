"""The experiments by name, each a package: those of a checkout's folder ``experiments/``, or those installed here.

One name for both, so that a process that unpickles an experiment's settings finds them wherever it was started.
"""

from pathlib import Path

_source = Path(__file__).resolve().parents[2]
if _source.name == "src":  # a checkout
    __path__.append(str(_source.parent / "experiments"))
