"""Many networks of one architecture at once, as stacks of weights."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .architectures import Architecture

_EPSILON = 1e-5  # of BatchNorm, added to the variance; torch's


def draw_weights(
    architecture: Architecture,
    *,
    count: int,
    depth: int,
    width: int,
    inputs: int,
    outputs: int,
    generator: torch.Generator,
) -> list[Tensor]:
    """The weights of ``count`` networks in float64: (count, fan out, fan in) for each of ``depth`` matrices."""
    sizes = [inputs, *[width] * (depth - 1), outputs]
    weights = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        variance = 2 / fan_in if architecture.variance == "he" else 2 / (fan_in + fan_out)
        normal = torch.randn(count, fan_out, fan_in, generator=generator, dtype=torch.float64)
        weights.append(normal * math.sqrt(variance))
    return weights


def forward(architecture: Architecture, weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """The outputs of each network on its own inputs: (K, batch, features) -> (K, batch, outputs)."""
    first, *hidden, readout = weights
    x = x @ first.mT
    scale = 1 / math.sqrt(len(weights)) if architecture.branch == "scaled" else 1.0
    for weight in hidden:
        h = _activation(architecture, x) @ weight.mT
        x = x + scale * h if architecture.branch is not None else h
    return _activation(architecture, x) @ readout.mT


def _activation(architecture: Architecture, z: Tensor) -> Tensor:
    """What comes between two matrices, (K, batch, features)."""
    if architecture.batch_norm:
        z = z - z.mean(1, keepdim=True)
        z = z * (z.square().mean(1, keepdim=True) + _EPSILON).rsqrt()
    return z.relu() if architecture.relu else z
