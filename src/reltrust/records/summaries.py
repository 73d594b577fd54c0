"""Tidy tables of results: one row a run, in ``results/summaries/<experiment>.csv``."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from reltrust.records.files import write_text
from reltrust.records.store import RunRecord, Store


def summary_path(results: str | Path, experiment: str) -> Path:
    return Path(results, "summaries", f"{experiment}.csv")


def collect(results: str | Path, experiment: str) -> Path | None:
    """Writes the experiment's table from the runs in the store; returns its path, or None if there are no results.

    Rows that may be compared with each other (the column ``comparison``) come from one store: where this store has
    results, it replaces the earlier rows of that comparison as a whole, so that nobody's figure mixes their own runs
    with those that came with the repository. Rows of other comparisons stay.
    """
    rows = [
        _row(record) for record in Store(results).records(experiment) if (status := record.status) and status.is_result
    ]
    if not rows:
        return None
    table, path = pd.DataFrame(rows), summary_path(results, experiment)
    if path.exists():
        earlier = pd.read_csv(path, dtype={"comparison": str})
        table = pd.concat([earlier[~earlier["comparison"].isin(table["comparison"])], table])
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    table.sort_values(["comparison", "optimizer", "run"], kind="stable").to_csv(text, index=False)
    write_text(path, text.getvalue())
    return path


def _row(record: RunRecord) -> dict[str, Any]:
    """A run in one flat row: what it was, what came out, where it was computed."""
    config, origin = record.config, record.provenance
    optimizer, last = config["optimizer"], origin["attempts"][-1]
    return {
        "comparison": origin["comparison"][:8],
        "run": f"{record.path.parent.name}/{record.path.name}",
        "experiment": config["experiment"],
        "optimizer": optimizer["name"],
        "lr": optimizer["lr"],
        "hyperparameters": json.dumps(optimizer["hyperparameters"]),
        "seed": config["seed"],
        **{key: value for key, value in config["task"].items() if key != "name"},
        "data": config["data"]["name"],
        "batch_size": config["training"]["batch_size"],
        "protocol": origin["protocol"],
        "schedule": json.dumps(config["schedule"]),
        "precision": config.get("trainer", {}).get("precision", "fp32"),  # before there was a choice
        "status": str(record.status),
        **record.summary,
        "steps": config["training"]["steps"],  # as planned: a diverged run made fewer
        "members": last.get("members", 1),  # runs that made their steps together
        "device": last["hardware"].get("gpu", last["hardware"]["cpu"]),
        "torch": last["versions"]["torch"],
        "commit": last["code"]["commit"],
        "dirty": last["code"]["dirty"],
        "ended": last["ended"],
    }
