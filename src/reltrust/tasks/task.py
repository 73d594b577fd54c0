"""What a task is to the trainer."""

from collections.abc import Sequence
from typing import Protocol, Self

from torch import Tensor, nn


class Task(Protocol):
    """A model and its data: the loss of a batch to train on, and measures of the model."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the training measures that ``loss`` returns, in their order."""
        ...

    def loss(self, step: int) -> tuple[Tensor, ...]:
        """The mean loss of the batch of ``step`` with its graph, then the other measures of that batch.

        Each is a 0-d tensor on the device and a mean over the batch, so that a mean over steps is one over examples.
        """
        ...

    def evaluate(self) -> dict[str, float]:
        """Measures of the model on held-out examples, ready for a metrics row."""
        ...


class PackedTask(Protocol):
    """The losses of K tasks with models of one shape, computed together."""

    def inputs(self, step: int) -> tuple[Tensor, ...]:
        """What a step reads that is another at every step: tensors on the device, of the same shapes each time."""
        ...

    def losses(self, stacks: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        """For every member what its own ``loss`` returns: (K,) each.

        Args:
            stacks: the members' parameters in order of ``model.parameters()``, with a first axis for the members.
            inputs: those of the step.
        """
        ...


class PackableTask(Task, Protocol):
    """A task that can be trained together with others of its kind."""

    @classmethod
    def packed(cls, members: Sequence[Self]) -> PackedTask:
        """The tasks as one; they may differ in nothing but their models' initial weights and their seeds."""
        ...
