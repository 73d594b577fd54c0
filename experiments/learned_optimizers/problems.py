"""What learned optimizers train: families of small problems, many problems of one family side by side."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from reltrust.data.draws import generator
from reltrust.data.images import Examples

from .rule import Layout

WORST = 4.0  # what a loss counts at most, and one that is no number; 1 is that of a model that knows nothing


class Problems(NamedTuple):
    """N problems of a family."""

    data: tuple[Tensor, ...]
    """What stays the same while they are trained, (N, ...) each."""
    start: Tensor
    """Initial parameters, (N, n)."""


@dataclass(frozen=True)
class Quadratics:
    """f(x) = |M (x - c)|^2 / |M (x_0 - c)|^2: x and c normal, M with singular values from 0.03 to 1, random directions.

    Singular values are uniform in their logarithm; x has two tensors.
    """

    dimension: int

    @cached_property
    def layout(self) -> Layout:
        half = self.dimension // 2
        return Layout.of([half, self.dimension - half])

    def draw(self, count: int, key: tuple[int, ...]) -> Problems:
        drawn, d = generator(*key), self.dimension
        basis = torch.linalg.qr(torch.randn(count, d, d, generator=drawn)).Q
        singular = 0.03 ** torch.rand(count, d, generator=drawn)
        matrix, centre, start = basis * singular[:, None, :], *torch.randn(2, count, d, generator=drawn)
        matrix = matrix.mT  # rows are scaled directions
        scale = (matrix @ (start - centre)[..., None]).square().sum((-1, -2))
        return Problems((matrix / scale.sqrt()[:, None, None], centre), start)

    def batches(self, count: int, steps: int, key: tuple[int, ...]) -> tuple[Tensor, ...]:
        """There are none: the loss is exact."""
        return ()

    def loss(self, params: Tensor, data: tuple[Tensor, ...]) -> Tensor:
        """(...) of parameters (..., N, n)."""
        matrix, centre = data
        return (matrix @ (params - centre)[..., None]).square().sum((-1, -2))


@dataclass(frozen=True)
class Perceptrons:
    """Cross entropy of a perceptron with a hidden ReLU layer on a batch, in units of log(classes).

    Initial matrices are normal with variance 2/inputs, biases 0; batches are drawn with replacement.
    """

    examples: Examples
    classes: int
    hidden: int
    batch_size: int

    @property
    def shapes(self) -> list[tuple[int, int]]:
        pixels = self.examples.images.shape[1]
        return [(pixels, self.hidden), (1, self.hidden), (self.hidden, self.classes), (1, self.classes)]

    @cached_property
    def layout(self) -> Layout:
        return Layout.of([rows * columns for rows, columns in self.shapes])

    def draw(self, count: int, key: tuple[int, ...]) -> Problems:
        drawn, parts = generator(*key), []
        for rows, columns in self.shapes:
            normal = torch.randn(count, rows * columns, generator=drawn) * (2 / rows) ** 0.5
            parts.append(normal if rows > 1 else torch.zeros_like(normal))
        return Problems((), torch.cat(parts, dim=1))

    def batches(self, count: int, steps: int, key: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Images (steps, N, batch, pixels) and labels (steps, N, batch)."""
        chosen = torch.randint(len(self.examples), (steps, count, self.batch_size), generator=generator(*key))
        return self.examples.images[chosen], self.examples.labels[chosen]

    def loss(self, params: Tensor, data: tuple[Tensor, ...]) -> Tensor:
        """(...) of parameters (..., N, n), on a batch (N, batch, pixels) with its labels."""
        images, labels = data
        parts = params.split([rows * columns for rows, columns in self.shapes], dim=-1)
        first, bias, second, offset = (p.unflatten(-1, shape) for p, shape in zip(parts, self.shapes, strict=True))
        scores = ((images @ first + bias).relu() @ second + offset).log_softmax(-1)
        right = scores.gather(-1, labels.expand(scores.shape[:-1]).unsqueeze(-1))
        loss: Tensor = -right.mean((-1, -2)) / math.log(self.classes)
        return loss


Family = Quadratics | Perceptrons


def loss_and_gradient(
    loss: Callable[[Tensor, tuple[Tensor, ...]], Tensor], params: Tensor, data: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """(...) and (..., N, n): each model's loss does not depend on the others, so that the gradient of the sum is
    theirs."""
    with torch.enable_grad():
        variable = params.detach().requires_grad_()
        losses = loss(variable, data)
        (gradient,) = torch.autograd.grad(losses.sum(), variable)
    return losses.detach(), gradient


def counted(losses: Tensor) -> Tensor:
    """At most 4, which is also what no number counts."""
    return losses.nan_to_num(nan=WORST, posinf=WORST, neginf=WORST).clamp(max=WORST)


def pooled(examples: Examples, side: int) -> Examples:
    """Images of 8x8 pixels as means over squares: side x side of them."""
    images = F.avg_pool2d(examples.images.view(-1, 1, 8, 8), 8 // side).flatten(1)
    return Examples(images, examples.labels)
