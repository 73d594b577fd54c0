"""Tidy tables: a row a run in ``summaries/<experiment>.csv``, a row an evaluation in ``<experiment>-curves.csv``."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reltrust.errors import DamagedError, RecordError, first_line
from reltrust.records.artifacts import curves_path, read_curves, read_summary, summary_path, write_table
from reltrust.records.files import write_text
from reltrust.records.store import Result, RunRecord, Store

log = logging.getLogger(__name__)


def collect(results: str | Path, experiment: str, scales: Mapping[str, str]) -> Path | None:
    """Writes the experiment's tables from the runs in the store; returns the path of that of results, or None.

    Rows that may be compared with each other (the column ``comparison``) come from one store: where this store has
    results, it replaces the earlier rows of that comparison as a whole, so that nobody's figure mixes their own runs
    with those that came with the repository. Rows of other comparisons stay.

    Args:
        scales: the names of the experiment's scales by their :func:`~reltrust.records.identity.comparison_id`; runs
            that follow one of them bear its name in the column ``scale``.
    """
    records, path = list(Store(results).records(experiment)), summary_path(results, experiment)
    tables = (path, curves_path(results, experiment))
    stamp, files = Store(results).root / experiment / ".collected", _files(records)
    if path.exists() and stamp.exists() and stamp.read_text() == _fingerprint(files, tables, scales):
        return path
    rows, points, whole = [], [], True
    for record in records:
        try:
            if (result := record.result()) is not None:
                row = _row(record, result)
                points += _points(record, result, row)
                rows.append(row)
        except RecordError as error:
            log.warning("%s; left out of %s", error, path)
            whole = False
    if not rows:
        return None
    table = pd.DataFrame(rows)
    curves, earlier = pd.DataFrame(points), read_curves(results, experiment)
    curves = pd.concat([earlier[~earlier["comparison"].isin(table["comparison"])], curves])
    if path.exists():
        earlier = read_summary(results, experiment)
        table = pd.concat([earlier[~earlier["comparison"].isin(table["comparison"])], table])
    table["scale"] = table["comparison"].map({comparison[:8]: name for comparison, name in scales.items()})
    ordered = table.sort_values(["comparison", "optimizer", "run"], kind="stable")
    if not curves.empty:
        in_order = curves.sort_values(["comparison", "run", "step"], kind="stable")
        write_table(results, f"{experiment}-curves", in_order.to_csv(index=False))
    write_table(results, experiment, ordered.to_csv(index=False))
    if whole:
        write_text(stamp, _fingerprint(files, tables, scales))
    return path


def _files(records: Sequence[RunRecord]) -> bytes:
    """A digest of when the records' files were written, taken before they are read: what is written meanwhile counts as
    not read."""
    found = hashlib.sha256()
    for record in records:
        with os.scandir(record.path) as entries:
            files = [(entry.name, entry.stat().st_mtime_ns) for entry in entries if entry.name.endswith(".json")]
        found.update(repr((str(record.path), sorted(files))).encode())
    return found.digest()


def _fingerprint(files: bytes, tables: tuple[Path, Path], scales: Mapping[str, str]) -> str:
    """Another one when a file of a record, the table, the scales or this code has changed, or the curves are gone."""
    table, curves = tables
    parts = (files, Path(__file__).read_bytes(), table.read_bytes(), curves.exists(), sorted(scales.items()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _points(record: RunRecord, result: Result, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the run measured at its evaluations; an analysis, in every row that it logged."""
    every = (result.config["training"] or {}).get("evaluate_every", 1)
    place = {"comparison": row["comparison"], "run": row["run"]}
    return [place | point for point in record.metrics if point["step"] % every == 0 or point["step"] == row["steps"]]


def _row(record: RunRecord, result: Result) -> dict[str, Any]:
    """The run's row.

    Raises:
        RecordError: its files are damaged, or of a newer version.
    """
    config, origin, summary = result.config, result.provenance, result.summary
    try:
        optimizer, training, last = config["optimizer"] or {}, config["training"] or {}, origin["attempts"][-1]
        # All that is in a run's id and neither an axis nor the seed must tell rows apart.
        variant = {"target": optimizer.get("target"), **optimizer.get("hyperparameters", {})}
        variant |= {key: optimizer[key] for key in ("rest", "clip_norm", "schedule", "players") if optimizer.get(key)}
        about = {
            "comparison": origin["comparison"][:8],
            "run": f"{record.path.parent.name}/{record.path.name}",
            "experiment": config["experiment"],
            "optimizer": optimizer.get("name"),
            "lr": optimizer.get("lr"),
            "hyperparameters": json.dumps(variant),
            "seed": config["seed"],
            **{key: value for key, value in config["task"].items() if key != "name"},
            "data": config["data"]["name"] if config["data"] else None,
            "batch_size": training.get("batch_size"),
            "protocol": origin["protocol"],
            "schedule": json.dumps(config["schedule"]),
            "precision": config.get("trainer", {}).get("precision", "fp32"),  # before there was a choice
            "status": str(result.status),
        }
        if taken := sorted(about.keys() & summary.keys()):
            raise RecordError(
                f"{record.path}: {taken[0]} is measured, and it is a setting: the table has one column of it"
            )
        return {
            **about,
            **summary,
            "steps": training.get("steps"),  # as planned: a diverged run made fewer
            "members": last.get("members", 1),  # runs that made their steps together
            "attempts": len(origin["attempts"]),  # 1: it was never interrupted
            "device": last["hardware"].get("gpu", last["hardware"]["cpu"]),
            "torch": last["versions"]["torch"],
            "commit": last["code"]["commit"],
            "dirty": last["code"]["dirty"],
            "ended": last["ended"],
            "style": json.dumps(optimizer.get("style", {})),
        }  # fmt: skip
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DamagedError(f"{record.path}: damaged: {type(error).__name__}: {first_line(error)}") from None
