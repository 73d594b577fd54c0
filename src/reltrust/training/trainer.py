"""The training loop, the only one."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from reltrust.errors import RecordError
from reltrust.experiment import Measured
from reltrust.records import checkpoint
from reltrust.records.store import Row, RunRecord, Status
from reltrust.records.tracking import Tracker
from reltrust.schedules import Schedule
from reltrust.settings import Machine, Training
from reltrust.training import ranks
from reltrust.training.program import TrainingProgram
from reltrust.training.progress import Progress
from reltrust.training.stopping import StopRequest

T = TypeVar("T")
log = logging.getLogger(__name__)


class Stopwatch:
    """Seconds spent in training, evaluations left out."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self._started = self._started, time.perf_counter()
        return self._started - before

    def stopped(self, action: Callable[[], T]) -> T:
        """What the action returns; its time does not count."""
        stopped = time.perf_counter()
        result = action()
        self._started += time.perf_counter() - stopped
        return result


@dataclass
class Member:
    """A run that is trained or computed, perhaps one of several: what it follows, and where it is written down."""

    record: RunRecord
    schedule: Schedule | None  # None: an analysis
    tracker: Tracker
    seconds: float = 0.0  # its share of the training time
    row: Row = field(default_factory=dict)  # the last one
    status: Status = Status.RUNNING

    def lr_factor(self, step: int, steps: int) -> float:
        """Raises TypeError for an analysis, which has no learning rate."""
        if self.schedule is None:
            raise TypeError(f"{self.record.path} has no schedule")
        return self.schedule.factor(step, steps)

    def rewind(self, step: int) -> None:
        self.record.rewind(step)

    def log(self, row: Row) -> None:
        self.record.append(row)
        self.tracker.log(row)

    def write_file(self, name: str, content: bytes) -> None:
        self.tracker.file(name, self.record.write_file(name, content))

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Leaves a checkpoint of having made so many steps."""
        self.record.lease.check()
        checkpoint.save(self.record.checkpoint_path, self._kept(step, state))

    def _kept(self, step: int, state: dict[str, Any]) -> dict[str, Any]:
        return {"step": step, "seconds": self.seconds, "program": state}

    def save_weights(self, weights: dict[str, Tensor], levels: bytes | None) -> None:
        self.record.lease.check()
        checkpoint.save_weights(self.record.weights_path, weights)
        if levels is not None:
            checkpoint.save_levels(self.record.levels_path, levels, weights)

    def end(self, status: Status, summary: Row, *, keep_checkpoint: bool = False) -> None:
        self.record.end(status, summary, keep_checkpoint=keep_checkpoint)
        self.status = status
        self.tracker.finish(status, summary)

    def preempt(self) -> None:
        self.record.preempted()
        self.status = Status.PREEMPTED
        self.tracker.finish(Status.PREEMPTED, {})


class SilentMember(Member):
    """The run on a rank that writes nothing but its share of what is shared; it reads what rank 0 has written."""

    def rewind(self, step: int) -> None: ...

    def log(self, row: Row) -> None: ...

    def write_file(self, name: str, content: bytes) -> None: ...

    def save(self, step: int, state: dict[str, Any]) -> None:
        checkpoint.save_share(self.record.checkpoint_path, self._kept(step, state))

    def save_weights(self, weights: dict[str, Tensor], levels: bytes | None) -> None: ...

    def end(self, status: Status, summary: Row, *, keep_checkpoint: bool = False) -> None:
        self.status = status

    def preempt(self) -> None:
        self.status = Status.PREEMPTED


def train(program: TrainingProgram, training: Training, members: Sequence[Member], machine: Machine) -> list[Status]:
    """Trains every member to its last step, to a non-finite loss, or until asked to stop; its record says which.

    The members go on from their records' checkpoints, if there are any, as if they had never stopped.

    Args:
        program: steps the members, in their order.

    Raises:
        ValueError: the members' checkpoints are of different steps.
        RecordError: a checkpoint is of another model, as when a text has got another vocabulary.
    """
    # --- resume -----------------------------------------------------------------------------------------------------
    states: list[dict[str, Any]] = [checkpoint.load(member.record.checkpoint_path) or {} for member in members]
    (step, *others) = {int(state.get("step", 0)) for state in states}
    if others:
        raise ValueError(f"the checkpoints are of different steps: {step}, {', '.join(map(str, others))}")
    if step:
        try:
            program.load_state_dicts([state["program"] for state in states])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).split("\n")[:2][-1].strip()  # of a model the first line is but a heading
            path = members[0].record.checkpoint_path
            raise RecordError(
                f"{path}: not of this model or its optimizer ({reason}); without it the run begins again"
            ) from None
    for member, state in zip(members, states, strict=True):
        member.rewind(step)
        member.seconds = state.get("seconds", 0.0)
        member.row = member.record.metrics[-1] if step and member.record.metrics else {}
    del states
    running = list(members)
    clock, last_checkpoint, keeps_checkpoints = Stopwatch(), time.monotonic(), True
    count, label, unit = len(members), members[0].record.path.name, "step"
    if count > 1:
        label, unit = f"{count} runs, {label} and others", "member-step"
    progress = Progress(label, count * training.steps, count * step, unit, machine.progress)

    def leave_diverged() -> None:
        nonlocal running
        kept = [k for k, member in enumerate(running) if member.status is Status.RUNNING]
        if len(kept) < len(running):
            running = [running[k] for k in kept]
            program.retain(kept)
            clock.lap()  # it was nobody's training

    def share_time() -> None:
        lap = clock.lap()
        for member in running:
            member.seconds += lap / len(running)

    def save_checkpoints() -> None:
        nonlocal keeps_checkpoints
        try:
            for member, state in zip(running, program.state_dicts(), strict=True):
                member.save(step, state)
        except checkpoint.StateError as error:
            if keeps_checkpoints:
                log.warning("%s: its optimizer's state %s; if stopped, the run begins again", label, error)
            keeps_checkpoints = False

    with StopRequest() as stop:
        while step < training.steps and running:
            # --- one step -------------------------------------------------------------------------------------------
            program.training_step(step, [member.lr_factor(step, training.steps) for member in running])
            step += 1

            # --- fetch: between two of these the host waits for nothing but a checkpoint ------------------------------
            if step % training.log_every == 0:
                windows, lrs = program.fetch_window(step), program.lrs
                share_time()
                for member, window, lr in zip(running, windows, lrs, strict=True):
                    member.row = {"step": step, "lr": lr, **window.means, "seconds": round(member.seconds, 3)}
                    if window.non_finite_step is not None:
                        summary = {"diverged_at": window.non_finite_step, "steps": step, "seconds": member.seconds}
                        member.end(Status.DIVERGED, summary)

                leave_diverged()

                # --- evaluate -----------------------------------------------------------------------------------------
                due = running and (step % training.evaluate_every == 0 or step == training.steps)
                evaluated = clock.stopped(program.evaluate) if due else [Measured({})] * len(running)
                for member, measured in zip(running, evaluated, strict=True):
                    member.row |= measured.row
                    member.log(member.row)
                    for name, content in measured.files.items():
                        member.write_file(f"step{step:0{len(str(training.steps))}d}-{name}", content)
                ended, text = step == training.steps, f"step {step}/{training.steps}"
                # The last update has no loss after it, but an evaluation.
                for member, measured in zip(running, evaluated, strict=True) if ended else ():
                    if any(math.isnan(value) for value in measured.row.values()):
                        member.end(Status.DIVERGED, {"diverged_at": step, "steps": step, "seconds": member.seconds})
                leave_diverged()
                if count > 1:
                    going = "finished" if ended else "running"
                    text += f" {going} {len(running)} diverged {count - len(running)}"
                elif running:
                    text += "".join(f" {key.removeprefix('train_')} {x:.4g}" for key, x in windows[0].means.items())
                progress.update(count * step, text, last=ended)

            # --- checkpoint -------------------------------------------------------------------------------------------
            overdue = keeps_checkpoints and time.monotonic() - last_checkpoint >= 60 * machine.checkpoint_minutes
            stopping, overdue = ranks.on_any(stop.requested, overdue)
            if (overdue or stopping) and step < training.steps and running:
                share_time()
                save_checkpoints()
                clock.lap()
                last_checkpoint = time.monotonic()
            if stopping and step < training.steps:
                for member in running:
                    member.preempt()
                break

    # --- the end ------------------------------------------------------------------------------------------------------
    running = [member for member in running if member.status is Status.RUNNING]
    if machine.keep == "checkpoint" and running:
        save_checkpoints()
    if machine.keep == "weights" and running:
        for member, weights, levels in zip(running, program.weights(), program.levels(), strict=True):
            member.save_weights(weights, levels)
    for member in running:
        result = {key: value for key, value in member.row.items() if key not in ("step", "lr")}
        member.end(Status.FINISHED, {"steps": step, **result}, keep_checkpoint=machine.keep == "checkpoint")
    progress.close()
    return [member.status for member in members]
