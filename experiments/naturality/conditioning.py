"""Descent in badly conditioned coordinates: the first weights of a small network are W = A V, and V is learnt."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reltrust.data.draws import generator
from reltrust.data.images import Examples
from reltrust.experiment import Measured, ResumePoint
from reltrust.theory.naturality import Model
from reltrust.theory.reparametrisation import Reparametrisation

from .analysis import make
from .settings import Subject

SHARE = 0.15  # of the loss at the start, at which a descent is over: more than the last layer alone can do
_SIDE, _CLASSES, _POOLED = 8, 10, 2  # of the digits; pixels are averaged two by two


class Descent:
    """Full-batch descent of ``f(x) = W_2 tanh(W_1 x)`` on real digits, in coordinates ``W_1 = A V``.

    A has the given condition number, singular values in geometric progression about 1, and random singular vectors; the
    start is the same function for every A. The loss is half of the squared error to one-hot labels, a mean over images.
    In float64.

    Measured: ``steps_needed``, until the loss is 0.15 of that at the start; ``task.iterations``, the most, if it is
    not reached; ``reached``, 1 or 0; ``loss_share``, of the start, at the end.
    """

    def __init__(self, subject: Subject, examples: Examples, seed: int) -> None:
        self.subject = subject
        count, hidden = subject.images or 0, subject.hidden or 0
        pictures = examples.images[:count].double().view(count, 1, _SIDE, _SIDE)
        x = F.avg_pool2d(pictures, _POOLED).flatten(1)
        y = F.one_hot(examples.labels[:count], _CLASSES).double()
        drawn = generator(seed, 1)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=drawn, dtype=torch.float64)

        self.start = [normal(hidden, x.shape[1]) / x.shape[1] ** 0.5, normal(_CLASSES, hidden) / hidden**0.5]
        left, right = (torch.linalg.qr(normal(hidden, hidden)).Q for _ in range(2))
        exponents = torch.linspace(-0.5, 0.5, hidden, dtype=torch.float64)
        matrix = left @ torch.diag((subject.condition or 1.0) ** exponents) @ right
        self.phi = Reparametrisation(
            lambda point: [matrix @ point[0], point[1]], lambda point: [torch.linalg.solve(matrix, point[0]), point[1]]
        )
        self.model = Model(lambda w: (x @ w[0].mT).tanh() @ w[1].mT, lambda f: (f - y).square().sum(1).mean() / 2)

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """Logs a row at the end: descents take seconds, and begin anew."""
        model, subject = self.model.through(self.phi), self.subject
        params = [one.requires_grad_() for one in self.phi.start(self.start)]
        optimizer = make(subject.rule, params, model, subject.step_size)
        begun, share, taken = float(model.of(params).detach()), 1.0, subject.iterations
        for step in range(1, subject.iterations + 1):
            optimizer.zero_grad()
            model.of(params).backward()
            optimizer.step()
            with torch.no_grad():
                share = float(model.of(params)) / begun
            if not math.isfinite(share) or share > 1e6:
                break
            if share <= SHARE:
                taken = step
                break
        reached = share <= SHARE  # NaN is not
        row = {"steps_needed": taken, "reached": int(reached), "loss_share": share if math.isfinite(share) else 1e6}
        log({"step": taken, **row})
        return Measured(row)
