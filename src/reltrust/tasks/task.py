"""What a task is to the trainer."""

from typing import Protocol

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
