"""How many runs to train as one program: as many as pay and fit into memory."""

import gc
import logging
import time
from collections.abc import Sequence

import psutil
import torch
from torch import Tensor

from reltrust import build
from reltrust.errors import first_line
from reltrust.packing import cuda_graph
from reltrust.packing.program import PackedProgram
from reltrust.settings import Settings
from reltrust.training import ranks
from reltrust.training.program import Program, TrainingProgram

log = logging.getLogger(__name__)

_OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED")
_COPIES = 7  # of a member's parameters: in its model and in the stack, two gradients, two moments, what a step needs
_TRIAL_MEMBERS, _TRIAL_ROUNDS = 9, 3
# The first step makes the optimizers' state, and the one after the graph's own warm-ups makes the graph.
_WARM_UPS = cuda_graph.WARM_UPS + 2


def pack_size(
    runs: Sequence[Settings], *, max_members: int | None, memory_fraction: float, require_packing: bool
) -> int:
    """How many of these runs, of one shape, to train at once; 1 where packing is no gain, with a line that says why.

    Arguments as of :func:`reltrust.packing.runner.run_pack`.
    """
    if len(runs) == 1 or max_members == 1:
        return 1
    reason = "the memory is enough for one of them"
    try:
        device = build.device(runs[0])
        fitting = int(memory_fraction * free_memory(device) // member_bytes(build.program(runs[0], device)))
        most = min(fitting, max_members or fitting, len(runs))
        while most > 1:
            try:
                gain = 1.0 if require_packing else packing_gain(runs, device, most)
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                most = min(most, _TRIAL_MEMBERS) // 2
            release_memory()
        if most > 1 and gain >= 1:
            return most
        if most > 1:
            reason = f"packed, a step would take {1 / gain:.2f} of its time"
    except Exception as error:  # what is wrong with a run, it is told alone
        reason = first_line(error)
    finally:
        release_memory()
    log.warning("%d runs are run one by one: %s", len(runs), reason)
    return 1


def packing_gain(runs: Sequence[Settings], device: torch.device, most: int = _TRIAL_MEMBERS) -> float:
    """How many times as fast runs make their steps packed, at most so many of them, as they do alone; measured."""
    count = min(len(runs), most, _TRIAL_MEMBERS)
    some = [runs[i * len(runs) // count] for i in range(count)]
    alone: list[tuple[TrainingProgram, int]] = [(build.program(settings, device), 1) for settings in some]
    packed = PackedProgram([build.program(settings, device) for settings in some], [repr(s.optimizer) for s in some])

    seconds: dict[int, list[float]] = {}
    for trial in range(_TRIAL_ROUNDS):  # in turn, so that what else the machine does meets all
        for i, (program, members) in enumerate([*alone, (packed, len(some))]):
            for _ in range(1 if trial else 1 + _WARM_UPS):
                start = time.perf_counter()
                program.training_step(0, [1.0] * members)
                program.fetch_window(1)  # waits for the device
            seconds.setdefault(i, []).append(time.perf_counter() - start)
    *own, together = (min(times) for times in seconds.values())
    return sum(own) / together


def member_bytes(program: Program) -> int:
    """An upper estimate of what one member of a pack needs: its parameters in all their copies, and its activations.

    Raises:
        ValueError: the task cannot be packed.
    """
    saved: dict[int, int] = {}

    def count(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return x

    (player,) = program.task.players
    generator = ranks.generator(player.params[0].device)
    before = generator.get_state()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        loss, *_ = player.loss(0, 0)
    if not torch.equal(before, generator.get_state()):
        raise ValueError("its loss draws from torch's generator, which the members of a pack would share")
    learned = [p for p in player.params if p.requires_grad]
    grads = torch.autograd.grad(loss, learned, allow_unused=True)
    if len(learned) < len(player.params) or any(grad is None for grad in grads):
        raise ValueError("its loss does not use every parameter, and what has no gradient stays as it is")
    for p in player.params:  # a layer saves its weights too
        saved.pop(p.untyped_storage().data_ptr(), None)
    params = sum(p.numel() * p.element_size() for p in player.params)
    return _COPIES * params + 2 * sum(saved.values())


def free_memory(device: torch.device) -> int:
    """Bytes of the device that nobody uses."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def release_memory() -> None:
    """Gives back what programs that have ended hold: they refer to themselves, as do tracebacks."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """A CPU's allocator and CUDA's libraries have no exception of their own for it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(words in str(seen) for words in _OUT_OF_MEMORY):
            return True
        seen = seen.__cause__ or seen.__context__  # the end of a failed capture raises an error of its own
    return False
