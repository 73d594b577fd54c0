"""The training loop, the only one."""

import time
from collections.abc import Callable

from reltrust.records import checkpoint
from reltrust.records.store import Row, RunRecord, Status
from reltrust.records.tracking import Tracker
from reltrust.settings import Training
from reltrust.training.program import Program
from reltrust.training.progress import RunProgress
from reltrust.training.schedules import Schedule
from reltrust.training.stopping import StopRequest


class Stopwatch:
    """Seconds spent in training, evaluations left out."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._started = seconds, time.perf_counter()

    def read(self) -> float:
        return self._seconds + time.perf_counter() - self._started

    def stopped(self, action: Callable[[], Row]) -> Row:
        """What the action returns; its time does not count."""
        self._seconds = self.read()
        result = action()
        self._started = time.perf_counter()
        return result


def train(
    program: Program,
    plan: Training,
    schedule: Schedule,
    record: RunRecord,
    tracker: Tracker,
    *,
    checkpoint_seconds: float,
    show_progress: bool,
) -> Status:
    """Trains to the end of the plan, to a non-finite loss, or until asked to stop; the record says which.

    The run goes on from the record's checkpoint, if there is one, as if it had never stopped.
    """
    # --- resume -----------------------------------------------------------------------------------------------------
    step, seconds = 0, 0.0
    if state := checkpoint.load(record.checkpoint_path):
        step, seconds = state["step"], state["seconds"]
        program.load_state_dict(state["program"])
    record.rewind(step)
    clock = Stopwatch(seconds)
    last_checkpoint = time.monotonic()
    row: Row = record.metrics[-1] if step else {}
    progress = RunProgress(record.path.name, plan.steps, step, show_progress)

    with StopRequest() as stop:
        while step < plan.steps:
            # --- one step -------------------------------------------------------------------------------------------
            program.step(step, schedule(step))
            step += 1

            # --- look: the only place where the host waits for the device --------------------------------------------
            if step % plan.log_every == 0:
                window = program.look(step)
                if window.non_finite_step is not None:
                    summary = {"diverged_at": window.non_finite_step, "steps": step, "seconds": clock.read()}
                    record.end(Status.DIVERGED, summary)
                    tracker.finish(Status.DIVERGED, summary)
                    progress.close()
                    return Status.DIVERGED
                row = {"step": step, "lr": program.lr, **window.means, "seconds": round(clock.read(), 3)}

                # --- evaluate -----------------------------------------------------------------------------------------
                if step % plan.evaluate_every == 0 or step == plan.steps:
                    row |= clock.stopped(program.evaluate)
                record.append(row)
                tracker.log(row)
                progress.update(step, window.means)

            # --- checkpoint -------------------------------------------------------------------------------------------
            overdue = time.monotonic() - last_checkpoint >= checkpoint_seconds
            if (overdue or stop.requested) and step < plan.steps:
                state = {"step": step, "seconds": clock.read(), "program": program.state_dict()}
                checkpoint.save(record.checkpoint_path, state)
                last_checkpoint = time.monotonic()
            if stop.requested and step < plan.steps:
                record.preempted()
                tracker.finish(Status.PREEMPTED, {})
                progress.close()
                return Status.PREEMPTED

    # --- the end --------------------------------------------------------------------------------------------------
    summary = {"steps": step} | {key: value for key, value in row.items() if key not in ("step", "lr")}
    record.end(Status.FINISHED, summary)
    tracker.finish(Status.FINISHED, summary)
    progress.close()
    return Status.FINISHED
