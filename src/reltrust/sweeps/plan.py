"""What a sweep has to do: which of its runs are results already, which go on, which start."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from reltrust.records.store import RunRecord, Status, record_of
from reltrust.settings import Settings

START, RESUME, AGAIN, BUSY = "start", "resume", "run again", "running elsewhere"


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep and what is to happen to it: one of the words above, or the status of its result."""

    settings: Settings
    record: RunRecord
    action: str

    @property
    def is_done(self) -> bool:
        return self.action in (Status.FINISHED, Status.DIVERGED)

    @property
    def is_due(self) -> bool:
        return not self.is_done and self.action != BUSY


def plan(settings: Sequence[Settings]) -> list[PlannedRun]:
    """Looks every run up in its store. Reads, and writes nothing."""
    return [PlannedRun(s, record, _action(record)) for s in settings for record in [record_of(s)]]


def _action(record: RunRecord) -> str:
    status = record.status
    if status is None:
        return START
    if status.is_result:
        return status.value
    if record.is_busy:
        return BUSY
    return RESUME if record.checkpoint_path.exists() else AGAIN


def describe(runs: Sequence[PlannedRun], *, each: bool) -> str:
    """The plan for people: a count of what is to happen, and with ``each`` a line for every run."""
    lines = [f"{run.action:>17}  {run.record.path}" for run in runs] if each else []
    counts = Counter(run.action for run in runs)
    total = ", ".join(f"{count} {action}" for action, count in counts.items())
    return "\n".join([*lines, f"{len(runs)} runs: {total}"])
