"""Many runs: from their settings to their ended records, as one program where that is possible and pays."""

import gc
import logging
import time
from collections.abc import Sequence

import psutil
import torch
from torch import Tensor

from reltrust.errors import UserError
from reltrust.records import checkpoint
from reltrust.records.store import RunRecord, Status, Store
from reltrust.records.tracking import open_tracker
from reltrust.runner import build_program, build_schedule, optimizer_class, resolve_device, run
from reltrust.settings import Settings
from reltrust.training.packed import PackedProgram, can_pack
from reltrust.training.program import Program, Steps
from reltrust.training.stopping import StopRequest
from reltrust.training.trainer import Member, train

log = logging.getLogger(__name__)

Outcome = Status | BaseException  # how a run ended, or what it failed of

_OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED")
_TRIAL_MEMBERS, _TRIAL_ROUNDS, _WARM_UPS = 9, 3, 5
_COPIES = 7  # of a member's parameters: in its model and in the stack, two gradients, two moments, what a step needs


def obstacle(settings: Settings) -> str | None:
    """Why the run cannot be packed with others; None if it can.

    Raises:
        SettingsError: there is no such optimizer.
    """
    optimizer = settings.optimizer
    if settings.task.shape is None:
        return f"task.name={settings.task.name} does not pack"
    if not can_pack(optimizer_class(optimizer.target)):
        return f"optimizer.target={optimizer.target} does not pack"
    if optimizer.hyperparameters.get("init") == "random":
        return "optimizer.init=random draws from a generator that the members of a pack would share"
    return None


def run_pack(
    runs: Sequence[Settings], *, max_members: int | None, memory_fraction: float, require_packing: bool = False
) -> list[Outcome]:
    """Starts runs of one shape, or resumes them, or finds their results; returns the outcome of each.

    As many as fit make their steps together. Where that does not pay they run one after another. Being asked to stop
    (SIGTERM, Ctrl-C) leaves checkpoints and starts nothing more: the outcome is then ``preempted``.

    Args:
        runs: settings that agree in everything that :func:`reltrust.sweeps.packing.common` names.
        max_members: at most this many in one program; None: as many as fit.
        memory_fraction: what programs may take of the device's free memory, in (0, 1].
        require_packing: together also where that does not pay; nothing is measured.
    """
    outcomes: dict[int, Outcome] = {}
    with StopRequest() as stop:
        _run_parts(runs, _parts(runs, max_members, memory_fraction, require_packing), outcomes, stop)
    return [outcomes[i] for i in range(len(runs))]


def _run_parts(
    runs: Sequence[Settings], queue: list[list[int]], outcomes: dict[int, Outcome], stop: StopRequest
) -> None:
    while queue:
        part = []
        for i in queue.pop(0):
            status = _record(runs[i]).status
            if status is not None and status.is_result:
                outcomes[i] = status
            elif stop.requested:
                outcomes[i] = Status.PREEMPTED
            else:
                part.append(i)
        if len(part) == 1:
            outcomes[part[0]] = _alone(runs[part[0]])
        elif part and (ended := _together([runs[i] for i in part])):
            outcomes |= dict(zip(part, ended, strict=True))
        elif part:
            half = (len(part) + 1) // 2
            log.warning("out of memory with %d runs at once, going on with %d", len(part), half)
            # Some may have reached a checkpoint that others have not.
            for same in reversed(_by_step(runs, part).values()):
                queue[:0] = _split(same, half)
        _free_memory()  # of the pack that has ended: programs, graphs and tracebacks refer to themselves


def _record(settings: Settings) -> RunRecord:
    return Store(settings.machine.results).record(settings)


# --- which runs go together ------------------------------------------------------------------------------------------


def _parts(
    runs: Sequence[Settings], max_members: int | None, memory_fraction: float, require_packing: bool
) -> list[list[int]]:
    """Places in ``runs`` of those that are to be one program each."""
    parts, packable = [], []
    for i, settings in enumerate(runs):
        record = _record(settings)
        if (status := record.status) is not None and status.is_result:
            parts.append([i])
        elif reason := _refusal(settings):
            log.warning("%s is run alone: %s", record.path.name, reason)
            parts.append([i])
        else:
            packable.append(i)
    for group in _by_step(runs, packable).values():
        parts += _split(group, _size([runs[i] for i in group], max_members, memory_fraction, require_packing))
    return parts


def _by_step(runs: Sequence[Settings], places: Sequence[int]) -> dict[int, list[int]]:
    """What goes on from a checkpoint is packed with what has made as many steps."""
    groups: dict[int, list[int]] = {}
    for i in places:
        path = _record(runs[i]).checkpoint_path
        try:
            step = checkpoint.step(path)
        except Exception as error:  # whatever a damaged file raises: its own run will tell
            log.warning("%s is run alone: its checkpoint cannot be read: %s", path.parent.name, _first_line(error))
            step = -1 - i
        groups.setdefault(step, []).append(i)
    return groups


def _split(group: list[int], size: int) -> list[list[int]]:
    """As few parts as there must be for this size, of about equal sizes."""
    shares = -(-len(group) // size)
    return [group[share * len(group) // shares : (share + 1) * len(group) // shares] for share in range(shares)]


def _refusal(settings: Settings) -> str | None:
    """Why the run is not even tried in a pack. What is wrong with it, it will tell itself."""
    try:
        return obstacle(settings)
    except Exception as error:
        return str(error)


def _size(runs: Sequence[Settings], max_members: int | None, memory_fraction: float, require_packing: bool) -> int:
    """How many of these runs to train at once."""
    if len(runs) == 1 or max_members == 1:
        return 1
    try:
        device = resolve_device(runs[0].machine.device)
        _use_threads(runs[0])
        fitting = int(memory_fraction * free_memory(device) // member_bytes(build_program(runs[0], device)))
        most = min(fitting, max_members or fitting, len(runs))
        gain = packing_gain(runs, device, most) if most > 1 and not require_packing else 1.0
    except UserError as error:  # what a run is refused for, it is told alone
        log.warning("%d runs are run one by one: %s", len(runs), error)
        return 1
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        most = 1
    _free_memory()
    if most < 2:
        log.warning("%d runs are run one by one: the memory is enough for one of them", len(runs))
        return 1
    if gain < 1:
        log.warning("%d runs are run one by one: packed, a step would take %.2f of its time", len(runs), 1 / gain)
        return 1
    return most


def packing_gain(runs: Sequence[Settings], device: torch.device, most: int = _TRIAL_MEMBERS) -> float:
    """How many times as fast runs make their steps packed, at most so many of them, as they do alone; measured."""
    count = min(len(runs), most, _TRIAL_MEMBERS)
    some = [runs[i * len(runs) // count] for i in range(count)]
    alone: list[tuple[Steps, int]] = [(build_program(settings, device), 1) for settings in some]
    packed = PackedProgram([build_program(settings, device) for settings in some], [repr(s.optimizer) for s in some])

    seconds: dict[int, list[float]] = {}
    for trial in range(_TRIAL_ROUNDS):  # in turn, so that what else the machine does meets all
        for i, (program, members) in enumerate([*alone, (packed, len(some))]):
            for _ in range(1 if trial else 1 + _WARM_UPS):
                start = time.perf_counter()
                program.step(0, [1.0] * members)
                program.look(1)  # waits for the device
            seconds.setdefault(i, []).append(time.perf_counter() - start)
    *own, together = (min(times) for times in seconds.values())
    return sum(own) / together


def member_bytes(program: Program) -> int:
    """An upper estimate of what one member of a pack needs: its parameters in all their copies, and its activations."""
    saved: dict[int, int] = {}

    def count(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        program.task.loss(0)
    params = sum(p.numel() * p.element_size() for p in program.params)
    return _COPIES * params + 2 * sum(saved.values())


def free_memory(device: torch.device) -> int:
    """Bytes of the device that nobody uses."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


# --- running them ----------------------------------------------------------------------------------------------------


def _alone(settings: Settings) -> Outcome:
    try:
        return run(settings)
    except Exception as error:
        return _bare(error)


def _together(runs: Sequence[Settings]) -> list[Outcome] | None:
    """The outcomes of runs that are trained as one program.

    None: memory does not suffice. What has a result keeps it, the others can be begun again.
    """
    device = resolve_device(runs[0].machine.device)
    _use_threads(runs[0])
    outcomes: dict[int, Outcome] = {}
    programs: dict[int, Program] = {}
    members: dict[int, Member] = {}
    try:
        for i, settings in enumerate(runs):
            try:
                programs[i] = build_program(settings, device)
                record = _record(settings)
                record.begin(settings, str(device), members=len(runs))
            except Exception as error:  # the others go on without it
                if _is_out_of_memory(error):
                    raise
                programs.pop(i, None)
                outcomes[i] = _bare(error)
                continue
            tracker = open_tracker(record, settings.tracking, settings.machine.results, live=False)
            members[i] = Member(record, build_schedule(settings), tracker)
        if members:
            alike = [f"{runs[i].optimizer} {runs[i].schedule}" for i in members]
            statuses = train(
                PackedProgram(list(programs.values()), alike),
                runs[0].training,
                list(members.values()),
                checkpoint_seconds=60 * runs[0].machine.checkpoint_minutes,
                show_progress=runs[0].machine.progress,
            )
            outcomes |= dict(zip(members, statuses, strict=True))
        return [outcomes[i] for i in range(len(runs))]
    except BaseException as error:
        can_be_repeated = isinstance(error, KeyboardInterrupt) or _is_out_of_memory(error)
        for i, member in members.items():
            outcomes[i] = _bare(error) if member.status is Status.RUNNING else member.status
            if member.status is Status.RUNNING and can_be_repeated:
                member.record.preempted()
            elif member.status is Status.RUNNING:
                member.record.failed(error)
        if not isinstance(error, Exception):
            raise
        return None if can_be_repeated else [outcomes[i] for i in range(len(runs))]


def _use_threads(settings: Settings) -> None:
    if settings.machine.threads is not None:
        torch.set_num_threads(settings.machine.threads)


def _is_out_of_memory(error: BaseException) -> bool:
    """A CPU's allocator and CUDA's libraries have no exception of their own for it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(words in str(seen) for words in _OUT_OF_MEMORY):
            return True
        seen = seen.__cause__ or seen.__context__  # the end of a failed capture raises an error of its own
    return False


def _bare(error: BaseException) -> BaseException:
    """The error without its traceback, which would keep the programs in memory."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
