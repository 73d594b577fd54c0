"""Integer (B-bit) Madam, by the equations of arXiv 2006.14560."""

import math
from collections.abc import Generator, Iterable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def largest_weight(w0: Array, p_scale: float) -> float:
    return p_scale * math.sqrt(float(np.mean(w0 * w0)))


def levels_of(w: Array, w_max: float, base_lr: float) -> Array:
    """The n nearest to |W| = w_max exp(-b n); 0 for weights of zero, which have none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(w == 0, 0.0, np.rint(np.log(w_max / np.abs(w)) / base_lr))


def trajectory(
    w0: Array,
    gradients: Iterable[Array],
    lr: float = 0.01,
    base_lr: float = 0.001,
    levels: int = 4096,
    p_scale: float = 3.0,
    g_bound: float = 10.0,
    beta: float = 0.999,
    first_levels: Array | None = None,  # by default the nearest ones of the given weights
) -> Generator[Array, Array | None, None]:
    w_max = largest_weight(w0, p_scale)
    sign = np.sign(w0)
    n = np.clip(levels_of(w0, w_max, base_lr), 0, levels - 1) if first_levels is None else first_levels
    factor = lr / base_lr
    v = np.zeros_like(w0)
    for t, g in enumerate(gradients, start=1):
        v = beta * v + (1 - beta) * g * g
        root = np.sqrt(v / (1 - beta**t))
        normalised = np.where(root > 0, g / np.where(root > 0, root, 1.0), 0.0)
        normalised = np.clip(normalised, -g_bound, g_bound)
        n = np.clip(n + np.rint(factor * normalised) * sign, 0, levels - 1)
        yield sign * w_max * np.exp(-base_lr * n)
