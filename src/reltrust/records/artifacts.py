"""What the results folder holds beside the runs: tables and figures. Needs no torch."""

import csv
import functools
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from reltrust.errors import DamagedError, first_line
from reltrust.experiment import CONFIGS
from reltrust.records.files import remove_scraps, write_atomically, writing

_HOUR = 3600.0  # nobody takes so long to write a table
_Rule = tuple[Callable[[str], bool], str]  # what a column holds, and that in words
_Rules = Mapping[str, _Rule]


class Needed(NamedTuple):
    """What figures and claims read of a run."""

    measures: Mapping[str, tuple[float, float]]
    """Columns in which it has a number, if it has finished, and that number's least and largest value."""
    places: tuple[str, ...]
    """Columns in which it has a number."""


def summary_path(results: str | Path, experiment: str) -> Path:
    """The experiment's table, a row a run."""
    return Path(results, "summaries", f"{experiment}.csv")


def curves_path(results: str | Path, experiment: str) -> Path:
    """What the runs of that table measured on their way, a row an evaluation."""
    return Path(results, "summaries", f"{experiment}-curves.csv")


def read_curves(results: str | Path, experiment: str) -> pd.DataFrame:
    """The experiment's curves, by ``comparison``, ``run`` and ``step``; no rows if there are none.

    Raises:
        DamagedError: as :func:`read_summary`.
    """
    path = curves_path(results, experiment)
    if not path.exists():
        return pd.DataFrame(columns=["comparison", "run", "step"])
    rules = {"comparison": _RULES["comparison"], "step": _INTEGER}
    return _read(path, rules, lambda scale: ({}, {}), ("comparison", "run", "step"))


def read_summary(
    results: str | Path, experiment: str, needed: Callable[[str], Needed] = lambda scale: Needed({}, ())
) -> pd.DataFrame:
    """The experiment's table, once every row of it is one that a run can have.

    Args:
        needed: of the runs of a scale, which is that of the column ``scale`` or, where there is none, ``comparison``.

    Raises:
        FileNotFoundError: there is no table.
        DamagedError: in one line the file, line, column and value that are wrong, and what is allowed.
    """

    def rules(scale: str) -> tuple[_Rules, _Rules]:
        measures, places = needed(scale)
        finished = {column: _number(*bounds) for column, bounds in measures.items()}
        return dict.fromkeys(places, _number(-math.inf, math.inf)), finished

    return _read(summary_path(results, experiment), _RULES, rules, ("comparison", "run"), _unknown_optimizer)


def read_published(path: Path) -> pd.DataFrame:
    """A table of published numbers, each of which says where it stands: its column ``source``.

    Raises:
        DamagedError: in one line the file, line and what is wrong: a row without a source, with more or fewer values
            than the header, the same as another, or of an optimizer that has no config.
    """
    rules: _Rules = {"source": (lambda text: bool(text.strip()), "where the number was published")}
    return _read(path, rules, lambda scale: ({}, {}), (), _unknown_optimizer)


@functools.cache
def known_optimizers() -> tuple[str, ...]:
    """Those that have a config, in alphabetical order."""
    return tuple(sorted(path.stem for path in (CONFIGS / "optimizer").glob("*.yaml")))


def _unknown_optimizer(row: Mapping[str, str]) -> str | None:
    """What is wrong with the row's optimizer: it has no config and, in its hyperparameters, no class.

    An analysis has none, or ``analysis`` in its place."""
    name = row.get("optimizer", "")
    if name in ("", "analysis", *known_optimizers()) or "target" in json.loads(row.get("hyperparameters") or "{}"):
        return None
    return f"optimizer={name!r}: unknown, allowed are {', '.join(known_optimizers())}, or one that names its target"


def _read(
    path: Path,
    every: _Rules,
    of_scale: Callable[[str], tuple[_Rules, _Rules]],
    key: tuple[str, ...],
    wrong: Callable[[Mapping[str, str]], str | None] = lambda row: None,
) -> pd.DataFrame:
    """A table in which each row keeps the rules and is the only one of its key.

    Args:
        every: of every row.
        of_scale: of the rows of a scale, and of those of them that are of a finished run.
        wrong: what is wrong with a row whose values are all right, if anything.
    """
    try:
        text = path.read_bytes().decode()
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (ValueError, csv.Error) as error:
        raise DamagedError(f"{path}: damaged: {first_line(error) if path.stat().st_size else 'empty'}") from None
    lines = [dict(zip(header, cells, strict=False)) for cells in rows]
    scales = [line.get("scale") or line.get("comparison", "") for line in lines]
    rules = {scale: of_scale(scale) for scale in dict.fromkeys(scales)}
    optional = {column: rule for column, rule in _OPTIONAL.items() if column in header}
    # A column keeps all of its rules. Of a scale in which all runs diverged there are no measures.
    both = {
        (scale, finished): [
            *every.items(), *optional.items(), *own.items(), *(measured.items() if finished else ()),
        ]
        for scale, (own, measured) in rules.items()
        for finished in (True, False)
    }  # fmt: skip
    kept = [both[scale, line.get("status") == "finished"] for scale, line in zip(scales, lines, strict=True)]
    used = [own for key, own in both.items() if any(own is one for one in kept)]
    if missing := [column for own in (every.items(), *used) for column, _ in own if column not in header]:
        raise DamagedError(f"{path}: damaged: the column {missing[0]} is missing")
    if not rows or len(set(header)) < len(header) or not text.endswith("\n"):
        raise DamagedError(f"{path}: damaged: it has no rows, two columns of one name, or no end of its last line")
    seen: dict[tuple[str, ...], int] = {}
    right: set[tuple[int, int, str]] = set()  # most values stand in many rows
    for number, (cells, row, own) in enumerate(zip(rows, lines, kept, strict=True), 2):
        if len(cells) != len(header):
            raise DamagedError(f"{path}: damaged: line {number} has {len(cells)} values, and the header {len(header)}")
        place = tuple(row[column] for column in key) if "run" in row else tuple(cells)
        if (first := seen.setdefault(place, number)) != number:
            raise DamagedError(f"{path}: damaged: line {number} is of the same run as line {first}, one is allowed")
        for place_of_rule, (column, (holds, allowed)) in enumerate(own):
            if (known := (id(own), place_of_rule, row[column])) in right:
                continue
            if not holds(row[column]):
                raise DamagedError(f"{path}: damaged: line {number}: {column}={row[column]!r}: must be {allowed}")
            right.add(known)
        if said := wrong(row):
            raise DamagedError(f"{path}: damaged: line {number}: {said}")
    return pd.read_csv(path, dtype={"comparison": str, "scale": str})


def _number(least: float, most: float) -> _Rule:
    def holds(text: str) -> bool:
        try:
            value = float(text)
        except ValueError:
            return False
        return math.isfinite(value) and least <= value <= most

    return holds, "a number" if (least, most) == (-math.inf, math.inf) else f"a number in [{least:g}, {most:g}]"


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


_INTEGER: _Rule = (lambda text: re.fullmatch("[0-9]+", text) is not None, "an integer from 0 on")
_RULES: _Rules = {
    "comparison": (lambda text: re.fullmatch("[0-9a-f]{8}", text) is not None, "8 hexadecimal digits"),
    "status": (lambda text: text in ("finished", "diverged"), "finished or diverged"),
    "seed": _INTEGER,
    "lr": (lambda text: text == "" or (_number(0, math.inf)[0](text) and float(text) > 0), "a number above 0"),
    "hyperparameters": (_is_json_object, "an object of JSON"),
}
_OPTIONAL: _Rules = {  # of columns that not every table has, and not every row has a value in
    "steps": (lambda text: re.fullmatch(r"([0-9]+(\.0)?)?", text) is not None, _INTEGER[1]),
    "style": (lambda text: text == "" or _is_json_object(text), "an object of JSON"),
    "schedule": (lambda text: text in ("", "null") or _is_json_object(text), "an object of JSON"),
}


def write_table(results: str | Path, name: str, text: str) -> Path:
    """Writes ``summaries/<name>.csv``, as a whole or not at all; returns its path."""
    return _write(Path(results, "summaries", f"{name}.csv"), text.encode())


def write_figure(results: str | Path, name: str, suffix: str, content: bytes) -> Path:
    """Writes ``figures/<name>.<suffix>``, as a whole or not at all; returns its path."""
    return _write(figure_path(results, name, suffix), content)


def figure_path(results: str | Path, name: str, suffix: str) -> Path:
    """``figures/<name>.<suffix>``, drawn or not."""
    return Path(results, "figures", f"{name}.{suffix}")


def report_path(results: str | Path) -> Path:
    """The page of everything: ``report/index.html``."""
    return Path(results, "report", "index.html")


def write_report(results: str | Path, html: str) -> Path:
    """Writes ``report/index.html``, as a whole or not at all; returns its path."""
    return _write(report_path(results), html.encode())


def keep_pictures(results: str | Path, experiment: str, run: str, name: str) -> dict[int, Path]:
    """By step, the files ``step<n>-<name>`` in ``pictures/<experiment>/<run>``, those that the run's record has first
    copied there: records are local, what figures are drawn from is not."""
    kept = Path(results, "pictures", experiment, run)
    for path in Path(results, "runs", experiment, run, "files").glob(f"step*-{name}"):
        if not (kept / path.name).exists() or (kept / path.name).read_bytes() != path.read_bytes():
            _write(kept / path.name, path.read_bytes())
    numbered = ((re.fullmatch(rf"step(\d+)-{re.escape(name)}", path.name), path) for path in kept.glob(f"*-{name}"))
    # By number: a longer run that has gone on from a shorter one has names of two lengths.
    return dict(sorted((int(match[1]), path) for match, path in numbered if match))


def _write(path: Path, content: bytes) -> Path:
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    remove_scraps(path.parent, older_than_seconds=_HOUR)
    write_atomically(path, lambda file: file.write(content))
    return path
