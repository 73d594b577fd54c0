"""How far a sweep is, read from its runs' records: the same for every launcher, also on another machine."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from tqdm import tqdm

from reltrust.records.store import Status
from reltrust.sweeps.plan import PlannedRun

_SECONDS_BETWEEN_UPDATES = 1.0
_SECONDS_BETWEEN_LINES = 15.0


class SweepProgress:
    """A context that shows, on standard error, how many runs have ended and how, how many run, and their steps.

    A bar of all runs' steps or, without a terminal, lines.

    Args:
        label: the sweep's name.
        runs: those that are about to start.
    """

    def __init__(self, label: str, runs: Sequence[PlannedRun], enabled: bool) -> None:
        self._label, self._runs = label, runs
        self._before = [run.record.status_time for run in runs]
        self._steps = [run.record.last_step for run in runs]
        self._planned = [run.settings.training.steps for run in runs]
        self._first = sum(self._steps)
        self._enabled, self._lines = enabled, not sys.stderr.isatty()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._statuses: list[Status | None] = [None] * len(runs)

    def __enter__(self) -> "SweepProgress":
        self._started = self._last_line = time.monotonic()
        self._bar = tqdm(
            total=sum(self._planned),
            initial=self._first,
            desc=self._label,
            unit="step",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not self._enabled or self._lines,
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if kind is None or any(self._statuses):  # of what was refused there is nothing to show
            self.update(last=True)
        self._bar.close()

    def _watch(self) -> None:
        while not self._done.wait(_SECONDS_BETWEEN_UPDATES):
            self.update(last=False)

    def update(self, last: bool) -> None:
        """Reads the records and shows what they say; a line without a terminal only now and then, or if it is last."""
        for i, run in enumerate(self._runs):
            # A status from before this sweep (an earlier failure) says nothing about it.
            running = self._statuses[i] in (None, Status.RUNNING)
            if running and run.record.status_time != self._before[i]:
                self._statuses[i] = run.record.status
                result = self._statuses[i] in (Status.FINISHED, Status.DIVERGED)
                self._steps[i] = self._planned[i] if result else run.record.last_step
        counts = Counter(status for status in self._statuses if status is not None)
        shown = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status]) or "none begun"
        steps, now = sum(self._steps), time.monotonic()
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.n = steps
        self._bar.refresh()
        if self._enabled and self._lines and (last or now - self._last_line >= _SECONDS_BETWEEN_LINES):
            ended = sum(counts.values()) - counts[Status.RUNNING] - counts[Status.PREEMPTED]
            line = f"{self._label}: {ended}/{len(self._runs)} runs, {shown}"
            if steps > self._first and counts[Status.RUNNING]:
                rate = (steps - self._first) / (now - self._started)
                line += f", {rate:,.0f} steps/s, about {(sum(self._planned) - steps) / rate:.0f} s left"
            print(line, file=sys.stderr, flush=True)
            self._last_line = now
