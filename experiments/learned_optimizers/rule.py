"""The update rule that is learned: a small network of every single parameter, arXiv 2101.07367.

Everything here works on vectors of all parameters of a model, whose tensors a :class:`Layout` tells apart, and takes
any leading axes: of a population, of perturbed copies, of models that are trained side by side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)  # of the momenta
TIMES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0, 100_000.0)  # steps
MEASURED = 2 + len(DECAYS)  # of a parameter: its gradient, itself, its momenta
FEATURES = MEASURED + len(TIMES)
OUTPUTS = 2  # direction and magnitude
EPS = 1e-5
LENGTH, GROWTH = 0.001, 0.001  # a step is 0.001 d exp(0.001 m)


@dataclass(frozen=True)
class Layout:
    """Where in a vector of n numbers its tensors are, one after another."""

    owner: Tensor
    """int64 (n,): the tensor that a number belongs to."""
    averaging: Tensor
    """(n, tensors): times it are the means over each tensor."""

    @classmethod
    def of(cls, sizes: Sequence[int], dtype: torch.dtype = torch.float32) -> "Layout":
        """Tensors of so many numbers each, of this type."""
        counts = torch.tensor(sizes)
        owner = torch.repeat_interleave(torch.arange(len(sizes)), counts)
        averaging = torch.zeros(len(owner), len(sizes), dtype=dtype)
        averaging[torch.arange(len(owner)), owner] = 1 / counts[owner].to(dtype)
        return cls(owner, averaging)

    @property
    def size(self) -> int:
        return len(self.owner)

    def to(self, device: torch.device) -> "Layout":
        return Layout(self.owner.to(device), self.averaging.to(device))

    def normalised(self, x: Tensor) -> Tensor:
        """(..., n), each number divided by the root mean square of its tensor plus 1e-5."""
        rms = (x.square() @ self.averaging).sqrt()
        return x / (rms.index_select(-1, self.owner) + EPS)


def shapes(hidden: int) -> list[tuple[int, int]]:
    """Of the network's weights and biases: (features, hidden), (1, hidden), and so on for its three layers."""
    layers = ((FEATURES, hidden), (hidden, hidden), (hidden, OUTPUTS))
    return [shape for fan_in, fan_out in layers for shape in ((fan_in, fan_out), (1, fan_out))]


def sizes(hidden: int) -> list[int]:
    return [math.prod(shape) for shape in shapes(hidden)]


def tensors(weights: Tensor, hidden: int) -> list[Tensor]:
    """The weights (..., P) as three pairs of a matrix and a bias, see :func:`shapes`."""
    parts = weights.split(sizes(hidden), dim=-1)
    return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes(hidden), strict=True)]


def initial(count: int, hidden: int, drawn: torch.Generator) -> Tensor:
    """(count, P): matrices of variance 1/inputs, biases of 0."""
    parts = []
    for fan_in, fan_out in shapes(hidden):
        of_biases = fan_in == 1
        normal = torch.zeros(count, fan_out) if of_biases else torch.randn(count, fan_in * fan_out, generator=drawn)
        parts.append(normal / fan_in**0.5)
    return torch.cat(parts, dim=-1)


def momenta_after(momenta: Tensor, gradient: Tensor) -> Tensor:
    """m <- b m + (1 - b) g for each decay b: (..., 6, n) and (..., n)."""
    decays = torch.tensor(DECAYS, dtype=gradient.dtype, device=gradient.device)[:, None]
    return torch.lerp(gradient.unsqueeze(-2).expand_as(momenta), momenta, decays)


def step_of(
    weights: Tensor,  # (..., P)
    hidden: int,
    params: Tensor,  # (..., n)
    gradient: Tensor,  # (..., n)
    momenta: Tensor,  # (..., 6, n), this gradient in them
    time: Tensor,  # (...): steps before this one
    layout: Layout,  # of the n parameters
) -> Tensor:  # (..., n)
    """What is subtracted from the parameters: 0.001 d exp(0.001 m), d and m the network's outputs for each of them.

    Its features are the gradient, the parameter and six momenta, each divided by the root mean square over its tensor
    plus 1e-5, and tanh(t/T - 1) for eleven T. They do not change if all gradients of a tensor are multiplied by one
    number that leaves them far above 1e-5.
    """
    matrix_1, bias_1, matrix_2, bias_2, matrix_3, bias_3 = tensors(weights, hidden)
    features = layout.normalised(torch.cat((gradient.unsqueeze(-2), params.unsqueeze(-2), momenta), dim=-2))
    scales = torch.tensor(TIMES, dtype=time.dtype, device=time.device)
    of_time = (time.unsqueeze(-1) / scales - 1).tanh().to(features.dtype).unsqueeze(-2)
    # What is the same for all parameters of a model is multiplied once, as a part of the bias.
    bias_1 = bias_1 + of_time @ matrix_1[..., MEASURED:, :]
    x = (matrix_1[..., :MEASURED, :].mT @ features).add_(bias_1.mT).relu_()
    x = (matrix_2.mT @ x).add_(bias_2.mT).relu_()
    direction, magnitude = (matrix_3.mT @ x + bias_3.mT).unbind(-2)
    return LENGTH * direction * (GROWTH * magnitude).exp()
