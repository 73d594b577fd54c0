"""Being asked to stop, by a scheduler's signal or by Ctrl-C: here it is heard, the trainer leaves the checkpoint."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

PREEMPTED = 143  # the exit status of a process that was asked to stop, as if SIGTERM had ended it
# Schedulers preempt with SIGTERM, and announce the end of a job's time with SIGUSR1 or SIGUSR2.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def heard_signals() -> Iterator[Callable[[], list[int]]]:
    """Tells which signals have come since the last time it was asked, whoever handles them; in the main thread only."""
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def heard() -> list[int]:
        try:
            return list(os.read(reading, 4096))
        except BlockingIOError:
            return []

    try:
        yield heard
    finally:
        signal.set_wakeup_fd(before)
        for end in (reading, writing):
            os.close(end)


class StopRequest:
    """A context in which SIGTERM, SIGUSR1, SIGUSR2 and the first Ctrl-C set ``requested`` and do not end the process.

    A handler that was installed before for SIGTERM is called too. A second Ctrl-C interrupts at once. Outside the main
    thread, where Python delivers no signals, nothing is installed. One inside another is asked with it.
    """

    _outer: "ClassVar[StopRequest | None]" = None

    def __init__(self) -> None:
        self.requested = False
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._outside, StopRequest._outer = StopRequest._outer, self
        self.requested = self._outside is not None and self._outside.requested
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        StopRequest._outer = self._outside
        if self._outside is not None:
            self._outside.requested |= self.requested
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.requested = True
        earlier = self._earlier[signal.Signals(number)]
        if number == signal.SIGTERM and callable(earlier):
            earlier(number, frame)
