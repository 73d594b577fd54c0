"""What there is to do: which of the runs are results already, which go on, which start."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from reltrust.records.store import RunRecord, Status, Store, busy
from reltrust.settings import Settings

log = logging.getLogger(__name__)

START, RESUME, AGAIN, BUSY = "start", "resume", "run again", "running elsewhere"


@dataclass(frozen=True)
class PlannedRun:
    """A run, its record, and what is to happen to it: one of the words above, or the status of its result."""

    settings: Settings
    record: RunRecord
    action: str

    @property
    def is_due(self) -> bool:
        return self.action in (START, RESUME, AGAIN)

    @property
    def has_kept(self) -> bool:
        """Whether there is, besides the record, what the settings ask a finished run to keep."""
        kept = {"weights": self.record.weights_path, "checkpoint": self.record.checkpoint_path}
        path = kept.get(self.settings.machine.keep) if self.settings.training else None  # an analysis has no weights
        return path is None or path.exists()


def plan(runs: Sequence[Settings], *, retry_failed: bool = True) -> list[PlannedRun]:
    """Looks every run up in its store; settings that are one run are planned once. Reads, and writes nothing.

    With ``retry_failed=False`` a run that has failed is left as it is.

    Tells of finished runs that have not kept what ``machine.keep`` asks for: they are not trained again.
    """
    records: dict[str, tuple[RunRecord, Settings]] = {}
    for settings in runs:
        record = Store(settings.machine.results).record(settings)
        records.setdefault(str(record.path), (record, settings))
    statuses = {path: record.status for path, (record, _) in records.items()}
    begun = [path for path, status in statuses.items() if status is not None and not status.is_result]
    held = dict(zip(begun, busy([records[path][0] for path in begun]), strict=True))
    planned = []
    for path, (record, settings) in records.items():
        status = statuses[path]
        if status is None:
            action = START
        elif status.is_result:
            action = status.value
        elif held[path]:
            action = BUSY
        elif status is Status.FAILED and not retry_failed:
            action = status.value
        else:
            action = RESUME if record.has_checkpoint else AGAIN
        planned.append(PlannedRun(settings, record, action))
    without = [run for run in planned if run.action == Status.FINISHED and not run.has_kept]
    if without:
        keep, first = without[0].settings.machine.keep, without[0].record.path
        log.warning(
            "machine.keep=%s: %d finished without it, remove them to train them again: %s", keep, len(without), first
        )
    return planned


def describe(runs: Sequence[PlannedRun], *, each: bool) -> str:
    """The plan for people: a count of what is to happen, and with ``each`` a line for every run."""
    lines = [f"{run.action:>17}  {run.record.path}" for run in runs] if each else []
    counts = Counter(run.action for run in runs)
    total = ", ".join(f"{count} {action}" for action, count in counts.items())
    return "\n".join([*lines, f"{len(runs)} runs: {total}"])
