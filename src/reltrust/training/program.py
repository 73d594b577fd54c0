"""Runs as the trainer sees them. One run: a task and its optimizers, measures that stay on the device until fetched."""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from reltrust.experiment import Measured, Task
from reltrust.optim import lns
from reltrust.optim.shards import whole
from reltrust.settings import Trainer
from reltrust.training import ranks
from reltrust.training.joint import set_mode
from reltrust.training.sharing import Sharing, like, share_of_state


@dataclass(frozen=True)
class Window:
    """What happened since the last fetch: means of the training measures, and the first step that was not finite."""

    means: dict[str, float]
    non_finite_step: int | None


class TrainingProgram(Protocol):
    """What the trainer drives: runs that make every step together, its members. Lists are in the members' order."""

    def training_step(self, step: int, lr_factors: Sequence[float]) -> None:
        """One step on the batch of ``step``, with each member's learning rates times its factor."""
        ...

    @property
    def lrs(self) -> list[float]:
        """The learning rates of the last step."""
        ...

    def fetch_window(self, step: int) -> list[Window]:
        """The windows that end before ``step``; waits for the device and starts the next window."""
        ...

    def evaluate(self) -> list[Measured]:
        """The task's measures on held-out examples."""
        ...

    def retain(self, members: Sequence[int]) -> None:
        """Goes on with these members only."""
        ...

    def state_dicts(self) -> list[dict[str, Any]]:
        """What each member needs to go on, here or in any other company."""
        ...

    def load_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None: ...

    def weights(self) -> list[dict[str, Tensor]]:
        """What each member's model is evaluated with."""
        ...

    def levels(self) -> list[bytes | None]:
        """The same as an ``lns`` file, of members whose optimizer keeps weights as levels."""
        ...


class Program:
    """One run: its players' updates in their order, each by an optimizer of its own. Between two fetches nothing waits
    for the device.

    Several ranks hold one such program each; a rank computes its share of the parts of each batch. Checkpoints hold
    whole tensors, whoever wrote them: a run goes on in any number of processes, sharded or not.

    Args:
        optimizers: one for each player.
        window: the number of steps between two fetches, for which measures are kept on the device.
        trainer: the precision of matrix products, see :func:`computing`, and in how many parts a batch is computed.
        clip_norms: for each player, the norm that its gradients are scaled down to; None: they are left alone.
        sharing: how several processes share the task; None: there is one.
    """

    def __init__(
        self,
        task: Task,
        optimizers: Sequence[Optimizer],
        window: int,
        trainer: Trainer,
        clip_norms: Sequence[float | None] | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        self.task, self.optimizers, self.window = task, list(optimizers), window
        self.sharing = sharing or Sharing(task)
        self.players = self.sharing.players
        self.precision, self.parts = trainer.precision, trainer.accumulate
        self.first_part = ranks.rank() * self.parts
        self.clip_norms = list(clip_norms or [None] * len(self.optimizers))
        set_mode(self.optimizers, "train")
        self.initial_lrs = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self.names = [name for player in task.players for name in player.measures]
        ends = itertools.accumulate(len(player.measures) for player in task.players)
        self.losses = [0, *ends][:-1]  # where the players' losses stand among the measures
        device = self.players[0].params[0].device
        self.measured = torch.zeros(window, len(self.names), device=device)  # a row a step
        self.since_fetch = 0

    def training_step(self, step: int, lr_factors: Sequence[float]) -> None:
        measures: list[Tensor] = []
        for i, (player, optimizer) in enumerate(zip(self.players, self.optimizers, strict=True)):
            for group, initial in zip(optimizer.param_groups, self.initial_lrs[i], strict=True):
                group["lr"] = initial * lr_factors[0]
            for param in player.params:  # what zero_grad does, without its cost, which small networks notice
                param.grad = None
            end = self.first_part + self.parts
            for part in range(self.first_part, end):
                with self.sharing.part_of_several(i, last=part + 1 == end):
                    with computing(self.precision, self.measured.device):
                        loss, *others = self.sharing.loss(i, step, part)
                    (loss if self.parts == 1 else loss / self.parts).backward()
                measures += [loss.detach(), *others]
            self.sharing.finish(i)
            if (clip_norm := self.clip_norms[i]) is not None:
                torch.nn.utils.clip_grad_norm_(player.params, clip_norm)
            optimizer.step()
        row = self.measured[self.since_fetch]
        if self.parts == 1:
            torch.stack(measures, out=row)
        else:  # the parts of a player's measures stand together
            sizes = [len(player.measures) for player in self.players for _ in range(self.parts)]
            parts = iter(torch.stack(measures).split(sizes))
            row.copy_(torch.cat([sum(itertools.islice(parts, self.parts)) / self.parts for _ in self.players]))
        self.since_fetch += 1

    @property
    def lrs(self) -> list[float]:
        """The learning rate of the first player's first group at the last step."""
        return [float(self.optimizers[0].param_groups[0]["lr"])]

    def fetch_window(self, step: int) -> list[Window]:
        measured, steps, self.since_fetch = self.measured[: self.since_fetch], self.since_fetch, 0
        ranks.average([measured])
        return [window_of(measured.cpu(), self.names, self.losses, step - steps)]

    def evaluate(self) -> list[Measured]:
        """The task's measures on held-out examples, the model and the optimizers in evaluation mode."""
        self.task.module.eval()
        set_mode(self.optimizers, "eval")
        with computing(self.precision, self.measured.device):
            measured = self.sharing.evaluate()
        self.task.module.train()
        set_mode(self.optimizers, "train")
        return [measured]

    def retain(self, members: Sequence[int]) -> None:
        """Nothing to do: the only member goes on."""

    def state_dicts(self) -> list[dict[str, Any]]:
        """All in training mode: to evaluation mode and back would round the weights, which must go on to the bit."""
        measured = self.measured[: self.since_fetch]
        ranks.average([measured])
        state = {
            "model": self.task.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "measured": measured.clone(),
            # Each rank draws its own dropout; and on another machine the device may have another number.
            "generators": ranks.gather(ranks.generator(measured.device).get_state()),
        }
        return [state]

    def weights(self) -> list[dict[str, Tensor]]:
        set_mode(self.optimizers, "eval")
        weights = {key: whole(value.detach()).clone() for key, value in self.task.module.state_dict().items()}
        set_mode(self.optimizers, "train")
        return [weights]

    def levels(self) -> list[bytes | None]:
        (optimizer, *others) = self.optimizers
        if others or not isinstance(optimizer, lns.HoldsLevels):
            return [None]
        return [lns.to_bytes(self.task.module, optimizer)]

    def load_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        (state,) = states
        own = self.task.module.state_dict()
        self.task.module.load_state_dict({k: like(saved, own.get(k, saved)) for k, saved in state["model"].items()})
        # One optimizer, before there could be several.
        states = state["optimizers"] if "optimizers" in state else [state["optimizer"]]
        for optimizer, saved in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(share_of_state(saved, optimizer))
        self.since_fetch = len(state["measured"])
        self.measured[: self.since_fetch] = state["measured"]
        generators, drawing = state.get("generators", ()), ranks.generator(self.measured.device)
        if len(generators) == ranks.count() and generators[0].shape == drawing.get_state().shape:  # one kind of device
            drawing.set_state(generators[ranks.rank()])
        else:
            ranks.part_generators(self.measured.device)


def window_of(measured: Tensor, names: Sequence[str], losses: Sequence[int], first_step: int) -> Window:
    """The window of one run from its measures, (steps, len(names)) on the CPU, of which some are losses."""
    measured = measured.double()
    bad = (~measured[:, losses].isfinite().all(1)).nonzero().flatten().tolist()
    # What was measured in float32 is known to seven digits: 0.98, and not 0.9800000190734863.
    means = {name: float(f"{mean:.7g}") for name, mean in zip(names, measured.mean(0), strict=True)}
    return Window(means, first_step + bad[0] if bad else None)


def computing(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """A context in which matrix products are computed in the precision; parameters and their updates stay in float32.

    - ``fp32``: the published protocol
    - ``tf32``: products of float32 matrices with 10 bits of mantissa, on CUDA (torch's ``"high"``)
    - ``bf16``: torch's autocast to bfloat16
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)  # a CUDA graph could not use the cache
    return nullcontext()
