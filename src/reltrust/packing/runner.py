"""Runs of one shape, from their settings to their ended records, as one program where that is possible and pays."""

import logging
import pickle
from collections.abc import Sequence
from contextlib import ExitStack

from reltrust import build
from reltrust.errors import EndedError, first_line
from reltrust.packing.eligibility import obstacle
from reltrust.packing.program import PackedProgram
from reltrust.packing.size import is_out_of_memory, pack_size, release_memory
from reltrust.records import checkpoint
from reltrust.records.shorter import continue_shorter
from reltrust.records.store import Status
from reltrust.records.tracking import replay
from reltrust.run import life, run
from reltrust.sweeps.plan import PlannedRun
from reltrust.training.program import Program
from reltrust.training.stopping import StopRequest
from reltrust.training.trainer import Member, train

log = logging.getLogger(__name__)

Outcome = Status | BaseException  # how a run ended, or what it failed of


def run_pack(
    runs: Sequence[PlannedRun], *, max_members: int | None, memory_fraction: float, require_packing: bool = False
) -> list[Outcome]:
    """Starts runs of one shape, or resumes them, or finds their results; returns the outcome of each.

    As many as fit make their steps together. Where that does not pay they run one after another. What goes wrong in a
    pack (memory is short, or a member raises an error) halves it, and the halves go on from their checkpoints: in the
    end what is wrong with a run has met it alone. Being asked to stop (SIGTERM, Ctrl-C) leaves checkpoints and starts
    nothing more: the outcome is then ``preempted``.

    Args:
        runs: of settings with one :func:`~reltrust.packing.eligibility.pack_key`.
        max_members: at most this many in one program; None: as many as fit.
        memory_fraction: what programs may take of the device's free memory, in (0, 1].
        require_packing: together also where that does not pay; nothing is measured.
    """
    outcomes: dict[int, Outcome] = {}
    for planned in runs:
        continue_shorter(planned.record, planned.settings)
    with StopRequest() as stop:
        # --- which of them go together ------------------------------------------------------------------------------
        queue: list[list[int]] = []
        packable: list[int] = []
        for i, planned in enumerate(runs if not stop.requested else ()):
            if max_members == 1 or ((status := planned.record.status) is not None and status.is_result):
                queue.append([i])
            elif reason := obstacle(planned.settings):
                if planned.settings.training is not None:  # nobody expects it of an analysis
                    log.warning("%s is run alone: %s", planned.record.path.name, reason)
                queue.append([i])
            else:
                packable.append(i)
        for group in _by_step(runs, packable).values():
            size = pack_size(
                [runs[i].settings for i in group],
                max_members=max_members,
                memory_fraction=memory_fraction,
                require_packing=require_packing,
            )
            queue += _split(group, size)

        # --- run them -----------------------------------------------------------------------------------------------
        while queue:
            due = []
            for i in queue.pop(0):
                status = runs[i].record.status
                if status is not None and status.is_result:
                    outcomes[i] = status
                elif not stop.requested:
                    due.append(i)
            if len(due) == 1:
                try:
                    outcomes[due[0]] = run(runs[due[0]])
                except Exception as error:
                    outcomes[due[0]] = _sendable(error)
            elif due:
                ended = dict(zip(due, _train_together([runs[i] for i in due]), strict=True))
                outcomes |= {i: outcome for i, outcome in ended.items() if outcome is not None}
                shown = [
                    runs[i].record for i, outcome in ended.items() if isinstance(outcome, Status) and outcome.is_result
                ]
                replay(shown, runs[due[0]].settings.tracking, runs[due[0]].settings.machine.results)
                again = [i for i, outcome in ended.items() if outcome is None]
                # Some may have reached a checkpoint that others have not.
                for same in reversed(_by_step(runs, again).values()):
                    queue[:0] = _split(same, (len(due) + 1) // 2)
            release_memory()
    return [outcomes.get(i, Status.PREEMPTED) for i in range(len(runs))]


def _by_step(runs: Sequence[PlannedRun], places: Sequence[int]) -> dict[int, list[int]]:
    """What goes on from a checkpoint is packed with what has made as many steps."""
    groups: dict[int, list[int]] = {}
    for i in places:
        path = runs[i].record.checkpoint_path
        try:
            step = checkpoint.step(path)
        except Exception as error:  # whatever a damaged file raises: its own run will tell
            log.warning("%s is run alone: its checkpoint cannot be read: %s", path.parent.name, first_line(error))
            step = -1 - i
        groups.setdefault(step, []).append(i)
    return groups


def _split(group: list[int], size: int) -> list[list[int]]:
    """As few parts as there must be for this size, of about equal sizes."""
    shares = -(-len(group) // size)
    return [group[share * len(group) // shares : (share + 1) * len(group) // shares] for share in range(shares)]


def _train_together(runs: Sequence[PlannedRun]) -> list[Outcome | None]:
    """The outcomes of runs that are trained as one program; None: something went wrong, it is to be begun again."""
    first = runs[0].settings
    device = build.device(first)
    outcomes: dict[int, Outcome | None] = dict.fromkeys(range(len(runs)))
    programs: dict[int, Program] = {}
    members: dict[int, Member] = {}
    try:
        with ExitStack() as lives:
            for i, planned in enumerate(runs):
                try:
                    programs[i] = build.program(planned.settings, device)
                    members[i] = lives.enter_context(life(planned, device, members=len(runs)))
                except Exception as error:  # the others go on without it
                    if is_out_of_memory(error):
                        raise
                    programs.pop(i, None)
                    outcomes[i] = planned.record.status if isinstance(error, EndedError) else _sendable(error)
            if members:
                same = [f"{runs[i].settings.optimizer} {runs[i].settings.schedule}" for i in members]
                pack = PackedProgram(list(programs.values()), same)
                programs.clear()  # what is a view of a stack keeps all of it in memory, also once its member has left
                statuses = train(pack, first.trained[2], list(members.values()), first.machine)
                outcomes |= dict(zip(members, statuses, strict=True))
    except Exception as error:
        outcomes |= {i: member.status for i, member in members.items() if member.status is not Status.RUNNING}
        what = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {first_line(error)}"
        log.warning("%s with %d runs at once, going on with %d", what, len(runs), (len(runs) + 1) // 2)
    return [outcomes[i] for i in range(len(runs))]


def _sendable(error: BaseException) -> BaseException:
    """The error without its traceback, which would keep programs in memory, and such as another process can read."""
    error.__cause__ = error.__context__ = None
    error = error.with_traceback(None)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever pickling it raises
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
