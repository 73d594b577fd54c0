"""Grids of settings: products of lists, several of them, narrowed and multiplied by the command line."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from reltrust.errors import SettingsError

Point = dict[str, Any]  # one run's settings, by key
Grid = Mapping[str, Any]  # a value or a list of values for each key


def check_grids(grids: Any) -> list[Point]:
    """The grids that a config states, in their type.

    Raises:
        SettingsError: they are no list of mappings, or a key has no value.
    """
    if not (isinstance(grids, list) and grids and all(isinstance(grid, dict) for grid in grids)):
        raise SettingsError(
            f"sweep.grids={grids!r}: must be a list of at least one grid, which is lists of values by key"
        )
    for key, value in (item for grid in grids for item in grid.items()):
        if not isinstance(key, str) or value == []:
            raise SettingsError(f"sweep.grids: {key}={value!r}: must be a key of the settings with at least one value")
    return grids


def expand(grids: Sequence[Grid], command_line: Mapping[str, Sequence[Any]]) -> list[Point]:
    """All points of all grids, in order, each once.

    A key of the command line that a grid has too keeps those of the grid's points that have one of its values; a key
    that no grid has is multiplied with every grid.

    Raises:
        SettingsError: no point has a value that the command line asks for, or all of its values.
    """
    for key, wanted in command_line.items():
        has = [value for grid in grids for value in as_list(grid.get(key, []))]
        missing = [value for value in wanted if not _among(value, has)]
        if missing and all(key in grid for grid in grids):
            asked, allowed = ",".join(map(str, missing)), ", ".join(sorted(set(map(str, has))))
            raise SettingsError(f"{key}={asked}: no run of the sweep has this value, it has {allowed}")
    points: list[Point] = []
    for grid in grids:
        lists = {key: as_list(value) for key, value in grid.items()}
        for key, wanted in command_line.items():
            lists[key] = [value for value in lists[key] if _among(value, wanted)] if key in lists else list(wanted)
        points += [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    unique = list({repr(sorted(point.items(), key=str)): point for point in points}.values())
    if not unique:
        asked = " ".join(f"{key}={','.join(map(str, wanted))}" for key, wanted in command_line.items())
        raise SettingsError(f"{asked}: no run of the sweep has these values together")
    return unique


def as_list(value: Any) -> list[Any]:
    """The values of a key of a grid."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _among(value: Any, values: Sequence[Any]) -> bool:
    """1 and 1.0 are one number, 1 and True are two values."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)
