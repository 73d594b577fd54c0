"""Runs as the trainer sees them. One run: a task and an optimizer, measures that stay on the device until asked for."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from reltrust.tasks.task import Task

Precision = Literal["fp32", "tf32", "bf16"]


@dataclass(frozen=True)
class Window:
    """What happened since the last look: means of the training measures, and the first step with a non-finite loss."""

    means: dict[str, float]
    non_finite_step: int | None


class Steps(Protocol):
    """What the trainer drives: runs that make every step together, its members. Lists are in the members' order."""

    def step(self, step: int, lr_factors: Sequence[float]) -> None:
        """One training step on the batch of ``step``, with each member's learning rate times its factor."""
        ...

    @property
    def lrs(self) -> list[float]:
        """The learning rates of the last step."""
        ...

    def look(self, step: int) -> list[Window]:
        """The windows that end before ``step``; waits for the device and starts the next window."""
        ...

    def evaluate(self) -> list[dict[str, float]]:
        """The task's measures on held-out examples."""
        ...

    def keep(self, members: Sequence[int]) -> None:
        """Goes on with these members only."""
        ...

    def state_dicts(self) -> list[dict[str, Any]]:
        """What each member needs to go on, here or in any other company."""
        ...

    def load_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None: ...


class Program:
    """One run: steps a task with an optimizer. Between two looks nothing waits for the device.

    Args:
        window: the number of steps between two looks, for which measures are kept on the device.
        precision: of matrix products; see :func:`computing`.
    """

    def __init__(self, task: Task, optimizer: Optimizer, window: int, precision: Precision = "fp32") -> None:
        self.task, self.optimizer, self.window, self.precision = task, optimizer, window, precision
        self.params = list(task.model.parameters())
        self.initial_lrs = [group["lr"] for group in optimizer.param_groups]
        self.measured = torch.zeros(window, len(task.measures), device=self.params[0].device)  # a row a step
        self.since_look = 0

    def step(self, step: int, lr_factors: Sequence[float]) -> None:
        """One training step on the batch of ``step``, with every group's initial learning rate times the factor."""
        for group, initial in zip(self.optimizer.param_groups, self.initial_lrs, strict=True):
            group["lr"] = initial * lr_factors[0]
        for param in self.params:  # what zero_grad does, without its cost, which small networks notice
            param.grad = None
        with computing(self.precision, self.measured.device):
            loss, *others = self.task.loss(step)
        loss.backward()
        self.optimizer.step()
        torch.stack((loss.detach(), *others), out=self.measured[self.since_look])
        self.since_look += 1

    @property
    def lrs(self) -> list[float]:
        """The first group's learning rate at the last step."""
        return [float(self.optimizer.param_groups[0]["lr"])]

    def look(self, step: int) -> list[Window]:
        measured, steps, self.since_look = self.measured[: self.since_look].cpu(), self.since_look, 0
        return [window_of(measured, self.task.measures, step - steps)]

    def evaluate(self) -> list[dict[str, float]]:
        """The task's measures on held-out examples, the model in evaluation mode."""
        self.task.model.eval()
        with computing(self.precision, self.measured.device):
            measures = self.task.evaluate()
        self.task.model.train()
        return [measures]

    def keep(self, members: Sequence[int]) -> None:
        """Nothing to do: the only member goes on."""

    def state_dicts(self) -> list[dict[str, Any]]:
        return [
            {
                "model": self.task.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "measured": self.measured[: self.since_look].clone(),
            }
        ]

    def load_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        (state,) = states
        self.task.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.since_look = len(state["measured"])
        self.measured[: self.since_look] = state["measured"]


def window_of(measured: Tensor, names: Sequence[str], first_step: int) -> Window:
    """The window of one run from its measures, (steps, len(names)) on the CPU, the loss first."""
    measured = measured.double()
    bad = (~measured[:, 0].isfinite()).nonzero().flatten().tolist()
    # What was measured in float32 is known to seven digits: 0.98, and not 0.9800000190734863.
    means = {name: float(f"{mean:.7g}") for name, mean in zip(names, measured.mean(0), strict=True)}
    return Window(means, first_step + bad[0] if bad else None)


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """A context in which matrix products are computed in the precision; parameters and their updates stay in float32.

    - ``fp32``: the published protocol
    - ``tf32``: products of float32 matrices with 10 bits of mantissa, on CUDA (torch's ``"high"``)
    - ``bf16``: torch's autocast to bfloat16
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)  # a CUDA graph could not use the cache
    return nullcontext()
