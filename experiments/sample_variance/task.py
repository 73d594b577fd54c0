"""A deep perceptron learns digits from one of three beginnings."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from reltrust.data.images import ImageData
from reltrust.data.order import BatchOrder, PackedBatchOrder
from reltrust.experiment import Measured, Player
from reltrust.models.classification import PackedClassifiers
from reltrust.models.mlp import MLP, packed_linear
from reltrust.theory.initialisation import unit_sample_variance_

_CALIBRATION = 500  # training images on which ``unit_variance`` is calibrated
_EPSILON = 1e-5  # of BatchNorm, added to the variance; torch's


class DeepClassifier:
    """Cross entropy of an :class:`~reltrust.models.mlp.MLP` with He's initial weights on labelled images.

    ``batch_norm`` normalises after each linear layer but the last, without gain and shift, over whatever is computed
    together: a batch in training, all held-out images in an evaluation. ``unit_variance`` differs from ``he`` by its
    initial weights alone, the last layer's too.

    Args:
        parts: of a batch, see :class:`~reltrust.experiment.Player`.
        seed: draws the initial weights and the order of batches, each independent of the device.
    """

    def __init__(
        self,
        data: ImageData,
        *,
        network: str,
        width: int,
        depth: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        parts: int = 1,
    ) -> None:
        self.parts, self.data, self.batch_norm = parts, data, network == "batch_norm"
        self.order = BatchOrder(len(data.train), batch_size, seed, device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = MLP(data.pixels, width, depth - 1, data.classes, "he")
        if network == "unit_variance":
            unit_sample_variance_(self.module, data.train.images[:_CALIBRATION].cpu())
        self.module.to(device)
        params = list(self.module.parameters())
        self.players = (Player("model", params, self.loss, ("train_loss", "train_accuracy")),)

    def outputs(self, images: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        stacks = [p.unsqueeze(0) for p in self.module.parameters()]
        return outputs(stacks, images.unsqueeze(0), batch_norm=self.batch_norm)[0]

    def loss(self, step: int, part: int = 0) -> tuple[Tensor, ...]:
        """Cross entropy in nats, and accuracy as a share in 0..1, of the batch before it is learnt from."""
        images, labels = self.data.train.batch(self.order.batch(step, part, self.parts))
        logits = self.outputs(images)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return F.cross_entropy(logits, labels, reduction="none").mean(), accuracy

    @torch.no_grad()
    def evaluate(self) -> Measured:
        """``test_loss`` (mean cross entropy, nats) and ``test_accuracy`` (share in 0..1) on the held-out images."""
        test = self.data.test
        logits = self.outputs(test.images)
        accuracy = (logits.argmax(1) == test.labels).float().mean()
        return Measured({"test_loss": float(F.cross_entropy(logits, test.labels)), "test_accuracy": float(accuracy)})

    @classmethod
    def packed(cls, members: Sequence["DeepClassifier"]) -> PackedClassifiers:
        order = PackedBatchOrder([member.order for member in members])
        forward = partial(outputs, batch_norm=members[0].batch_norm)
        return PackedClassifiers(order.batch, members[0].data.train.batch, forward)


def outputs(stacks: Sequence[Tensor], x: Tensor, *, batch_norm: bool) -> Tensor:
    """Logits (K, batch, classes) of K perceptrons on their own images (K, batch, pixels).

    Args:
        stacks: their parameters in order of ``MLP.parameters()``: weights (K, out, in) and biases (K, out) in turn.
    """
    *hidden, readout = zip(stacks[::2], stacks[1::2], strict=True)
    for weight, bias in hidden:
        x = packed_linear(x, weight, bias)
        if batch_norm:
            x = x - x.mean(1, keepdim=True)
            x = x * (x.square().mean(1, keepdim=True) + _EPSILON).rsqrt()
        x = x.relu()
    return packed_linear(x, *readout)
