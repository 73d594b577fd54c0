"""How the processes of a run share it: each has a share of every batch, and all of the parameters or a share of them.

- one process, or a task of several players: gradients are averaged once they are there
- several, each with all parameters: torch's DDP, which averages gradients while others are still computed
- several with ``machine.shard``: torch's FSDP2 (``fully_shard``), each with its share of parameters, gradients and
  optimizer state, put together block by block where they are needed
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from reltrust.errors import SettingsError
from reltrust.experiment import Measured, Task
from reltrust.optim.shards import is_sharded
from reltrust.training import ranks
from reltrust.training.joint import JointOptimizer


class Call(nn.Module):
    """Calls a function within a module's ``forward``, where DDP and FSDP2 do their part for all parameters below it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


class Sharing:
    """One process, or several that average gradients when a step's are there."""

    def __init__(self, task: Task) -> None:
        self.task, self.players = task, list(task.players)

    def loss(self, player: int, step: int, part: int) -> tuple[Tensor, ...]:
        return self.players[player].loss(step, part)

    def part_of_several(self, player: int, *, last: bool) -> AbstractContextManager[Any]:
        """A context for loss and backward pass of one part of a batch; not the ``last`` one: others are added to it."""
        return nullcontext()

    def finish(self, player: int) -> None:
        """Makes the player's gradients those of the whole batch."""
        ranks.average([param.grad for param in self.players[player].params if param.grad is not None])

    def evaluate(self) -> Measured:
        return self.task.evaluate()


class Replicated(Sharing):
    """Each process has all parameters; gradients are averaged by DDP."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        (player,) = self.players
        self._call = DistributedDataParallel(Call(nn.ParameterList(player.params)), gradient_as_bucket_view=True)

    def loss(self, player: int, step: int, part: int) -> tuple[Tensor, ...]:
        measures: tuple[Tensor, ...] = self._call(self.players[player].loss, step, part)
        return measures

    def part_of_several(self, player: int, *, last: bool) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = nullcontext() if last else self._call.no_sync()
        return context

    def finish(self, player: int) -> None: ...


class Sharded(Sharing):
    """Each process has a share of every parameter; from here on the task's parameters are ``DTensor``s.

    Every part of a batch ends with a gradient that is summed and dealt out: whole gradients are never kept.
    """

    def __init__(self, task: Task, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        super().__init__(task)
        mesh = init_device_mesh(device.type, (ranks.count(),))
        (player,) = self.players
        names = {id(param): name for name, param in task.module.named_parameters()}
        own = [names[id(param)] for param in player.params]
        for block in blocks_of(task):
            fully_shard(block, mesh=mesh)
        self._call: Any = fully_shard(Call(task.module), mesh=mesh)
        params = dict(task.module.named_parameters())
        self.players = [replace(player, params=[params[name] for name in own])]

    def loss(self, player: int, step: int, part: int) -> tuple[Tensor, ...]:
        measures: tuple[Tensor, ...] = self._call(self.players[player].loss, step, part)
        return measures

    def finish(self, player: int) -> None: ...

    def evaluate(self) -> Measured:
        measured: Measured = self._call(self.task.evaluate)
        self._call.reshard()  # which a backward pass would have done
        return measured


def share(task: Task, device: torch.device, *, shard: bool) -> Sharing:
    """The task as this run's processes share it; with ``shard`` its parameters are replaced by their shares.

    Raises:
        SettingsError: a task of several players is to be sharded.
    """
    if ranks.count() == 1:
        return Sharing(task)
    ranks.broadcast(task.module.state_dict().values())
    if shard and len(task.players) > 1:
        names = ", ".join(player.name for player in task.players)
        raise SettingsError(f"machine.shard=true: only for a task of one player, this one has {names}")
    if shard:
        return Sharded(task, device)
    return Sharing(task) if len(task.players) > 1 else Replicated(task)


def blocks_of(task: Task) -> Sequence[nn.Module]:
    """The task's ``blocks``, if it names any."""
    blocks: Sequence[nn.Module] = getattr(task, "blocks", ())
    return blocks


def recompute(task: Task) -> None:
    """From here on what is within a block of the task is computed again in the backward pass, and not kept for it.

    Raises:
        SettingsError: the task has no blocks.
    """
    from torch.utils.checkpoint import checkpoint

    if not (blocks := blocks_of(task)):
        raise SettingsError("machine.recompute=true: this task names no blocks that could be computed again")
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


# --- between whole tensors and shares --------------------------------------------------------------------------------


def like(saved: Any, own: Tensor) -> Any:
    """``saved``, a whole tensor, as the share that ``own`` is, if it is one of a tensor of its shape."""
    if not (is_sharded(own) and isinstance(saved, Tensor) and saved.shape == own.shape):
        return saved
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = own
    whole = saved.to(own.device)
    return distribute_tensor(whole, sharded.device_mesh, sharded.placements, src_data_rank=None)


def share_of_state(saved: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's state dict of whole tensors, with this process's shares of those that are shaped as parameters.

    Whether torch's fused form makes the steps is no state: shares have none of SGD's.
    """
    if isinstance(optimizer, JointOptimizer):
        pairs = zip(saved["parts"], optimizer.parts, strict=True)
        return {**saved, "parts": [share_of_state(part, own) for part, own in pairs]}
    numbers: Iterable[Any] = (number for group in saved["param_groups"] for number in group["params"])
    params = (param for group in optimizer.param_groups for param in group["params"])
    of = dict(zip(numbers, params, strict=True))
    state = {  # some optimizers of others keep more in it than what is of a parameter
        number: {key: like(value, of[number]) for key, value in own.items()} if number in of else own
        for number, own in saved["state"].items()
    }
    groups = [
        {**group, **{key: own[key] for key in ("fused",) if key in own}}
        for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**saved, "state": state, "param_groups": groups}
