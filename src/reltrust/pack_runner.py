"""Many runs: from their settings to their ended records, as one program where that is possible and pays."""

import logging
import pickle
from collections.abc import Sequence
from contextlib import suppress

from reltrust.errors import first_line
from reltrust.pack_size import is_out_of_memory, pack_size, release_memory
from reltrust.records import checkpoint
from reltrust.records.store import Status, record_of
from reltrust.records.tracking import open_tracker
from reltrust.runner import build_program, build_schedule, optimizer_class, resolve_device, run, use_threads
from reltrust.settings import Settings
from reltrust.training.packed import PackedProgram, can_pack
from reltrust.training.program import Program
from reltrust.training.stopping import StopRequest
from reltrust.training.trainer import Member, train

log = logging.getLogger(__name__)

Outcome = Status | BaseException  # how a run ended, or what it failed of


def obstacle(settings: Settings) -> str | None:
    """Why the run cannot be packed with others; None if it can."""
    optimizer = settings.optimizer
    try:
        target = optimizer_class(optimizer.target)
    except Exception as error:  # whatever it is, the run itself will tell
        return first_line(error)
    if settings.task.shape is None:
        return f"task.name={settings.task.name} does not pack"
    if not can_pack(target):
        return f"optimizer.target={optimizer.target} does not pack"
    if optimizer.hyperparameters.get("init") == "random":
        return "optimizer.init=random draws from a generator that the members of a pack would share"
    return None


def run_pack(
    runs: Sequence[Settings], *, max_members: int | None, memory_fraction: float, require_packing: bool = False
) -> list[Outcome]:
    """Starts runs of one shape, or resumes them, or finds their results; returns the outcome of each.

    As many as fit make their steps together. Where that does not pay they run one after another. What goes wrong in a
    pack (memory is short, or a member raises an error) halves it, and the halves go on from their checkpoints: in the
    end what is wrong with a run has met it alone. Being asked to stop (SIGTERM, Ctrl-C) leaves checkpoints and starts
    nothing more: the outcome is then ``preempted``.

    Args:
        runs: settings that agree in everything that :func:`reltrust.sweeps.packing.common` names.
        max_members: at most this many in one program; None: as many as fit.
        memory_fraction: what programs may take of the device's free memory, in (0, 1].
        require_packing: together also where that does not pay; nothing is measured.
    """
    outcomes: dict[int, Outcome] = {}
    with StopRequest() as stop:
        parts = [list(range(len(runs)))]
        if not stop.requested:
            parts = _parts(runs, max_members, memory_fraction, require_packing)
        _run_parts(runs, parts, outcomes, stop)
    return [outcomes[i] for i in range(len(runs))]


# --- which runs go together ------------------------------------------------------------------------------------------


def _parts(
    runs: Sequence[Settings], max_members: int | None, memory_fraction: float, require_packing: bool
) -> list[list[int]]:
    """Places in ``runs`` of those that are to be one program each."""
    parts, packable = [], []
    for i, settings in enumerate(runs):
        record = record_of(settings)
        if (status := record.status) is not None and status.is_result:
            parts.append([i])
        elif reason := obstacle(settings):
            log.warning("%s is run alone: %s", record.path.name, reason)
            parts.append([i])
        else:
            packable.append(i)
    for group in _by_step(runs, packable).values():
        size = pack_size(
            [runs[i] for i in group],
            max_members=max_members,
            memory_fraction=memory_fraction,
            require_packing=require_packing,
        )
        parts += _split(group, size)
    return parts


def _by_step(runs: Sequence[Settings], places: Sequence[int]) -> dict[int, list[int]]:
    """What goes on from a checkpoint is packed with what has made as many steps."""
    groups: dict[int, list[int]] = {}
    for i in places:
        path = record_of(runs[i]).checkpoint_path
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


# --- running them ----------------------------------------------------------------------------------------------------


def _run_parts(
    runs: Sequence[Settings], queue: list[list[int]], outcomes: dict[int, Outcome], stop: StopRequest
) -> None:
    while queue:
        part = []
        for i in queue.pop(0):
            status = record_of(runs[i]).status
            if status is not None and status.is_result:
                outcomes[i] = status
            elif stop.requested:
                outcomes[i] = Status.PREEMPTED
            else:
                part.append(i)
        if len(part) == 1:
            outcomes[part[0]] = _alone(runs[part[0]])
        elif part:
            ended = dict(zip(part, _together([runs[i] for i in part]), strict=True))
            outcomes |= {i: outcome for i, outcome in ended.items() if outcome is not None}
            again = [i for i, outcome in ended.items() if outcome is None]
            # Some may have reached a checkpoint that others have not.
            for same in reversed(_by_step(runs, again).values()):
                queue[:0] = _split(same, _half(part))
        release_memory()


def _half(part: Sequence[object]) -> int:
    return (len(part) + 1) // 2


def _alone(settings: Settings) -> Outcome:
    try:
        return run(settings)
    except Exception as error:
        return _bare(error)


def _together(runs: Sequence[Settings]) -> list[Outcome | None]:
    """The outcomes of runs that are trained as one program; None: something went wrong, it is to be begun again."""
    device = resolve_device(runs[0].machine.device)
    use_threads(runs[0])
    outcomes: dict[int, Outcome | None] = dict.fromkeys(range(len(runs)))
    programs: dict[int, Program] = {}
    members: dict[int, Member] = {}
    try:
        for i, settings in enumerate(runs):
            try:
                programs[i] = build_program(settings, device)
                record = record_of(settings)
                record.begin(settings, str(device), members=len(runs))
            except Exception as error:  # the others go on without it
                if is_out_of_memory(error):
                    raise
                programs.pop(i, None)
                outcomes[i] = _bare(error)
                continue
            tracker = open_tracker(record, settings.tracking, settings.machine.results, live=False)
            members[i] = Member(record, build_schedule(settings), tracker)
        if members:
            alike = [f"{runs[i].optimizer} {runs[i].schedule}" for i in members]
            pack = PackedProgram(list(programs.values()), alike)
            programs.clear()  # what is a view of a stack keeps all of it in memory, also once its member has left
            statuses = train(
                pack,
                runs[0].training,
                list(members.values()),
                checkpoint_seconds=60 * runs[0].machine.checkpoint_minutes,
                show_progress=runs[0].machine.progress,
            )
            outcomes |= dict(zip(members, statuses, strict=True))
    except BaseException as error:
        for i, member in members.items():
            if member.status is not Status.RUNNING:
                outcomes[i] = member.status
                continue
            with suppress(Exception):  # the record itself may be what is wrong; begun again, it will tell
                member.record.preempted()
        if not isinstance(error, Exception):
            raise
        what = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {first_line(error)}"
        log.warning("%s with %d runs at once, going on with %d", what, len(runs), _half(runs))
    return [outcomes[i] for i in range(len(runs))]


def _bare(error: BaseException) -> BaseException:
    """The error without its traceback, which would keep programs in memory, and such as another process can read."""
    error.__cause__ = error.__context__ = None
    error = error.with_traceback(None)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever pickling it raises
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
