"""What there is to do: which of the runs are results already, which go on, which start."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from reltrust.records.store import RunRecord, Status, Store
from reltrust.settings import Settings

START, RESUME, AGAIN, BUSY = "start", "resume", "run again", "running elsewhere"


@dataclass(frozen=True)
class PlannedRun:
    """A run, its record, and what is to happen to it: one of the words above, or the status of its result."""

    settings: Settings
    record: RunRecord
    action: str

    @property
    def is_due(self) -> bool:
        return self.action not in (Status.FINISHED, Status.DIVERGED, BUSY)


def plan(runs: Sequence[Settings]) -> list[PlannedRun]:
    """Looks every run up in its store; settings that are one run are planned once. Reads, and writes nothing."""
    planned: dict[str, PlannedRun] = {}
    for settings in runs:
        record = Store(settings.machine.results).record(settings)
        status = record.status
        if status is None:
            action = START
        elif status.is_result:
            action = status.value
        elif record.is_busy:
            action = BUSY
        else:
            action = RESUME if record.checkpoint_path.exists() else AGAIN
        planned.setdefault(str(record.path), PlannedRun(settings, record, action))
    return list(planned.values())


def describe(runs: Sequence[PlannedRun], *, each: bool) -> str:
    """The plan for people: a count of what is to happen, and with ``each`` a line for every run."""
    lines = [f"{run.action:>17}  {run.record.path}" for run in runs] if each else []
    counts = Counter(run.action for run in runs)
    total = ", ".join(f"{count} {action}" for action, count in counts.items())
    return "\n".join([*lines, f"{len(runs)} runs: {total}"])
