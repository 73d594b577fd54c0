"""Weights & Biases as a mirror of a run's record. Whatever happens to it, the run goes on.

The record on disk is the truth; ``replay`` shows a recorded run to W&B at any later time.
"""

import logging
from pathlib import Path
from typing import Any, Protocol

from reltrust.errors import first_line
from reltrust.records.store import Row, RunRecord
from reltrust.settings import Tracking

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Somebody who watches a run."""

    def log(self, row: Row) -> None: ...

    def file(self, name: str, path: Path) -> None: ...

    def finish(self, status: str, summary: Row) -> None: ...


class NoTracker:
    """Nobody watches."""

    def log(self, row: Row) -> None:
        pass

    def file(self, name: str, path: Path) -> None:
        pass

    def finish(self, status: str, summary: Row) -> None:
        pass


class WandbTracker:
    """One run on a W&B page: named after its directory, grouped by experiment and optimizer, tagged with its data.

    W&B's id is the start of the run's own, so that a resumed run continues the same curve. The first thing that goes
    wrong is said in one line; from then on nobody watches.
    """

    def __init__(self, record: RunRecord, folder: Path, tracking: Tracking) -> None:
        self._run: Any = None
        try:
            self._run = _start(record, folder, tracking)
        except Exception as error:  # whatever W&B raises, it must not end the run
            self._give_up(error)

    def log(self, row: Row) -> None:
        if self._run is not None:
            try:
                self._run.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])
            except Exception as error:
                self._give_up(error)

    def file(self, name: str, path: Path) -> None:
        pass

    def finish(self, status: str, summary: Row) -> None:
        if self._run is not None:
            try:
                self._run.summary.update(summary | {"status": str(status)})
                self._run.finish(exit_code=0 if status in ("finished", "diverged") else 1)
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        log.warning("W&B does not watch this run (the run itself goes on): %s", first_line(error))
        self._run = None


class ReplayingTracker:
    """Shows a run to W&B when it has ended: for runs of which too many are trained at once to be watched live."""

    def __init__(self, record: RunRecord, tracking: Tracking, results: str | Path) -> None:
        self._record, self._tracking, self._results = record, tracking, results

    def log(self, row: Row) -> None:
        pass

    def file(self, name: str, path: Path) -> None:
        pass

    def finish(self, status: str, summary: Row) -> None:
        if status in ("finished", "diverged"):
            replay(self._record, self._tracking, self._results)


def _start(record: RunRecord, folder: Path, tracking: Tracking) -> Any:
    """An open W&B run; offline if the service was asked for and cannot be reached."""
    import wandb  # takes seconds: only those who want it pay for it

    folder.mkdir(parents=True, exist_ok=True)
    config, identity = record.config, record.provenance["id"]
    experiment, data = config["experiment"], config["data"]
    optimizer = config["optimizer"]["name"] if config["optimizer"] else "analysis"
    arguments: dict[str, Any] = {
        "project": tracking.project,
        "entity": tracking.entity,
        "dir": str(folder),
        "id": identity[:16],
        "name": f"{optimizer}-{record.path.name.removesuffix(f'-{identity[:8]}')}",
        "group": f"{experiment}/{optimizer}",
        "tags": [experiment, optimizer, *([data["name"]] if data else [])],
        "config": {key: config[key] for key in config if key not in ("machine", "tracking")},
        "settings": wandb.Settings(
            init_timeout=tracking.timeout_seconds,
            finish_timeout=tracking.timeout_seconds,
            console="off",
            silent=True,
        ),
    }
    if tracking.mode == "wandb":
        try:
            return wandb.init(mode="online", resume="allow", **arguments)
        except wandb.errors.Error as error:
            log.warning("W&B is out of reach, the run is kept for `wandb sync`: %s", first_line(error))
            wandb.teardown()  # the attempt still holds the run's id
    return wandb.init(mode="offline", **arguments)


def open_tracker(record: RunRecord, tracking: Tracking, results: str | Path, *, live: bool = True) -> Tracker:
    """The tracker that the settings ask for; W&B's own files go to ``<results>/wandb``."""
    if tracking.mode == "none":
        return NoTracker()
    return (
        WandbTracker(record, Path(results, "wandb"), tracking) if live else ReplayingTracker(record, tracking, results)
    )


def replay(record: RunRecord, tracking: Tracking, results: str | Path) -> None:
    """Shows a run that has ended to W&B, from its record alone."""
    tracker = open_tracker(record, tracking, results)
    for row in record.metrics:
        tracker.log(row)
    status = record.status
    if status is not None:
        tracker.finish(status.value, record.summary if status.is_result else {})
