"""Which run is this? A hash of the settings that decide its result, and nothing else."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reltrust.settings import MACHINE_FIELDS, Settings

# Settings that came later than results, as everything was before: such a key is no part of what is hashed.
_ADDED: dict[str, dict[str, Any]] = {
    "trainer": {"precision": "fp32", "accumulate": 1},
    "optimizer": {"clip_norm": None, "players": {}},
}


def semantic(settings: Settings) -> dict[str, Any]:
    """The settings that decide the result, with the task's protocol number, as plain JSON values.

    A part that the experiment has no use for (None) is absent.
    """
    parts = asdict(settings)
    content = {key: value for key, value in parts.items() if key not in MACHINE_FIELDS and value is not None}
    content["protocol"] = settings.task.protocol
    content["task"]["name"] = settings.experiment  # where it stood when the first runs were recorded
    if settings.training is None:
        del content["trainer"]  # there is no step
    if optimizer := content.get("optimizer"):
        for one in (optimizer, *optimizer["players"].values()):
            del one["style"]
            for key in ("rest", "schedule"):
                if one[key] is None:  # as before there was a choice, also for players
                    del one[key]
    for part, keys in (
        (part, keys) for part, keys in _ADDED.items() if part in content
    ):  # runs recorded before there was a choice keep their ids
        content[part] = {key: value for key, value in content[part].items() if key not in keys or value != keys[key]}
    return {key: value for key, value in content.items() if value != {}}


def comparison_id(settings: Settings) -> str:
    """64 hexadecimal digits that runs share which may stand in one figure: optimizer, seed and axes left out."""
    content = semantic(settings)
    content["task"] = {key: value for key, value in content["task"].items() if key not in settings.task.axes}
    return _hash({key: value for key, value in content.items() if key not in ("optimizer", "seed")})


def run_id(settings: Settings) -> str:
    """64 hexadecimal digits: settings that have equal ones have equal results.

    The hash is taken of the resolved values (the configs' defaults included, floats by ``repr``), not of the words on
    the command line, so that a changed default is another run and an explicitly given default is the same one. What an
    optimizer's constructor takes by itself, and no config lists, is no part of it.
    """
    return _hash(semantic(settings))


def any_length_id(settings: Settings) -> str:
    """64 hexadecimal digits that runs share which differ in the number of their steps alone."""
    content = semantic(settings)
    content["training"] = {key: value for key, value in content.get("training", {}).items() if key != "steps"}
    return _hash(content)


def run_directory(settings: Settings) -> Path:
    """Where the run's record lies below the runs' root: ``<experiment>/<optimizer>/<slug>-<first 8 of the id>``.

    An analysis has ``analysis`` in the place of the optimizer.
    """
    group, lr = "analysis", ""
    if settings.optimizer is not None:
        group, lr = settings.optimizer.name, f"-lr{settings.optimizer.lr!r}"
    return Path(settings.experiment, group, f"{settings.task.slug}{lr}-seed{settings.seed}-{run_id(settings)[:8]}")


def _hash(content: dict[str, Any]) -> str:
    text = json.dumps(canonical(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(value: Any) -> Any:
    """3 and 3.0 are one number."""
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
