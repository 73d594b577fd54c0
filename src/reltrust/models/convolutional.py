"""The convolutional part of a classifier, from images to a vector of features; alone and many at once."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["relu", "tanh"]
Stages = Sequence[Sequence[int]]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}


class ConvolutionalFeatures(nn.Module):
    """Stages of 3x3 convolutions with an activation after each; 2x2 max pooling ends a stage; torch's default weights.

    ``((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)`` is the convolutional part of VGG-19 (Simonyan and
    Zisserman 2015, arXiv 1409.1556).

    Args:
        shape: of an image: channels, height, width.
        stages: output channels of each convolution, stage by stage.
        activation: ``"relu"``, with features from 0 on, or ``"tanh"``.
        batch_norm: whether each convolution is followed by batch normalisation, and then has no bias.

    Raises:
        ValueError: the image is too small for so many stages.
    """

    def __init__(
        self, shape: tuple[int, int, int], stages: Stages, activation: Activation = "relu", *, batch_norm: bool = False
    ) -> None:
        super().__init__()
        inputs, height, width = shape
        if min(height, width) >> len(stages) < 1:
            raise ValueError(f"stages={len(stages)}: must be at most {min(height, width).bit_length() - 1} for {shape}")
        self.stages, self.activation = nn.ModuleList(), activation
        for channels in stages:
            layers = nn.ModuleList()
            for outputs in channels:
                layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(outputs))
                inputs = outputs
            self.stages.append(layers)
        self.out_features = inputs * (height >> len(stages)) * (width >> len(stages))

    def forward(self, images: Tensor) -> Tensor:  # (n, channels, height, width) -> (n, out_features)
        x, act = images, ACTIVATIONS[self.activation]
        for layers in self.stages:
            assert isinstance(layers, nn.ModuleList)
            normalised = any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
            for layer in layers:
                x = layer(x)
                if not normalised or isinstance(layer, nn.BatchNorm2d):
                    x = act(x)
            x = F.max_pool2d(x, 2)
        return x.flatten(1)


def packed_features(stacks: Sequence[Tensor], images: Tensor, stages: Stages, activation: Activation) -> Tensor:
    """Features (K, n, out_features) of K networks without batch normalisation on their own images.

    Args:
        stacks: their parameters in order of ``ConvolutionalFeatures.parameters()``: weights (K, out, in, 3, 3) and
            biases (K, out) in turn.
        images: (K, n, channels, height, width).
    """
    x, act, pairs = images, ACTIVATIONS[activation], iter(zip(stacks[::2], stacks[1::2], strict=True))
    for channels in stages:
        for _ in channels:
            x = act(packed_convolution(x, *next(pairs)))
        x = F.max_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
    return x.flatten(2)


def packed_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """K 3x3 convolutions with padding 1, as one in K groups: x (K, n, in, h, w) -> (K, n, out, h, w)."""
    count = len(x)
    together = x.transpose(0, 1).flatten(1, 2)  # (n, K in, h, w)
    out = F.conv2d(together, weight.flatten(0, 1), bias.flatten(), padding=1, groups=count)
    found: Tensor = out.unflatten(1, (count, -1)).transpose(0, 1)
    return found
