"""NovoGrad, by algorithm 1 of arXiv 1905.11286."""

import math
from collections.abc import Generator, Iterable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def trajectory(
    w: Array,
    gradients: Iterable[Array],
    lr: float,
    betas: tuple[float, float] = (0.95, 0.98),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    grad_averaging: bool = False,
) -> Generator[Array, Array | None, None]:
    beta1, beta2 = betas
    v = 0.0
    m = np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        squared_norm = float(np.sum(g * g))
        v = squared_norm if t == 1 else beta2 * v + (1 - beta2) * squared_norm
        divisor = math.sqrt(v) + eps
        normalised = g / divisor if divisor > 0 else np.zeros_like(g)
        added = normalised + weight_decay * w
        m = beta1 * m + ((1 - beta1) * added if grad_averaging else added)
        w = w - lr * m
        stored = yield w
        w = w if stored is None else stored
