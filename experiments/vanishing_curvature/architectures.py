"""The networks that are compared, in words: what draws them and what draws their theory read this. No torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Architecture:
    """A perceptron without biases of L weight matrices W_1 to W_L: L - 1 hidden layers, one output.

    Weights are normal with mean zero.
    """

    label: str
    variance: Literal["he", "xavier"] = "he"
    """``he``: 2/(fan in); ``xavier``: 2/(fan in + fan out)."""
    relu: bool = True
    batch_norm: bool = False
    """Before each ReLU, over the batch, without gain and shift."""
    branch: Literal["scaled", "plain"] | None = None
    """Residual, ``z + s W relu(z)``, of all matrices but the first and the last: ``scaled``: s = 1/sqrt(L);
    ``plain``: s = 1."""
    growth: float = 0.0
    """The width is ``width (L/8)^growth``: ``width`` is that of 8 layers."""

    def units(self, width: int, depth: int) -> int:
        """Of each hidden layer, and of the input."""
        grown: float = width * (depth / 8) ** self.growth
        return max(1, round(grown))


ARCHITECTURES = {
    "he": Architecture("He"),
    "he_root": Architecture("He, width ~ root of depth", growth=0.5),
    "he_proportional": Architecture("He, width ~ depth", growth=1.0),
    "xavier": Architecture("Xavier", variance="xavier"),
    "xavier_proportional": Architecture("Xavier, width ~ depth", variance="xavier", growth=1.0),
    "linear": Architecture("Xavier, linear", variance="xavier", relu=False),
    "linear_proportional": Architecture("Xavier, linear, width ~ depth", variance="xavier", relu=False, growth=1.0),
    "batch_norm": Architecture("He + BatchNorm", batch_norm=True),
    "residual": Architecture("He + residual / root of L", branch="scaled"),
    "residual_plain": Architecture("He + residual", branch="plain"),
}
CHAINS = {"chain_normal": "normal weights", "chain_uniform": "uniform weights"}
