"""A generator and a discriminator of residual blocks that know the class: SAGAN with a projection discriminator.

Every weight of a linear map, a convolution or the discriminator's embedding is divided by its largest singular value.

Sources: Zhang et al. 2019, arXiv 1805.08318 (self-attention, spectral norm on both); Miyato and Koyama 2018, arXiv
1802.05637 (projection); Brock et al. 2019, arXiv 1809.11096 (a part of the latent vector for each block); the settings
of the GAN benchmark of arXiv 2002.03432.
"""

from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

IMAGE = 32  # pixels in height and width
LATENT, EMBEDDING = 20, 80  # numbers of a part of the latent vector, and of a class
BIAS_STD = 0.01

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.Embedding)


class Generator(nn.Module):
    """Images in [-1, 1], (n, 3, 32, 32), of latent vectors (n, latent) and classes int64 (n,).

    A linear map of the first 20 latent numbers makes ``4 channels`` features of 4x4 (with three blocks), each residual
    block doubles the size, and sees 20 further latent numbers beside the class; between the last two is self-attention.

    Args:
        channels: of the last block's output.
        blocks: 3 as published; the first features then are of 4x4, with 2 blocks of 8x8.
        momentum: of the running moments in batch normalisation.
    """

    def __init__(self, channels: int, classes: int, *, blocks: int = 3, momentum: float = 0.001) -> None:
        super().__init__()
        widths = [channels * k for k in (*[4] * (blocks - 1), 2, 1)]
        self.size = IMAGE >> blocks
        self.latent = LATENT * (blocks + 1)
        self.embedding = initialised(nn.Embedding(classes, EMBEDDING))
        self.linear = normalised(nn.Linear(LATENT, widths[0] * self.size**2))
        self.blocks = nn.ModuleList(UpBlock(one, other, momentum) for one, other in pairwise(widths))
        self.attention = SelfAttention(widths[-2])
        self.norm = nn.BatchNorm2d(channels, momentum=momentum)
        nn.init.normal_(self.norm.bias, std=BIAS_STD)
        self.to_image = conv3(channels, 3)

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        first, *parts = latent.split(LATENT, dim=1)
        seen = self.embedding(labels)
        x = self.linear(first).view(len(latent), -1, self.size, self.size)
        for i, (block, part) in enumerate(zip(self.blocks, parts, strict=True)):
            if i == len(self.blocks) - 1:
                x = self.attention(x)
            x = block(x, torch.cat([part, seen], dim=1))
        return torch.tanh(self.to_image(self.norm(x).relu()))


class Discriminator(nn.Module):
    """Scores (n,) of images (n, 3, 32, 32) as ones of their classes int64 (n,): high where they look genuine.

    Ten times the sum of a linear map of the features and of their product with the class's embedding.

    Args:
        channels: of the first block's output.
        blocks: as the generator's; there is one more, the first, which keeps the size.
    """

    def __init__(self, channels: int, classes: int, *, blocks: int = 3) -> None:
        super().__init__()
        widths = [channels * k for k in (1, 2, *[4] * (blocks - 1))]
        self.blocks = nn.ModuleList([
            DownBlock(3, channels, first=True),
            *(DownBlock(one, other, halve=i < 2) for i, (one, other) in enumerate(pairwise(widths))),
        ])  # fmt: skip
        self.attention = SelfAttention(widths[1])
        self.linear = normalised(nn.Linear(widths[-1], 1))
        self.embedding = normalised(nn.Embedding(classes, widths[-1]))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = images
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == 1:
                x = self.attention(x)
        features = x.relu().mean((2, 3))
        score: Tensor = self.linear(features).squeeze(1) + (self.embedding(labels) * features).sum(1)
        return 10 * score


class UpBlock(nn.Module):
    """x -> conv(relu(norm(conv(up(relu(norm(x))))))) + up(conv1(x)), up twice as large; the norms see the condition."""

    def __init__(self, inputs: int, outputs: int, momentum: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = (ConditionalBatchNorm(n, momentum) for n in (inputs, outputs))
        self.conv1, self.conv2 = conv3(inputs, outputs), conv3(outputs, outputs)
        self.shortcut = normalised(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        inner: Tensor = conv_of_doubled(self.norm1(x, condition).relu(), self.conv1)
        inner = self.conv2(self.norm2(inner, condition).relu())
        shortcut: Tensor = F.interpolate(self.shortcut(x), scale_factor=2.0)  # commutes with a convolution of 1x1
        return shortcut + inner


class DownBlock(nn.Module):
    """x -> mean2(conv(relu(conv(relu(x))))) + conv1(mean2(x)), mean2 over squares of 2x2 where it halves the size.

    The first block of all sees images, which no ReLU cuts. Without another size or width the second term is x.
    """

    def __init__(self, inputs: int, outputs: int, *, halve: bool = False, first: bool = False) -> None:
        super().__init__()
        self.halve, self.first = halve, first
        self.conv1, self.conv2 = conv3(inputs, outputs), conv3(outputs, outputs)
        self.shortcut = normalised(nn.Conv2d(inputs, outputs, 1)) if halve or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(x if self.first else x.relu()).relu()
        inner = halved_conv(inner, self.conv2) if self.halve else self.conv2(inner)
        shortcut: Tensor = self.shortcut(F.avg_pool2d(x, 2) if self.halve else x)
        return shortcut + inner


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation, then (1 + gamma) x + beta with gamma and beta linear in the condition."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False, momentum=momentum)
        condition = LATENT + EMBEDDING
        self.gamma, self.beta = (normalised(nn.Linear(condition, channels, bias=False)) for _ in range(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return torch.addcmul(
            self.beta(condition)[:, :, None, None], self.norm(x), 1 + self.gamma(condition)[:, :, None, None]
        )


class SelfAttention(nn.Module):
    """x + gain * o(attention of each place to a quarter of all places), gain 1 at first (Madam moves no zero).

    Queries and keys have an eighth of the channels, values half; keys and values are the largest of squares of 2x2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.query, self.key = (normalised(nn.Conv2d(channels, narrow, 1, bias=False)) for _ in range(2))
        self.value = normalised(nn.Conv2d(channels, half, 1, bias=False))
        self.out = normalised(nn.Conv2d(half, channels, 1, bias=False))
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        keys, values = (F.max_pool2d(part(x), 2) for part in (self.key, self.value))
        query, key, value = (part.flatten(2).transpose(1, 2) for part in (self.query(x), keys, values))
        mixed = (query @ key.transpose(1, 2)).softmax(2) @ value  # heads of two widths: torch has no kernel for these
        found: Tensor = self.out(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))
        return x + self.gain * found


def initialised(layer: Layer) -> Layer:
    """With an orthogonal weight and a bias from N(0, 0.01^2), drawn from torch's global generator."""
    nn.init.orthogonal_(layer.weight)
    if isinstance(bias := getattr(layer, "bias", None), nn.Parameter):
        nn.init.normal_(bias, std=BIAS_STD)
    return layer


def normalised(layer: Layer) -> Layer:
    """So initialised, its weight W divided by an estimate of its largest singular value, which each use improves."""
    return spectral_norm(initialised(layer))  # type: ignore[return-value]


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return normalised(nn.Conv2d(inputs, outputs, 3, padding=1))


def conv_of_doubled(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """``conv(F.interpolate(x, scale_factor=2))``, 3x3 with padding 1, at 4/9 of its products: as a transposed
    convolution of 4x4, since each place of x is seen up to four times."""
    spread = F.avg_pool2d(F.pad(conv.weight.flip(2, 3), (1, 1, 1, 1)), 2, stride=1, divisor_override=1)
    return F.conv_transpose2d(x, spread.transpose(0, 1), conv.bias, stride=2, padding=1)


def halved_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """``F.avg_pool2d(conv(x), 2)``, 3x3 with padding 1, at 4/9 of its products: as one of 4x4 with stride 2."""
    spread = F.avg_pool2d(F.pad(conv.weight, (1, 1, 1, 1)), 2, stride=1)
    return F.conv2d(x, spread, conv.bias, stride=2, padding=1)
