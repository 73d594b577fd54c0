"""Bytes of state that optimizers keep, counted after a step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reltrust.experiment import Measured, ResumePoint
from reltrust.models.mlp import MLP
from reltrust.optim import Fromage, Madam, NovoGrad

from .settings import Subject

_PIXELS, _CLASSES = 784, 10  # of MNIST
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "novograd": lambda params: NovoGrad(params, lr=0.01),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.001),
    "sgd_momentum": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    "fromage": lambda params: Fromage(params, lr=0.01),
    "madam": lambda params: Madam(params, lr=0.01),
}


class StateBytes:
    """Of a perceptron's parameters in float32; tensors of state are counted in the bytes of their numbers."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """``state_<optimizer>``: bytes of state a parameter, of which there are ``parameters``."""
        row: dict[str, float] = {}
        for name, make in OPTIMIZERS.items():
            model = MLP(_PIXELS, self.subject.width, self.subject.layers, _CLASSES)
            params = list(model.parameters())
            row["parameters"] = sum(p.numel() for p in params)
            optimizer = make(params)
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
            row[f"state_{name}"] = state_bytes(optimizer) / row["parameters"]
        return Measured(row)


def state_bytes(optimizer: Optimizer) -> int:
    """Of all tensors in its state."""
    held = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return sum(value.numel() * value.element_size() for value in held)
