"""Madam, by the equations of arXiv 2006.14560, one weight at a time."""

import math
from collections.abc import Generator, Iterable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def clip(x: float, bound: float) -> float:
    return max(-bound, min(bound, x))


def sign(x: float) -> int:
    return 1 if x > 0 else -1 if x < 0 else 0


def trajectory(
    w0: Array,
    gradients: Iterable[Array],
    lr: float = 0.01,
    p_scale: float = 3.0,
    g_bound: float = 10.0,
    beta: float = 0.999,
) -> Generator[Array, Array | None, None]:
    weights = [float(w) for w in w0.flat]
    second_moments = [0.0 for _ in weights]
    w_max = p_scale * math.sqrt(sum(w * w for w in weights) / len(weights))
    for t, gradient in enumerate(gradients, start=1):
        for i, g in enumerate(float(g) for g in gradient.flat):
            second_moments[i] = beta * second_moments[i] + (1 - beta) * g * g
            root = math.sqrt(second_moments[i] / (1 - beta**t))
            normalised = clip(g / root, g_bound) if root > 0 else 0.0
            weights[i] = clip(weights[i] * math.exp(-lr * normalised * sign(weights[i])), w_max)
        stored = yield np.array(weights).reshape(w0.shape)
        weights = weights if stored is None else [float(w) for w in stored.flat]
