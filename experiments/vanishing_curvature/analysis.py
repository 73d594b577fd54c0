"""Gradient and curvature of freshly drawn networks, many of a kind."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reltrust.data.draws import generator
from reltrust.experiment import Measured, ResumePoint
from reltrust.theory.hessian import stacked_hessian_operator
from reltrust.theory.lanczos import extreme_eigenvalues

from .architectures import ARCHITECTURES
from .networks import draw_weights, forward
from .settings import Subject

_GROUP_WEIGHTS = 4_000_000  # numbers that are drawn at once: bounds the memory
_ORDER, _TOLERANCE = 100, 1e-2  # of Lanczos: an eigenvalue to one in a hundred is far below the spread over networks
_BASIS = 100_000_000  # numbers that the vectors of Lanczos may take at once
PERCENTILES = (5, 25, 50, 75, 95)


class Initialisation:
    """Log-norms of the first layer's gradient, and extreme eigenvalues of the Hessian, over many networks.

    The gradient is that of the output f for one input, a normal direction of norm 1; with BatchNorm for the first
    of a batch of ``inputs`` such inputs. The Hessian is that of ``mean (f - y)^2 / 2`` over ``inputs`` inputs, with
    normal targets y, with respect to all weights, which are drawn in float64 as everything is computed.
    """

    def __init__(self, subject: Subject, seed: int, device: torch.device) -> None:
        self.subject, self.seed, self.device = subject, seed, device
        self.architecture = ARCHITECTURES[subject.network]
        self.units = self.architecture.units(subject.width, subject.depth)

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        subject = self.subject
        networks, hessians = subject.networks or 0, subject.hessians or 0
        size = self.units * self.units * subject.depth
        group = max(1, min(networks, _GROUP_WEIGHTS // size))
        state: dict[str, Any] = resume.state or {"done": 0, "gradients": [], "tops": [], "bottoms": [], "products": 0}
        while (start := state["done"]) < networks:
            weights, x, y = self._drawn(min(group, networks - start), start)
            state["gradients"] += self._gradients(weights, x).tolist()
            if (some := min(hessians - start, len(y))) > 0:
                tops, bottoms, products = self._curvature([w[:some] for w in weights], x[:some], y[:some], start)
                state["tops"] += tops
                state["bottoms"] += bottoms
                state["products"] += products
            state["done"] = start + len(y)
            resume.reached(state["done"], lambda: state)
        return Measured({
            "units": self.units,
            **log_statistics("gradient", state["gradients"]),
            **log_statistics("curvature", [max(t, -b) for t, b in zip(state["tops"], state["bottoms"], strict=True)]),
            **log_statistics("top", state["tops"]),
            **log_statistics("bottom", [-bottom for bottom in state["bottoms"]]),
            "products": state["products"] / hessians,
        })  # fmt: skip

    def _drawn(self, count: int, start: int) -> tuple[list[Tensor], Tensor, Tensor]:
        """Weights, inputs (count, inputs, d) and targets (count, inputs) of networks number ``start`` and following."""
        drawn = generator(self.seed, self.subject.depth, self.units, start + 1)
        weights = draw_weights(
            self.architecture,
            count=count,
            depth=self.subject.depth,
            width=self.units,
            inputs=self.units,
            outputs=1,
            generator=drawn,
        )
        x = torch.randn(count, self.subject.inputs or 0, self.units, generator=drawn, dtype=torch.float64)
        x = x / x.norm(dim=-1, keepdim=True)
        y = torch.randn(x.shape[:2], generator=drawn, dtype=torch.float64)
        return [w.to(self.device) for w in weights], x.to(self.device), y.to(self.device)

    def _gradients(self, weights: list[Tensor], x: Tensor) -> Tensor:
        """``|df/dW_1|`` of each network, (K,)."""
        first, *others = weights
        first = first.detach().requires_grad_()
        seen = x if self.architecture.batch_norm else x[:, :1]
        output = forward(self.architecture, [first, *others], seen)[:, 0].sum()
        (gradient,) = torch.autograd.grad(output, first)
        norms: Tensor = gradient.flatten(1).norm(dim=1)
        return norms

    def _curvature(
        self, weights: list[Tensor], x: Tensor, y: Tensor, number: int
    ) -> tuple[list[float], list[float], int]:
        """The largest and the smallest eigenvalue of each network, and how many products all of them took.

        Args:
            number: of the first network.
        """
        dims = sum(w[0].numel() for w in weights)
        order = min(_ORDER, dims)
        together = max(1, _BASIS // (order * dims))
        tops: list[float] = []
        bottoms: list[float] = []
        products = 0
        for first in range(0, len(y), together):
            own = slice(first, first + together)
            stacks = [w[own].detach().requires_grad_() for w in weights]
            outputs = forward(self.architecture, stacks, x[own]).squeeze(-1)
            losses = (outputs - y[own]).square().mean(1) / 2
            drawn = generator(self.seed, self.subject.depth, self.units, number + first + 1, 1)
            start = torch.randn(len(losses), dims, generator=drawn, dtype=torch.float64).to(losses)
            operator = stacked_hessian_operator(losses, stacks)
            found = extreme_eigenvalues(operator, start, order=order, tolerance=_TOLERANCE)
            tops += found.top.tolist()
            bottoms += found.bottom.tolist()
            products += found.products * len(losses)
        return tops, bottoms, products


def log_statistics(name: str, values: list[float]) -> dict[str, float]:
    """Of the logarithms of those that are above 0: their number, mean, standard deviation, percentiles.

    ``<name>_dead`` is the share of the others: of networks that are constant. Where all are, the rest is left out.
    """
    all_values = torch.tensor(values, dtype=torch.float64)
    logs = all_values[all_values > 0].log()
    row = {f"{name}_n": float(len(logs)), f"{name}_dead": 1 - len(logs) / len(values)}
    if len(logs):
        row |= {f"{name}_mean": float(logs.mean()), f"{name}_std": float(logs.std()) if len(logs) > 1 else 0.0}
        row |= {f"{name}_p{q}": float(logs.quantile(q / 100)) for q in PERCENTILES}
    return row
