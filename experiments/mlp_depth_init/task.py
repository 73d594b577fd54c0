"""The depth benchmark, which also says how far apart inputs are in its logits before training."""

from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reltrust.data.images import ImageData
from reltrust.experiment import Measured
from reltrust.models.mlp import MLP

from ..mlp_depth.task import MlpDepth

_IMAGES = 1_000  # on which the logits are looked at: the first of those held out


class Logits(NamedTuple):
    """Of a network on images."""

    spread: float  # standard deviation over images: root of its mean square over classes
    size: float  # root mean square over images and classes


@torch.no_grad()
def logits_of(network: MLP, images: Tensor) -> Logits:
    """In float64, the spread by way of the differences of all images from the first one.

    Of a deep network these are far below what even float64 leaves of the logits, so they are carried from layer to
    layer by themselves: relu(a + d) - relu(a) is max(d, -a) where a > 0 and max(a + d, 0) elsewhere.
    """
    network = deepcopy(network).double()
    images = images.double()
    size = network(images).square().mean().sqrt()
    first, apart = images[:1], images - images[:1]  # (1, pixels), (n, pixels)
    for layer in network.hidden:
        assert isinstance(layer, nn.Linear)
        first, apart = layer(first), apart @ layer.weight.T
        apart = torch.where(first > 0, torch.maximum(apart, -first), (first + apart).clamp(min=0))
        first = first.relu()
    apart = apart @ network.readout.weight.T
    return Logits(float(apart.var(0, correction=0).mean().sqrt()), float(size))


class MlpDepthInit(MlpDepth):
    """As :class:`MlpDepth`; each evaluation repeats what the logits were like at initialisation."""

    def __init__(self, data: ImageData, **settings: Any) -> None:
        super().__init__(data, **settings)
        self.at_start = logits_of(self.module, data.test.images[:_IMAGES])

    def evaluate(self) -> Measured:
        """Besides, ``init_spread`` and ``init_size`` of the logits of held-out images, before training."""
        row = super().evaluate().row
        return Measured({**row, "init_spread": self.at_start.spread, "init_size": self.at_start.size})
