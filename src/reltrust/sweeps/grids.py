"""Grids of settings: products of lists, several of them, narrowed and multiplied by the command line."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from reltrust.errors import SettingsError

Point = dict[str, Any]  # one run's settings, by key
Grid = Mapping[str, Any]  # a value or a list of values for each key


def expand(grids: Sequence[Grid], command_line: Mapping[str, Sequence[Any]]) -> list[Point]:
    """All points of all grids, in order, each once.

    A key of the command line that a grid has too keeps those of the grid's points that have one of its values; a key
    that no grid has is multiplied with every grid.

    Raises:
        SettingsError: a grid is empty, or no point has a value that the command line asks for, or all of its values.
    """
    for key, wanted in command_line.items():
        has = {str(value): value for grid in grids for value in _as_list(grid.get(key, []))}
        missing = [value for value in wanted if value not in has.values()]
        if missing and all(key in grid for grid in grids):
            asked, allowed = ",".join(map(str, missing)), ", ".join(sorted(has))
            raise SettingsError(f"{key}={asked}: no run of the sweep has this value, it has {allowed}")
    points: list[Point] = []
    for grid in grids:
        lists = {key: _as_list(value) for key, value in grid.items()}
        for key, wanted in command_line.items():
            lists[key] = [value for value in lists[key] if value in wanted] if key in lists else list(wanted)
        points += [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    unique = list({repr(sorted(point.items(), key=str)): point for point in points}.values())
    if not unique:
        asked = " ".join(f"{key}={','.join(map(str, wanted))}" for key, wanted in command_line.items())
        raise SettingsError(f"{asked}: no run of the sweep has these values together")
    return unique


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
