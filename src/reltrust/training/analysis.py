"""Computations without training: the same records, resume and stopping as a run of the trainer."""

import time
from collections.abc import Callable
from typing import Any

from reltrust.experiment import Analysis
from reltrust.records import checkpoint
from reltrust.records.store import Status
from reltrust.settings import Machine
from reltrust.training.stopping import StopRequest
from reltrust.training.trainer import Member


class Preempted(BaseException):  # no Exception, which a computation may catch
    """Ends a computation at a place from which it can go on."""


class Resume:
    """Where an analysis goes on from, a :class:`~reltrust.experiment.ResumePoint`."""

    def __init__(self, member: Member, machine: Machine, stop: StopRequest) -> None:
        self._member, self._stop, self._every = member, stop, 60 * machine.checkpoint_minutes
        self._last, self._started = time.monotonic(), time.perf_counter()
        kept = checkpoint.load(member.record.checkpoint_path) or {}
        self.step, self.state = int(kept.get("step", 0)), kept.get("program")
        member.seconds = kept.get("seconds", 0.0)
        member.rewind(self.step if kept else -1)  # a first row may be of step 0

    def reached(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        if time.monotonic() - self._last >= self._every or self._stop.requested:
            self._member.seconds, self._started = self.seconds(), time.perf_counter()
            self._member.save(step, state())
            self._last = time.monotonic()
        if self._stop.requested:
            raise Preempted

    def seconds(self) -> float:
        """Of all attempts so far."""
        return self._member.seconds + time.perf_counter() - self._started


def analyse(analysis: Analysis, member: Member, machine: Machine) -> Status:
    """Computes to the end, or until asked to stop; the record says which."""
    with StopRequest() as stop:
        resume = Resume(member, machine, stop)
        try:
            measured = analysis.compute(member.log, resume)
        except Preempted:
            member.preempt()
            return member.status
    for name, content in measured.files.items():
        member.write_file(name, content)
    member.end(Status.FINISHED, {**measured.row, "seconds": round(resume.seconds(), 3)})
    return member.status
