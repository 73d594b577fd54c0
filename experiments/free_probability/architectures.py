"""The networks of these experiments: by name for spectra, drawn at random for trainings. No torch."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reltrust.errors import SettingsError

Activation = Literal["linear", "relu", "hard_tanh"]


@dataclass(frozen=True)
class Architecture:
    """A perceptron without biases: after each weight matrix its activation."""

    label: str
    activation: Activation
    ratios: tuple[float, ...]
    """N_l/N_{l-1} of each layer."""

    def widths(self, first: int) -> list[int]:
        """N_0 to N_L, rounded; at least 1."""
        found = [first]
        for ratio in self.ratios:
            found.append(max(1, int(ratio * found[-1] + 0.5)))
        return found


ARCHITECTURES = {
    "linear": Architecture("linear, 1 layer", "linear", (0.5,)),
    "contracting_linear": Architecture("linear, contracting", "linear", (0.8,) * 5),
    "expanding_linear": Architecture("linear, expanding", "linear", (1.5,) * 3),
    "square_relu": Architecture("ReLU, 5 layers", "relu", (1.0,) * 5),
    "contracting_relu": Architecture("ReLU, contracting", "relu", (0.75,) * 3),
    "expanding_relu": Architecture("ReLU, expanding", "relu", (1.5,) * 3),
    "square_hard_tanh": Architecture("hard tanh, 5 layers", "hard_tanh", (1.0,) * 5),
    "waisted_hard_tanh": Architecture("hard tanh, with a waist", "hard_tanh", (0.5, 1.0, 2.0)),
    "deep_linear": Architecture("linear, 20 layers", "linear", (1.0,) * 20),
    "deep_relu": Architecture("ReLU, 20 layers", "relu", (1.0,) * 20),
    "deep_hard_tanh": Architecture("hard tanh, 20 layers", "hard_tanh", (1.0,) * 20),
}

# Of the random networks: redachhaibi/FreeNN@0f3a5ee experiments/run_generate_architectures.py, those for MNIST.
RATIOS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 1.0, 3 / 2, 2.0, 3.0, 4.0)
HIDDEN = 3
_TRIES = 100_000


def drawn(number: int, inputs: int, narrowest: int, widest: int) -> Architecture:
    """Random network number so much: its three ratios drawn again until all hidden widths are within the limits.

    Raises:
        SettingsError: hardly any network is within the limits.
    """
    draws = random.Random(number)
    for _ in range(_TRIES):
        found = Architecture(f"drawn {number}", "relu", tuple(draws.choice(RATIOS) for _ in range(HIDDEN)))
        if all(narrowest <= width <= widest for width in found.widths(inputs)[1:]):
            return found
    raise SettingsError(
        f"task.narrowest={narrowest}: with task.widest={widest} and {inputs} inputs no random network is within"
    )


def xavier(widths: Sequence[int], gain: float) -> list[float]:
    """s_1 to s_L, each the variance of a weight times its fan-in: ``2 gain^2 N_{l-1} / (N_{l-1} + N_l)``.

    Source: Glorot and Bengio 2010.
    """
    return [2 * gain**2 * n / (n + m) for n, m in itertools.pairwise(widths)]
