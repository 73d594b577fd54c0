"""Trainings by learned optimizers, all of them as one batched program, and the gradient of what comes out.

The axes of a training are (M, S, N): M optimizers, S perturbed copies of each, N problems of a family. A member's
copies see the same problems and batches, and so do all members.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reltrust.data.draws import generator

from .problems import Family, Problems, counted, loss_and_gradient
from .rule import DECAYS, momenta_after, step_of


class Training(NamedTuple):
    """Where trainings are."""

    params: Tensor
    """(M, S, N, n)."""
    momenta: Tensor
    """(M, S, N, 6, n)."""
    time: Tensor
    """Steps made so far, (N,)."""


def begun(problems: Problems, members: int, copies: int) -> Training:
    params = problems.start.expand(members, copies, *problems.start.shape).clone()
    momenta = params.new_zeros(*params.shape[:-1], len(DECAYS), params.shape[-1])
    return Training(params, momenta, params.new_zeros(len(problems.start)))


def unroll(
    weights: Tensor,
    hidden: int,
    family: Family,
    data: tuple[Tensor, ...],
    training: Training,
    batches: tuple[Tensor, ...],
    steps: int,
) -> tuple[Training, Tensor]:
    """So many steps of each training, and the losses before each step, (steps, M, S, N).

    Args:
        weights: of the optimizers, (M, S, N, P); an axis that they do not differ in may have length 1.
        data: of the problems.
        batches: for each step.
    """
    params, momenta, time = training
    losses = []
    for step in range(steps):
        of_step = (*data, *(one[step] for one in batches))
        loss, gradient = loss_and_gradient(family.loss, params, of_step)
        momenta = momenta_after(momenta, gradient)
        params = params - step_of(weights, hidden, params, gradient, momenta, time, family.layout)
        time = time + 1
        losses.append(loss)
    return Training(params, momenta, time), torch.stack(losses)


def meta_loss(
    weights: Tensor, hidden: int, families: Sequence[Family], *, problems: int, steps: int, key: tuple[int, ...]
) -> Tensor:
    """(M,) of optimizers (M, P): the mean of their losses, each at most 4, over steps, so many problems, and
    families."""
    means = []
    for number, family in enumerate(families):
        drawn = family.draw(problems, (*key, number, 1))
        batches = family.batches(problems, steps, (*key, number, 2))
        training = begun(drawn, len(weights), 1)
        _, losses = unroll(weights[:, None, None], hidden, family, drawn.data, training, batches, steps)
        means.append(counted(losses).mean((0, 2, 3)))
    return torch.stack(means).mean(0)


# --- persistent evolution strategies ---------------------------------------------------------------------------------


def antithetic(weights: Tensor, noise: Tensor) -> Tensor:
    """(M, 2, N, P): weights (M, P) plus and minus noise (M, N, P)."""
    return weights[:, None, None] + torch.stack((noise, -noise), dim=1)


def estimate(accumulated: Tensor, losses: Tensor, sigma: float) -> Tensor:
    """mean over N of xi (L+ - L-)/(2 sigma^2): the gradient (M, P) of losses (M, 2, N) smoothed by noise of that
    deviation.

    xi (M, N, P) is the sum of all noise since a training began (Vicol et al., arXiv 2112.13835): the mean over draws of
    the sum over unrolls is then that of whole trainings. If a training is one unroll, it is ordinary antithetic ES.
    """
    difference = losses[:, 0] - losses[:, 1]
    return (accumulated * difference.unsqueeze(-1)).mean(1) / (2 * sigma**2)


class PersistentES:
    """Pairs of trainings on one family, carried on by one unroll for each gradient.

    Trainings have ``episode`` steps; then the pair begins a new one, on a new problem. Pairs begin at different times.
    """

    def __init__(
        self, family: Family, members: int, *, hidden: int, pairs: int, sigma: float, unroll: int, episode: int,
        key: tuple[int, ...],
    ) -> None:  # fmt: skip
        self.family, self.hidden, self.sigma = family, hidden, sigma
        self.steps, self.episode, self.key = unroll, episode, key
        drawn = family.draw(pairs, (*key, 0))
        self.data = drawn.data
        self.training = begun(drawn, members, 2)
        # The first trainings end early, so that later ones do not all end together.
        early = torch.arange(pairs) * unroll % episode
        self.training = self.training._replace(time=early.to(drawn.start.dtype))
        self.accumulated: Tensor | None = None

    def gradient(self, weights: Tensor, number: int) -> Tensor:
        """(M, P), of the mean loss in the next unroll; ``number`` is how many there have been."""
        self._begin_anew(number)
        members, pairs = len(weights), len(self.training.time)
        drawn = generator(*self.key, 1, number + 1)
        noise = self.sigma * torch.randn(members, pairs, weights.shape[1], generator=drawn)
        self.accumulated = noise if self.accumulated is None else self.accumulated + noise
        batches = self.family.batches(pairs, self.steps, (*self.key, 2, number + 1))
        self.training, losses = unroll(
            antithetic(weights, noise), self.hidden, self.family, self.data, self.training, batches, self.steps
        )
        return estimate(self.accumulated, counted(losses).mean(0), self.sigma)

    def _begin_anew(self, number: int) -> None:
        ended = self.training.time >= self.episode
        if not ended.any():
            return
        new = self.family.draw(len(ended), (*self.key, 3, number + 1))
        members = len(self.training.params)
        training = begun(new, members, 2)

        def of(old: Tensor, fresh: Tensor, axis: int) -> Tensor:
            return torch.where(ended.view(-1, *[1] * (old.dim() - axis - 1)), fresh, old)

        self.data = tuple(of(old, fresh, 0) for old, fresh in zip(self.data, new.data, strict=True))
        old = self.training
        self.training = Training(
            of(old.params, training.params, 2), of(old.momenta, training.momenta, 2), of(old.time, training.time, 0)
        )
        if self.accumulated is not None:
            self.accumulated = of(self.accumulated, torch.zeros_like(self.accumulated), 1)

    def state_dict(self) -> dict[str, Any]:
        return {"data": list(self.data), "training": list(self.training), "accumulated": self.accumulated}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.data, self.training = tuple(state["data"]), Training(*state["training"])
        self.accumulated = state["accumulated"]
