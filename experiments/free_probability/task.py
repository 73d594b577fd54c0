"""A random perceptron learns digits: what its Jacobian's spectrum was before, and its loss after."""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from reltrust.data.draws import generator
from reltrust.data.images import ImageData
from reltrust.data.order import BatchOrder, PackedBatchOrder
from reltrust.experiment import Measured, Player
from reltrust.models.classification import PackedClassifiers, packed_cross_entropy

from .architectures import Architecture, xavier
from .theory import spectrum

SHIFT = 0.01  # log10(q + 0.01): so that a quantile of 0 has one


class RandomNetwork:
    """Cross entropy of a ReLU perceptron without biases, with normal Xavier weights times a gain, on labelled images.

    What is told of the start is q, the 0.9-quantile of the spectrum of the Jacobian of the last hidden layer by free
    probability, as log10(q + 0.01).

    Args:
        parts: of a batch, see :class:`~reltrust.experiment.Player`.
        seed: draws the initial weights and the order of batches, each independent of the device.

    Source: arXiv 2111.00841 and redachhaibi/FreeNN, whose metric leaves the read-out out.
    """

    def __init__(
        self,
        data: ImageData,
        *,
        architecture: Architecture,
        gain: float,
        batch_size: int,
        seed: int,
        device: torch.device,
        parts: int = 1,
    ) -> None:
        self.parts, self.data = parts, data
        self.order = BatchOrder(len(data.train), batch_size, seed, device)
        hidden = architecture.widths(data.pixels)
        widths = [*hidden, data.classes]
        drawn = generator(seed, 1, 1)
        self.module = nn.ParameterList()
        for (n, m), s in zip(itertools.pairwise(widths), xavier(widths, gain), strict=True):
            self.module.append(nn.Parameter((torch.randn(m, n, generator=drawn) * math.sqrt(s / n)).to(device)))
        self.quantile = quantile(tuple(hidden), gain)
        self.players = (Player("model", list(self.module), self.loss, ("train_loss", "train_accuracy")),)

    def loss(self, step: int, part: int = 0) -> tuple[Tensor, ...]:
        """Cross entropy in nats and accuracy as a share in 0..1 of the batch before it is learnt from."""
        images, labels = self.data.train.batch(self.order.batch(step, part, self.parts))
        return self._measured(images, labels)

    def _measured(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        own = logits([w.unsqueeze(0) for w in self.module], images.unsqueeze(0))
        (loss,), (accuracy,) = packed_cross_entropy(own, labels.unsqueeze(0))
        return loss, accuracy

    @torch.no_grad()
    def evaluate(self) -> Measured:
        """``test_loss`` (mean cross entropy, nats), ``test_accuracy`` (in 0..1); of the start ``log_quantile``."""
        test = self.data.test
        loss, accuracy = self._measured(test.images, test.labels)
        start = {"log_quantile": math.log10(self.quantile + SHIFT)}
        return Measured({"test_loss": float(loss), "test_accuracy": float(accuracy), **start})

    @classmethod
    def packed(cls, members: Sequence["RandomNetwork"]) -> PackedClassifiers:
        order = PackedBatchOrder([member.order for member in members])
        return PackedClassifiers(order.batch, members[0].data.train.batch, logits)


def logits(stacks: Sequence[Tensor], x: Tensor) -> Tensor:
    """Of K networks with weights (K, out, in), layer by layer, on their own images (K, batch, pixels)."""
    *hidden, readout = stacks
    for weight in hidden:
        x = (x @ weight.mT).relu()
    return x @ readout.mT


@lru_cache(maxsize=4096)  # the runs of all seeds have one
def quantile(hidden: tuple[int, ...], gain: float) -> float:
    """The 0.9-quantile of the spectrum of the Jacobian of the last hidden layer."""
    return float(spectrum(hidden, gain, "relu").quantiles([0.9])[0])
