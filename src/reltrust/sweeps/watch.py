"""How far a sweep is, read from its runs' records: the same for every launcher, also on another machine."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from tqdm import tqdm

from reltrust.records.store import RunRecord, Status

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_LINES = 15.0


class SweepProgress:
    """A context that shows, on standard error, how many runs have ended and how; a bar or, without a terminal, lines.

    Args:
        label: the sweep's name.
        records: the runs that are about to start.
    """

    def __init__(self, label: str, records: Sequence[RunRecord], enabled: bool) -> None:
        self._label, self._records = label, records
        self._before = {record.path: record.status_time for record in records}
        self._enabled, self._lines = enabled, not sys.stderr.isatty()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._ended: dict[int, Status] = {}

    def __enter__(self) -> "SweepProgress":
        self._started = self._last_line = time.monotonic()
        self._bar = tqdm(
            total=len(self._records),
            desc=self._label,
            unit="run",
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
        self._look(last=True)
        self._bar.close()

    def _watch(self) -> None:
        while not self._done.wait(_SECONDS_BETWEEN_LOOKS):
            self._look(last=False)

    def _look(self, last: bool) -> None:
        for number, record in enumerate(self._records):
            # A status from before this sweep (an earlier failure) says nothing about it.
            if number not in self._ended and record.status_time != self._before[record.path]:
                status = record.status
                if status is not None and status is not Status.RUNNING:
                    self._ended[number] = status
        counts = Counter(self._ended.values())
        told = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none ended"
        self._bar.set_postfix_str(told, refresh=False)
        self._bar.n = len(self._ended)
        self._bar.refresh()
        now = time.monotonic()
        if self._enabled and self._lines and (last or now - self._last_line >= _SECONDS_BETWEEN_LINES):
            line = f"{self._label}: {len(self._ended)}/{len(self._records)} runs, {told}"
            if 0 < len(self._ended) < len(self._records):
                left = (now - self._started) / len(self._ended) * (len(self._records) - len(self._ended))
                line += f", about {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)
            self._last_line = now
