"""signSGD, by the equation of arXiv 1802.04434."""

from collections.abc import Generator, Iterable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def trajectory(w: Array, gradients: Iterable[Array], lr: float) -> Generator[Array, Array | None, None]:
    for g in gradients:
        w = w - lr * np.where(g > 0, 1.0, np.where(g < 0, -1.0, 0.0))
        stored = yield w
        w = w if stored is None else stored
