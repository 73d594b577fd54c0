"""The deep multilayer perceptron of the depth benchmark."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Init = Literal["torch", "he"]


class MLP(nn.Module):
    """``hidden_layers`` times Linear + ReLU, then a linear read-out of the classes.

    Args:
        in_features: pixels of an image.
        width: units of each hidden layer.
        hidden_layers: number of hidden layers, >= 1; the network has one weight matrix more.
        classes: number of outputs.
        init: ``"torch"``: weights and biases uniform in +-1/sqrt(fan in), torch's default, the published setting;
            ``"he"``: weights normal with variance 2/(fan in), biases zero (He et al. 2015, arXiv 1502.01852).

    Source: section 5 and figure 3 (left) of arXiv 2002.03432.
    """

    def __init__(self, in_features: int, width: int, hidden_layers: int, classes: int, init: Init = "torch") -> None:
        super().__init__()
        fan_ins = [in_features] + [width] * (hidden_layers - 1)
        self.hidden = nn.ModuleList(nn.Linear(fan_in, width) for fan_in in fan_ins)
        self.readout = nn.Linear(width, classes)
        if init == "he":
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:  # (batch, in_features) -> (batch, classes)
        for layer in self.hidden:
            x = torch.relu_(layer(x))
        return self.readout(x)  # type: ignore[no-any-return]


def packed_mlp(stacks: Sequence[Tensor], x: Tensor) -> Tensor:
    """K perceptrons of one shape at once.

    Args:
        stacks: their parameters in order of ``MLP.parameters()``: weights (K, out, in) and biases (K, out) in turn.
        x: (K, batch, in_features), each perceptron's own.

    Returns:
        (K, batch, classes)
    """
    *hidden, (weight, bias) = zip(stacks[::2], stacks[1::2], strict=True)
    for w, b in hidden:
        x = torch.relu_(torch.baddbmm(b.unsqueeze(1), x, w.mT))
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
