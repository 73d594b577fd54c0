"""Classifiers of one shape that learn together, each from its own order of the same images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


class PackedClassifiers:
    """The mean cross entropies and accuracies of K classifiers: a :class:`~reltrust.experiment.PackedTask`.

    Args:
        order: from a step to the indices of each one's batch, (K, batch).
        examples: from indices (n,) to images (n, pixels) and labels (n,).
        forward: from their stacked parameters and their own images (K, batch, pixels) to logits (K, batch, classes).
    """

    def __init__(
        self,
        order: Callable[[int], Tensor],
        examples: Callable[[Tensor], tuple[Tensor, Tensor]],
        forward: Callable[[Sequence[Tensor], Tensor], Tensor],
    ) -> None:
        self._order, self._examples, self._forward = order, examples, forward

    def inputs(self, step: int) -> tuple[Tensor, ...]:
        """Indices of each one's batch, (K, batch)."""
        return (self._order(step),)

    def losses(self, stacks: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        """Cross entropy in nats and accuracy in 0..1 of each one's batch, (K,) each."""
        (indices,) = inputs
        images, labels = self._examples(indices.flatten())
        return packed_cross_entropy(self._forward(stacks, images.view(*indices.shape, -1)), labels.view_as(indices))


def packed_cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy in nats, and accuracy in 0..1 without a graph, of logits (K, batch, classes), (K,) each.

    Args:
        labels: (K, batch).
    """
    with torch.no_grad():
        accuracy = (logits.argmax(2) == labels).float().mean(1)
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view_as(labels).mean(1), accuracy
