"""The depth benchmark: a deep perceptron learns to classify digits."""

import torch
from torch import Tensor
from torch.nn import functional as F

from reltrust.data.images import ImageData
from reltrust.data.order import BatchOrder
from reltrust.models.mlp import MLP, Init

_EVALUATION_BATCH = 10_000  # bounds the activations that an evaluation holds


class MlpDepth:
    """Cross entropy of an :class:`~reltrust.models.mlp.MLP` on labelled images.

    Args:
        data: images and labels, already on ``device``.
        seed: draws the initial weights and the order of batches, each independent of the device.

    Source: figure 3 (left) of arXiv 2002.03432.
    """

    measures = ("train_loss", "train_accuracy")

    def __init__(
        self,
        data: ImageData,
        *,
        hidden_layers: int,
        width: int,
        init: Init,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._order = BatchOrder(len(data.train), batch_size, seed, device)
        self._data = data
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = MLP(data.pixels, width, hidden_layers, data.classes, init).to(device)

    def loss(self, step: int) -> tuple[Tensor, ...]:
        """Cross entropy in nats, and accuracy as a share in 0..1, of the batch before it is learnt from."""
        images, labels = self._data.train.batch(self._order.batch(step))
        logits = self.model(images)
        with torch.no_grad():
            accuracy = (logits.argmax(1) == labels).float().mean()
        return F.cross_entropy(logits, labels), accuracy

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """``test_loss`` (mean cross entropy, nats) and ``test_accuracy`` (share in 0..1) on the held-out images."""
        loss, correct = torch.zeros((), dtype=torch.float64), 0
        test = self._data.test
        for images, labels in zip(
            test.images.split(_EVALUATION_BATCH), test.labels.split(_EVALUATION_BATCH), strict=True
        ):
            logits = self.model(images)
            loss += F.cross_entropy(logits, labels, reduction="sum").cpu().double()
            correct += int((logits.argmax(1) == labels).sum())
        return {"test_loss": float(loss) / len(test), "test_accuracy": correct / len(test)}
