"""Residual networks of 18 layers for images of 32x32."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Architecture = Literal["resnet18", "preact_resnet18"]
STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))  # channels in units of the first stage's, and the stride of its first block


class ResNet18(nn.Module):
    """A convolution of 3x3, four stages of two residual blocks of two such convolutions each, the mean over all places,
    and a linear read-out of the classes; torch's default initial weights.

    ``resnet18`` normalises after each convolution, the first and those of the shortcuts too, and applies ReLU after the
    sum (He et al. 2016, arXiv 1512.03385). ``preact_resnet18`` normalises and applies ReLU before each convolution of a
    block; its first convolution, its shortcuts and its last sum are not normalised (He et al. 2016, arXiv 1603.05027,
    which also normalises the last sum).

    Args:
        channels: of the first stage, 64 in the papers; the later ones have two, four and eight times as many.
        affine: whether normalisations have gains and biases. Madam cannot move a bias that starts at zero.
    """

    def __init__(self, architecture: Architecture, channels: int, classes: int, *, affine: bool = True) -> None:
        super().__init__()
        before = architecture == "preact_resnet18"
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm = nn.Identity() if before else nn.BatchNorm2d(channels, affine=affine)
        blocks, inputs = [], channels
        for times, stride in STAGES:
            for first in (True, False):
                kind = PreActBlock if before else Block
                blocks.append(kind(inputs, inputs := times * channels, stride if first else 1, affine))
        self.blocks = nn.Sequential(*blocks)
        self.relu = nn.Identity() if before else nn.ReLU()
        self.readout = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:  # (n, 3, 32, 32) -> (n, classes)
        x = self.relu(self.norm(self.stem(images)))
        return self.readout(self.blocks(x).mean((2, 3)))  # type: ignore[no-any-return]


def convolutions(inputs: int, outputs: int, stride: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
    )


class Thinned(nn.Conv2d):
    """``nn.Conv2d(inputs, outputs, 1, stride, bias=False)``: 1x1, of every ``stride``-th pixel, which are taken first.

    oneDNN's own step from pixel to pixel writes past its workspace in the backward pass where ``inputs`` are fewer than
    a vector register holds and channels come last: gradients are wrong or the process dies (uxlfoundation/oneDNN 6035).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self.every = stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, :: self.every, :: self.every])


class Block(nn.Module):
    """x -> relu(norm(conv(relu(norm(conv(x))))) + norm(conv1(x))); x itself where neither size nor width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = convolutions(inputs, outputs, stride)
        self.norm1, self.norm2 = (nn.BatchNorm2d(outputs, affine=affine) for _ in range(2))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            norm = nn.BatchNorm2d(outputs, affine=affine)
            self.shortcut = nn.Sequential(Thinned(inputs, outputs, stride), norm)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return F.relu(inner + self.shortcut(x))


class PreActBlock(nn.Module):
    """x -> conv(relu(norm(conv(y)))) + conv1(y), y = relu(norm(x)); x itself where neither size nor width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.BatchNorm2d(n, affine=affine) for n in (inputs, outputs))
        self.conv1, self.conv2 = convolutions(inputs, outputs, stride)
        changes = stride > 1 or inputs != outputs
        self.shortcut = Thinned(inputs, outputs, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x).relu()
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(y)
        inner: Tensor = self.conv2(self.norm2(self.conv1(y)).relu())
        return shortcut + inner
