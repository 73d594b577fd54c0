"""signSGD, by the equation of arXiv 1802.04434."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def trajectory(w: Array, gradients: Iterable[Array], lr: float) -> Iterator[Array]:
    for g in gradients:
        w = w - lr * np.where(g > 0, 1.0, np.where(g < 0, -1.0, 0.0))
        yield w
