"""Training from the plateau: how many of its steps a deep perceptron stays there."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.data.draws import generator
from reltrust.data.images import ImageData
from reltrust.data.order import BatchOrder, PackedBatchOrder
from reltrust.experiment import Measured, Player
from reltrust.theory.hessian import hessian_extremes

from .architectures import ARCHITECTURES, Architecture
from .networks import draw_weights, forward

LEFT = 0.9  # the plateau is left when the loss is below this part of what it was
_LOOKED_AT = 500  # training images whose loss says so
_ORDER, _TOLERANCE = 100, 1e-2  # of Lanczos, for the curvature at the start
_LEAST = 1e-300  # a network that is constant has no curvature, and a logarithm all the same


class Plateau:
    """Cross entropy of a perceptron without biases on labelled images; how long it stays near that of its start.

    Args:
        parts: of a batch, see :class:`~reltrust.experiment.Player`.
        seed: draws the initial weights and the order of batches, each independent of the device.
    """

    def __init__(
        self,
        data: ImageData,
        *,
        network: str,
        depth: int,
        width: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        parts: int = 1,
    ) -> None:
        self.parts, self.data = parts, data
        self.order = BatchOrder(len(data.train), batch_size, seed, device)
        self.architecture = ARCHITECTURES[network]
        weights, self.start_loss, self.log_curvature = _start(network, depth, width, seed, data)
        self.module = nn.ParameterList([weight.float().to(device) for weight in weights])
        self.players = (Player("model", list(self.module), self.loss, ("train_loss", "plateau_share")),)

    def loss(self, step: int, part: int = 0) -> tuple[Tensor, ...]:
        """Cross entropy in nats of the batch before it is learnt from, and whether that is on the plateau, 0 or 1.

        The mean of the latter over steps is the share of them that training has stayed.
        """
        batch = self.data.train.batch(self.order.batch(step, part, self.parts))
        (loss,) = losses(self.architecture, [weight.unsqueeze(0) for weight in self.module], *batch)
        return loss, (loss.detach() >= LEFT * self.start_loss).to(loss.dtype)

    @torch.no_grad()
    def evaluate(self) -> Measured:
        """``test_accuracy`` (share in 0..1); of the start: ``start_loss``, ``log_curvature``, that is the logarithm of
        the largest absolute eigenvalue of the Hessian."""
        test = self.data.test
        outputs = forward(self.architecture, [weight.unsqueeze(0) for weight in self.module], test.images.unsqueeze(0))
        accuracy = (outputs[0].argmax(1) == test.labels).float().mean()
        start = {"start_loss": self.start_loss, "log_curvature": self.log_curvature}
        return Measured({"test_accuracy": float(accuracy), **start})

    @classmethod
    def packed(cls, members: Sequence["Plateau"]) -> "PackedPlateau":
        return PackedPlateau(members)


class PackedPlateau:
    """K of these tasks on the same data, each with its own order of batches."""

    def __init__(self, members: Sequence[Plateau]) -> None:
        self._train = members[0].data.train
        self._order = PackedBatchOrder([member.order for member in members])
        self._architecture = members[0].architecture
        self._left = LEFT * torch.tensor([member.start_loss for member in members], device=self._train.labels.device)

    def inputs(self, step: int) -> tuple[Tensor, ...]:
        """Indices of each member's batch, (K, batch)."""
        return (self._order.batch(step),)

    def losses(self, stacks: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        """Cross entropy in nats of each member's batch, and whether it is on the plateau, (K,) each."""
        (indices,) = inputs
        found = losses(self._architecture, stacks, *self._train.batch(indices.flatten()))
        return found, (found.detach() >= self._left).to(found.dtype)


def losses(architecture: Architecture, stacks: Sequence[Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy in nats of each of K networks, (K,), each on its own share of the images, in their order."""
    count = len(stacks[0])
    outputs = forward(architecture, stacks, images.view(count, -1, images.shape[-1]))
    return F.cross_entropy(outputs.flatten(0, 1), labels, reduction="none").view(count, -1).mean(1)


@lru_cache(maxsize=64)  # runs of many optimizers start from the same weights
def _start(network: str, depth: int, width: int, seed: int, data: ImageData) -> tuple[list[Tensor], float, float]:
    """Initial weights, in float64 on the CPU, the loss there and the log of the largest absolute eigenvalue."""
    architecture = ARCHITECTURES[network]
    units = architecture.units(width, depth)
    drawn = draw_weights(
        architecture,
        count=1,
        depth=depth,
        width=units,
        inputs=data.pixels,
        outputs=data.classes,
        generator=generator(seed, depth, units, 1),
    )
    stacks = [weight.requires_grad_() for weight in drawn]
    images, labels = data.train.images[:_LOOKED_AT].cpu().double(), data.train.labels[:_LOOKED_AT].cpu()
    (loss,) = losses(architecture, stacks, images, labels)
    order = min(_ORDER, sum(weight.numel() for weight in drawn))
    start = generator(seed, depth, units, 1, 1)
    found = hessian_extremes(loss, stacks, order=order, tolerance=_TOLERANCE, generator=start)
    curvature = max(float(found.top), -float(found.bottom), _LEAST)
    return [weight.detach()[0] for weight in stacks], float(loss.detach()), math.log(curvature)
