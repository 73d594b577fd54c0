"""Tidy tables of results: one row a run, in ``results/summaries/<experiment>.csv``."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from reltrust.records.artifacts import summary_path, write_table
from reltrust.records.store import Store


def collect(results: str | Path, experiment: str, scales: Mapping[str, str]) -> Path | None:
    """Writes the experiment's table from the runs in the store; returns its path, or None if there are no results.

    Rows that may be compared with each other (the column ``comparison``) come from one store: where this store has
    results, it replaces the earlier rows of that comparison as a whole, so that nobody's figure mixes their own runs
    with those that came with the repository. Rows of other comparisons stay.

    Args:
        scales: the names of the experiment's scales by their :func:`~reltrust.records.identity.comparison_id`; runs
            that follow one of them bear its name in the column ``scale``.
    """
    rows = []
    for record in Store(results).records(experiment):
        if (status := record.status) is None or not status.is_result:
            continue
        config, origin = record.config, record.provenance
        optimizer, training, last = config["optimizer"] or {}, config["training"] or {}, origin["attempts"][-1]
        # All that is in a run's id and neither an axis nor the seed must tell rows apart.
        variant = {"target": optimizer.get("target"), **optimizer.get("hyperparameters", {})}
        variant |= {key: optimizer[key] for key in ("rest", "clip_norm", "players") if optimizer.get(key)}
        rows.append({
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
            "status": str(status),
            **record.summary,
            "steps": training.get("steps"),  # as planned: a diverged run made fewer
            "members": last.get("members", 1),  # runs that made their steps together
            "device": last["hardware"].get("gpu", last["hardware"]["cpu"]),
            "torch": last["versions"]["torch"],
            "commit": last["code"]["commit"],
            "dirty": last["code"]["dirty"],
            "ended": last["ended"],
            "style": json.dumps(optimizer.get("style", {})),
        })  # fmt: skip
    if not rows:
        return None
    table, path = pd.DataFrame(rows), summary_path(results, experiment)
    if path.exists():
        earlier = pd.read_csv(path, dtype={"comparison": str})
        table = pd.concat([earlier[~earlier["comparison"].isin(table["comparison"])], table])
    table["scale"] = table["comparison"].map({comparison[:8]: name for comparison, name in scales.items()})
    text = io.StringIO()
    table.sort_values(["comparison", "optimizer", "run"], kind="stable").to_csv(text, index=False)
    return write_table(results, experiment, text.getvalue())
