"""A deep multilayer perceptron, alone and many at once."""

from collections.abc import Sequence
from typing import Any, Literal

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
    *hidden, readout = zip(stacks[::2], stacks[1::2], strict=True)
    for weight, bias in hidden:
        x = torch.relu_(packed_linear(x, weight, bias))
    return packed_linear(x, *readout)


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """K times ``F.linear``: x (K, batch, in), weight (K, out, in), bias (K, out) -> (K, batch, out)."""
    if torch.is_autocast_enabled(x.device.type):  # autocast does not look into what has a backward of its own
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    return _PackedLinear.apply(x, weight, bias)  # type: ignore[no-any-return]


class _PackedLinear(torch.autograd.Function):
    """Every product in the order of factors that ``F.linear`` and its gradient have.

    Autograd's own gradient of ``baddbmm`` has the transposed product for the weights: other roundings than a run alone
    has, which a deep network's training does not forget, and a gradient that is not contiguous.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        x_grad = torch.bmm(grad, weight) if ctx.needs_input_grad[0] else None
        return x_grad, torch.bmm(grad.mT, x), grad.sum(1)
