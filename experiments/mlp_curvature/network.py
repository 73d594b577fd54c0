"""The two perceptrons of the slices: plain, and with every hidden layer's input added to its output."""

from typing import Literal

import torch
from torch import Tensor

from reltrust.models.mlp import MLP


class ResidualMLP(MLP):
    """``hidden_layers`` times x + relu(W x + b), then a linear read-out of the classes; ``in_features`` is ``width``.

    Source: figure 1 of arXiv 2002.03432; that the first layer has its sum too is from the authors' code.
    """

    def forward(self, x: Tensor) -> Tensor:  # (batch, width) -> (batch, classes)
        for layer in self.hidden:
            x = x + torch.relu_(layer(x))
        return self.readout(x)  # type: ignore[no-any-return]


def perceptron(
    kind: Literal["plain", "residual"], pixels: int, width: int, hidden_layers: int, classes: int, seed: int
) -> MLP:
    """The perceptron with torch's default initial weights, drawn from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return (ResidualMLP if kind == "residual" else MLP)(pixels, width, hidden_layers, classes)
