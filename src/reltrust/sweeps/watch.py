"""How far a sweep is, read from its runs' records: the same for every launcher, also on another machine."""

import threading
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from reltrust.records.store import Status
from reltrust.sweeps.plan import PlannedRun
from reltrust.training.progress import Progress

_SECONDS_BETWEEN_UPDATES = 1.0


class SweepProgress:
    """A context that shows how many runs have ended and how, how many run, and the steps of all.

    Args:
        label: the sweep's name.
        runs: those that are about to start.
    """

    def __init__(self, label: str, runs: Sequence[PlannedRun], enabled: bool) -> None:
        self._runs = runs
        self._before = [run.record.status_time for run in runs]
        self._planned = [run.settings.training.steps if run.settings.training else 1 for run in runs]
        self._steps = [min(n, run.record.last_step) for n, run in zip(self._planned, runs, strict=True)]
        self._statuses: list[Status | None] = [None] * len(runs)
        self._progress = Progress(label, sum(self._planned), sum(self._steps), "step", enabled)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "SweepProgress":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if kind is None or any(self._statuses):  # of what was refused there is nothing to show
            self.update(last=True)
        self._progress.close()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_UPDATES):
            self.update()

    def update(self, *, last: bool = False) -> None:
        """Reads the records and shows what they say."""
        for i, run in enumerate(self._runs):
            # A status from before this sweep (an earlier failure) says nothing about it.
            running = self._statuses[i] in (None, Status.RUNNING, Status.PREEMPTED)
            if running and run.record.status_time != self._before[i]:
                self._statuses[i] = run.record.status
                result = self._statuses[i] in (Status.FINISHED, Status.DIVERGED)
                # How far an analysis is, nobody knows.
                self._steps[i] = self._planned[i] if result else min(self._planned[i], run.record.last_step)
        counts = Counter(status for status in self._statuses if status is not None)
        ended = sum(counts.values()) - counts[Status.RUNNING] - counts[Status.PREEMPTED]
        by_status = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status]) or "none begun"
        self._progress.update(sum(self._steps), f"{ended}/{len(self._runs)} runs, {by_status}", last=last)
