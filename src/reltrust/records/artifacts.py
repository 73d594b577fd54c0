"""What the results folder holds beside the runs: tables and figures. Needs no torch."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd

from reltrust.errors import DamagedError, first_line
from reltrust.records.files import remove_scraps, write_atomically, writing

_HOUR = 3600.0  # nobody takes so long to write a table


def summary_path(results: str | Path, experiment: str) -> Path:
    """The experiment's table, a row a run."""
    return Path(results, "summaries", f"{experiment}.csv")


def read_summary(
    results: str | Path,
    experiment: str,
    measures: Mapping[str, tuple[float, float]] | None = None,
    places: Iterable[str] = (),
) -> pd.DataFrame:
    """The experiment's table, once every row of it is one that a run can have.

    Args:
        measures: columns in which every finished run has a number, and its least and largest value.
        places: columns in which every run has a number.

    Raises:
        FileNotFoundError: there is no table.
        DamagedError: in one line the file, line, column and value that are wrong, and what is allowed.
    """
    path = summary_path(results, experiment)
    always = _RULES | dict.fromkeys(places, _number(-math.inf, math.inf))
    finished = {column: _number(*bounds) for column, bounds in (measures or {}).items()}
    try:
        text = path.read_bytes().decode()
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (ValueError, csv.Error) as error:
        raise DamagedError(f"{path}: damaged: {first_line(error) if path.stat().st_size else 'empty'}") from None
    some = any("finished" in cells for cells in rows)  # where all runs diverged there are no measures
    if missing := [column for column in {**always, **(finished if some else {})} if column not in header]:
        raise DamagedError(f"{path}: damaged: the column {missing[0]} is missing")
    if not rows or len(set(header)) < len(header) or not text.endswith("\n"):
        raise DamagedError(f"{path}: damaged: it has no rows, two columns of one name, or no end of its last line")
    seen: dict[tuple[str, ...], int] = {}
    for line, cells in enumerate(rows, 2):
        if len(cells) != len(header):
            raise DamagedError(f"{path}: damaged: line {line} has {len(cells)} values, and the header {len(header)}")
        row = dict(zip(header, cells, strict=True))
        key = (row["comparison"], row["run"]) if "run" in row else tuple(cells)
        if (first := seen.setdefault(key, line)) != line:
            raise DamagedError(f"{path}: damaged: line {line} is of the same run as line {first}, one is allowed")
        for column, (holds, allowed) in (always | finished if row["status"] == "finished" else always).items():
            if not holds(row[column]):
                raise DamagedError(f"{path}: damaged: line {line}: {column}={row[column]!r}: must be {allowed}")
    return pd.read_csv(path, dtype={"comparison": str, "scale": str})


def _number(least: float, most: float) -> tuple[Callable[[str], bool], str]:
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


# What each column holds, and that in words.
_RULES: dict[str, tuple[Callable[[str], bool], str]] = {
    "comparison": (lambda text: re.fullmatch("[0-9a-f]{8}", text) is not None, "8 hexadecimal digits"),
    "status": (lambda text: text in ("finished", "diverged"), "finished or diverged"),
    "seed": (lambda text: re.fullmatch("[0-9]+", text) is not None, "an integer from 0 on"),
    "lr": (lambda text: text == "" or (_number(0, math.inf)[0](text) and float(text) > 0), "a number above 0"),
    "hyperparameters": (_is_json_object, "an object of JSON"),
}


def write_table(results: str | Path, name: str, text: str) -> Path:
    """Writes ``summaries/<name>.csv``, as a whole or not at all; returns its path."""
    return _write(Path(results, "summaries", f"{name}.csv"), text.encode())


def write_figure(results: str | Path, name: str, suffix: str, content: bytes) -> Path:
    """Writes ``figures/<name>.<suffix>``, as a whole or not at all; returns its path."""
    return _write(Path(results, "figures", f"{name}.{suffix}"), content)


def _write(path: Path, content: bytes) -> Path:
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    remove_scraps(path.parent, older_than_seconds=_HOUR)
    write_atomically(path, lambda file: file.write(content))
    return path
