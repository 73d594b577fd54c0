"""How near to normal the logarithms of a tensor's magnitudes are, and their histogram."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

EDGES = torch.linspace(-6, 4, 51, dtype=torch.float64)  # of the histogram, in standard deviations


class Shape(NamedTuple):
    """Of a sample, after it has been given mean 0 and variance 1; a normal one has three zeros."""

    distance: float  # Kolmogorov's: the largest difference of the distribution functions of sample and normal, 0..1
    skewness: float  # E z^3
    kurtosis: float  # E z^4 - 3


def standardised_log(tensor: Tensor) -> Tensor:
    """ln|w| of all entries that are not 0, in ascending order, less its mean, over its standard deviation; float64."""
    magnitudes = tensor.detach().flatten().double().abs()
    logs = magnitudes[magnitudes > 0].log().sort().values
    return (logs - logs.mean()) / logs.std(correction=0)


def shape(z: Tensor) -> Shape:
    """Of a standardised sample (n,) in ascending order.

    The distance is that of Lilliefors' test, without its test: of many thousand weights every small difference from
    normal is significant, and what is compared is how large it is.
    """
    n = len(z)
    normal = torch.special.ndtr(z)
    above = (torch.arange(1, n + 1, dtype=torch.float64, device=z.device) / n - normal).max()
    below = (normal - torch.arange(n, dtype=torch.float64, device=z.device) / n).max()
    return Shape(float(torch.maximum(above, below)), float((z**3).mean()), float((z**4).mean() - 3))


def mean_shape(tensors: Sequence[Tensor]) -> Shape:
    """Of each tensor by itself, then the mean over tensors."""
    shapes = [shape(standardised_log(tensor)) for tensor in tensors]
    return Shape(*(math.fsum(values) / len(values) for values in zip(*shapes, strict=True)))


def histogram(tensors: Sequence[Tensor]) -> Tensor:
    """Density of the standardised logarithms of all tensors together, by the bins between ``EDGES`` (50,).

    What lies outside of them counts in the first or the last bin.
    """
    z = torch.cat([standardised_log(tensor) for tensor in tensors]).clamp(EDGES[0], EDGES[-1])
    counts = torch.histogram(z.cpu(), EDGES).hist
    return counts / (len(z) * (EDGES[1] - EDGES[0]))
