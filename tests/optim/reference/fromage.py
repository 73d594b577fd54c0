"""Fromage and LARS, by the equations of arXiv 2002.03432."""

import math
from collections.abc import Generator, Iterable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def norm(x: Array) -> float:
    return math.sqrt(float(np.sum(x * x)))


def trajectory(
    w: Array,
    gradients: Iterable[Array],
    lr: float = 0.01,
    p_bound: float | None = None,  # the norm of the first weights, times this, bounds the norm of all later ones
    lars: bool = False,  # LARS leaves out the division by sqrt(1 + lr^2)
) -> Generator[Array, Array | None, None]:
    first_norm = norm(w)
    for g in gradients:
        degenerate = norm(w) == 0 or norm(g) == 0
        w = w - lr * g if degenerate else w - lr * g * norm(w) / norm(g)
        if not lars:
            w = w / math.sqrt(1 + lr * lr)
        if p_bound is not None and norm(w) > p_bound * first_norm:
            w = w * (p_bound * first_norm) / norm(w)
        stored = yield w
        w = w if stored is None else stored
