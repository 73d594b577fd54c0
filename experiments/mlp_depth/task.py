"""The depth benchmark: a deep perceptron learns to classify digits."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from reltrust.data.images import ImageData
from reltrust.data.order import BatchOrder, PackedBatchOrder
from reltrust.experiment import Measured, Player
from reltrust.models.classification import PackedClassifiers
from reltrust.models.mlp import MLP, Init, packed_mlp

_EVALUATION_BATCH = 10_000  # bounds the activations that an evaluation holds


class MlpDepth:
    """Cross entropy of an :class:`~reltrust.models.mlp.MLP` on labelled images.

    Args:
        data: images and labels, already on ``device``.
        parts: of a batch, see :class:`~reltrust.experiment.Player`.
        seed: draws the initial weights and the order of batches, each independent of the device.

    Source: figure 3 (left) of arXiv 2002.03432.
    """

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
        parts: int = 1,
    ) -> None:
        self.parts = parts
        self.order = BatchOrder(len(data.train), batch_size, seed, device)
        self.data = data
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = MLP(data.pixels, width, hidden_layers, data.classes, init).to(device)
        params = list(self.module.parameters())
        self.players = (Player("model", params, self.loss, ("train_loss", "train_accuracy")),)

    def loss(self, step: int, part: int = 0) -> tuple[Tensor, ...]:
        """Cross entropy in nats, and accuracy as a share in 0..1, of the batch before it is learnt from."""
        images, labels = self.data.train.batch(self.order.batch(step, part, self.parts))
        logits = self.module(images)
        with torch.no_grad():
            accuracy = (logits.argmax(1) == labels).float().mean()
        # torch's own mean adds in another order than a pack can
        return F.cross_entropy(logits, labels, reduction="none").mean(), accuracy

    @torch.no_grad()
    def evaluate(self) -> Measured:
        """``test_loss`` (mean cross entropy, nats) and ``test_accuracy`` (share in 0..1) on the held-out images."""
        loss, correct = torch.zeros((), dtype=torch.float64), 0
        test = self.data.test
        for images, labels in zip(
            test.images.split(_EVALUATION_BATCH), test.labels.split(_EVALUATION_BATCH), strict=True
        ):
            logits = self.module(images)
            loss += F.cross_entropy(logits, labels, reduction="sum").cpu().double()
            correct += int((logits.argmax(1) == labels).sum())
        return Measured({"test_loss": float(loss) / len(test), "test_accuracy": correct / len(test)})

    @classmethod
    def packed(cls, members: Sequence["MlpDepth"]) -> PackedClassifiers:
        order = PackedBatchOrder([member.order for member in members])
        return PackedClassifiers(order.batch, members[0].data.train.batch, packed_mlp)
