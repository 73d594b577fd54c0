"""One run as the trainer sees it: a task and an optimizer, and measures that stay on the device until asked for."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from reltrust.tasks.task import Task


@dataclass(frozen=True)
class Window:
    """What happened since the last look: means of the training measures, and the first step with a non-finite loss."""

    means: dict[str, float]
    non_finite_step: int | None


class Program:
    """Steps a task with an optimizer. Between two looks nothing waits for the device.

    Args:
        window: the number of steps between two looks, for which measures are kept on the device.
    """

    def __init__(self, task: Task, optimizer: Optimizer, window: int) -> None:
        self._task, self._optimizer = task, optimizer
        self._initial_lrs = [group["lr"] for group in optimizer.param_groups]
        self._params = list(task.model.parameters())
        self._measured = torch.zeros(
            window, len(task.measures), device=self._params[0].device
        )  # a row a step since the last look
        self._since_look = 0

    def step(self, step: int, lr_factor: float) -> None:
        """One training step on the batch of ``step``, with every group's initial learning rate times the factor."""
        for group, initial in zip(self._optimizer.param_groups, self._initial_lrs, strict=True):
            group["lr"] = initial * lr_factor
        for param in self._params:  # what zero_grad does, without its cost, which small networks notice
            param.grad = None
        loss, *others = self._task.loss(step)
        loss.backward()
        self._optimizer.step()
        torch.stack((loss.detach(), *others), out=self._measured[self._since_look])
        self._since_look += 1

    @property
    def lr(self) -> float:
        """The first group's learning rate at the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def look(self, step: int) -> Window:
        """The window that ends before ``step``; waits for the device and starts the next window."""
        measured = self._measured[: self._since_look].cpu().double()
        first, self._since_look = step - self._since_look, 0
        bad = (~measured[:, 0].isfinite()).nonzero().flatten().tolist()
        # What was measured in float32 is known to seven digits: 0.98, and not 0.9800000190734863.
        means = {name: float(f"{mean:.7g}") for name, mean in zip(self._task.measures, measured.mean(0), strict=True)}
        return Window(means, first + bad[0] if bad else None)

    def evaluate(self) -> dict[str, float]:
        """The task's measures on held-out examples, the model in evaluation mode."""
        self._task.model.eval()
        measures = self._task.evaluate()
        self._task.model.train()
        return measures

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self._task.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "measured": self._measured[: self._since_look].clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._task.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._since_look = len(state["measured"])
        self._measured[: self._since_look] = state["measured"]
