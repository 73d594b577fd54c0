"""Is an optimizer natural? How far its ways in two coordinates of the same parameters are apart.

    model = Model(outputs=lambda w: (x @ w[0].T).tanh() @ w[1].T, loss=lambda f: (f - y).square().sum() / 2)
    phi = elementwise(torch.sinh, torch.asinh)
    found = defect(lambda params, model: Adam(params, lr=0.01), model, start, phi, steps=100)
    found.relative

An optimizer is natural if, as its steps become small, its way commutes with smooth reparametrisation w = phi(q):
``phi(q(t)) = w(t)`` (arXiv 2312.04739). A defect that is rounding says that each step does; one that falls in
proportion to the steps says that its flow does.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from reltrust.theory.reparametrisation import Point, Reparametrisation, distance


@dataclass(frozen=True)
class Model:
    """A function of parameters, and a loss of its values."""

    outputs: Callable[[Point], Tensor]
    """The place in function space: the outputs on all examples, in one tensor."""
    loss: Callable[[Tensor], Tensor]
    """Of the outputs, a scalar."""

    def of(self, params: Point) -> Tensor:
        """The loss."""
        return self.loss(self.outputs(params))

    def through(self, phi: Reparametrisation) -> "Model":
        """The same function in coordinates q."""
        return Model(lambda point: self.outputs(phi.to_w(point)), self.loss)


Make = Callable[[list[Tensor], Model], Optimizer]
"""An optimizer of these parameters of this model; what needs no more than gradients has no use for the model."""


class Defect(NamedTuple):
    """What came of both ways."""

    distance: float
    """``|phi(q(T)) - w(T)|``, over all tensors."""
    travelled: float
    """``|w(T) - w(0)|``."""

    @property
    def relative(self) -> float:
        """The distance in units of the way; NaN of none."""
        return self.distance / self.travelled if self.travelled else math.nan


def way(make: Make, model: Model, start: Point, *, steps: int) -> list[Tensor]:
    """Where so many steps lead, each with the gradient of the loss.

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")
    params = [one.detach().clone().requires_grad_() for one in start]
    optimizer = make(params, model)
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.enable_grad():
            model.of(params).backward()
        optimizer.step()
    return [one.detach() for one in params]


def defect(make: Make, model: Model, start: Point, phi: Reparametrisation, *, steps: int) -> Defect:
    """How far apart the same optimizer ends in w and in q, from the same start, after the same number of steps.

    Args:
        start: w(0).

    Raises:
        ValueError: fewer than one step; phi does not lead back to w(0).
    """
    return defects(make, model, start, {"phi": phi}, steps=steps)["phi"]


def defects(
    make: Make, model: Model, start: Point, maps: Mapping[str, Reparametrisation], *, steps: int
) -> dict[str, Defect]:
    """As :func:`defect`, for several maps: the way in w is gone once."""
    begun = {name: phi.start(start) for name, phi in maps.items()}
    direct = way(make, model, start, steps=steps)
    found = {}
    for name, phi in maps.items():
        around = phi.to_w(way(make, model.through(phi), begun[name], steps=steps))
        found[name] = Defect(distance(around, direct), distance(direct, start))
    return found


def order_of(defects: Sequence[Defect]) -> float:
    """The mean power of the step size with which the relative distance falls, where each step size is half of the one
    before; NaN of a distance of 0 or a way that is not finite.

    Raises:
        ValueError: fewer than two defects.
    """
    if len(defects) < 2:
        raise ValueError(f"defects: {len(defects)} given, must be at least 2")
    first, last = defects[0].relative, defects[-1].relative
    if not (0 < first < math.inf and 0 < last < math.inf):
        return math.nan
    return math.log2(first / last) / (len(defects) - 1)
