"""Sample variance and sample mean of every layer of freshly drawn ReLU networks, forward and backward."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reltrust.data.draws import generator
from reltrust.experiment import Measured, ResumePoint
from reltrust.theory.initialisation import unit_sample_variance_

from .settings import Subject

PERCENTILES = (5, 50, 95)


class SampleVariance:
    """Of each layer ``v/(v + m^2)``, over many networks.

    v and m are a unit's variance and mean over the inputs; v and m^2 are summed over the layer's units before they are
    divided, so that the ratio is one number a network. Forward it is that of the pre-activations, backward that of the
    gradients with respect to them, of an output that is a normal direction of the last activations.

    The inputs are orthogonal and of norm sqrt(width): which directions, no network with normal weights can tell. They
    calibrate ``unit_variance``; as many others calibrate ``unit_variance_unseen``. In float32.
    """

    def __init__(self, subject: Subject, seed: int, device: torch.device) -> None:
        self.subject, self.seed, self.device = subject, seed, device

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """Logs a row a layer, its number as the step; returns those of the last layer, backward of the first."""
        subject = self.subject
        state: dict[str, Any] = resume.state or {"forward": [], "backward": [], "total": []}
        while (done := len(state["forward"])) < (subject.networks or 0):
            for name, of_layers in zip(state, self._network(done), strict=True):
                state[name].append(of_layers)
            resume.reached(0, lambda: state)
        columns = {name: torch.tensor(values, dtype=torch.float64) for name, values in state.items()}
        for layer in range(subject.depth):
            row: dict[str, Any] = {"step": layer + 1}
            for name, values in columns.items():
                row |= _statistics(name, values[:, layer])
            log(row)
        ends = {"forward": -1, "backward": 0, "total": -1}
        return Measured(
            {key: x for name, end in ends.items() for key, x in _statistics(name, columns[name][:, end]).items()}
        )

    def _network(self, number: int) -> tuple[list[float], list[float], list[float]]:
        """By layer of one network: the two ratios, and the mean square ``v + m^2`` of the pre-activations."""
        subject, drawn = self.subject, generator(self.seed, self.subject.width, number + 1)
        width, depth = subject.width, subject.depth
        layers = [nn.utils.skip_init(nn.Linear, width, width) for _ in range(depth)]
        for layer in layers:
            layer.weight.data.normal_(std=math.sqrt(2 / width), generator=drawn)
            layer.bias.data.zero_()
        readout = torch.randn(width, generator=drawn).to(self.device)
        network = Recording(layers, batch_norm=subject.network == "batch_norm").to(self.device)
        inputs = math.sqrt(width) * torch.eye(width, device=self.device)
        seen, others = inputs[: subject.inputs], inputs[-(subject.inputs or 0) :]
        if subject.network in ("unit_variance", "unit_variance_unseen"):
            unit_sample_variance_(network, seen if subject.network == "unit_variance" else others)
        output = network(seen) @ readout
        gradients = torch.autograd.grad(output.sum(), network.seen)
        moments = [_moments(z.detach()) for z in network.normalised]
        backward = [_ratio(*_moments(gradient)) for gradient in gradients]
        return [_ratio(*one) for one in moments], backward, [v + square for v, square in moments]


class Recording(nn.Module):
    """ReLU after each layer; the last forward pass is kept.

    Args:
        batch_norm: after each layer, without gain and shift.
    """

    def __init__(self, layers: Sequence[nn.Module], *, batch_norm: bool) -> None:
        super().__init__()
        self.layers, self.batch_norm = nn.ModuleList(layers), batch_norm
        self.seen: list[Tensor] = []
        """Each layer's output, with respect to which gradients can be taken."""
        self.normalised: list[Tensor] = []
        """What then goes into its ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen, self.normalised = [], []
        x = x.requires_grad_()
        for layer in self.layers:
            self.seen.append(z := layer(x))
            if self.batch_norm:
                z = nn.functional.batch_norm(z, None, None, training=True)
            self.normalised.append(z)
            x = z.relu()
        return x


def _moments(x: Tensor) -> tuple[float, float]:
    """Variance and squared mean over the inputs, (inputs, units), each the mean over units."""
    return float(x.var(0, correction=0).mean()), float(x.mean(0).square().mean())


def _ratio(variance: float, squared_mean: float) -> float:
    """0 where both are 0: a layer that is constant tells nothing apart."""
    total = variance + squared_mean
    return variance / total if total > 0 else 0.0


def _statistics(name: str, values: Tensor) -> dict[str, float]:
    """Mean, standard deviation and percentiles over networks, (n,)."""
    row = {f"{name}_mean": float(values.mean()), f"{name}_std": float(values.std()) if len(values) > 1 else 0.0}
    return row | {f"{name}_p{q}": float(values.quantile(q / 100)) for q in PERCENTILES}
