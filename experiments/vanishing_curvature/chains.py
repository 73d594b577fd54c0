"""Neural chains, ``f(x) = w_L ... w_1 x`` with E w^2 = 1: gradient, Hessian, and how long descent stays on the plateau.

The loss is ``(f - 1)^2 / 2`` at x = 1. The formulas are derived; a test holds them against autograd and small steps.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reltrust.data.draws import generator
from reltrust.experiment import Measured, ResumePoint

from .analysis import log_statistics
from .settings import Subject

LEFT = 0.9  # the plateau is left when the loss is below this part of what it was
_NODES = 400  # of the quadrature
_STEP, _LONGEST = 1e-3, 3.0  # of the flows that move at a speed of their own


def draw_chains(kind: str, count: int, depth: int, drawn: torch.Generator) -> Tensor:
    """Weights (count, depth) in float64, uniform in +-sqrt(3) or normal."""
    if kind == "chain_uniform":
        return (2 * torch.rand(count, depth, generator=drawn, dtype=torch.float64) - 1) * math.sqrt(3)
    return torch.randn(count, depth, generator=drawn, dtype=torch.float64)


def without(weights: Tensor) -> Tensor:
    """For each k the product of all weights but the k-th: df/dw_k, (..., L)."""
    ones = torch.ones_like(weights[..., :1])
    before = torch.cat((ones, weights[..., :-1]), -1).cumprod(-1)
    after = torch.cat((ones, weights.flip(-1)[..., :-1]), -1).cumprod(-1).flip(-1)
    return before * after


def hessian(weights: Tensor) -> Tensor:
    """Of the loss: ``grad f grad f^T + (f - 1) F``, F_ij the product of all weights but two, F_ii = 0; (..., L, L)."""
    depth = weights.shape[-1]
    gradient, residual = without(weights), weights.prod(-1) - 1
    pairs = torch.stack([without(torch.cat((weights[..., :i], weights[..., i + 1 :]), -1)) for i in range(depth)], -2)
    # Row i of the pairs has no entry at i: the second derivative there is 0.
    upper = torch.ones(depth, depth, dtype=torch.bool).triu(1)
    second = weights.new_zeros(*weights.shape, depth)
    second[..., upper] = pairs[..., upper[:, 1:]]
    second = second + second.mT
    return gradient.unsqueeze(-1) * gradient.unsqueeze(-2) + residual[..., None, None] * second


def flow_time(weights: Tensor) -> Tensor:
    """How long gradient flow takes to leave the plateau, (...); no step is made.

    ``d(w_i^2)/dt = 2 (1 - f) f`` is the same for all i, so differences of squares stay. With m the smallest weight in
    size, signed so that ``f = m G(m)``, ``G = prod sqrt(w_i^2 - m_0^2 + m^2)`` over the others: ``dm/dt = (1 - f) G``,
    through zero too, and the time is the integral of ``dm / ((1 - f) G)`` up to the m at which the loss is ``LEFT`` of
    its start. By Gauss's rule in t with ``m = a sinh t``, a the size of the second smallest ``sqrt(w_i^2 - m_0^2)``.
    """
    sizes = weights.abs().sort(dim=-1).values
    start = sizes[..., 0] * weights.prod(-1).sign()
    others = (sizes[..., 1:].square() - sizes[..., :1].square()).clamp(min=0)
    scale = others[..., 0].sqrt().clamp(min=1e-9)

    def log_rest(m: Tensor) -> Tensor:  # log G; m (..., points)
        # One weight after another: all at once would be points times weights of memory.
        total = torch.zeros_like(m)
        for i in range(others.shape[-1]):
            total += 0.5 * (others[..., i : i + 1] + m.square()).log()
        return total

    def output(m: Tensor) -> Tensor:
        return m * log_rest(m.unsqueeze(-1)).squeeze(-1).exp()

    # f grows with m: bisection for the place where 1 - f is root(LEFT) of what it was.
    begun = output(start)
    wanted = 1 - math.sqrt(LEFT) * (1 - begun)
    low, high = start.minimum(torch.zeros_like(start)), torch.full_like(start, 1.0)
    while bool((output(high) < wanted).any()):
        high = torch.where(output(high) < wanted, 2 * high, high)
    low = torch.where(begun > 1, torch.zeros_like(start), low)
    for _ in range(200):
        middle = (low + high) / 2
        below = output(middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    first, last = (start / scale).asinh(), (high / scale).asinh()
    nodes, gauss = _gauss_legendre(_NODES)
    t = first.unsqueeze(-1) + (last - first).unsqueeze(-1) * nodes
    m = scale.unsqueeze(-1) * t.sinh()
    rest = log_rest(m).exp()
    integrand = scale.unsqueeze(-1) * t.cosh() / ((1 - m * rest) * rest)
    return (integrand * gauss).sum(-1) * (last - first)


def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], by Golub and Welsch."""
    k = torch.arange(1, count, dtype=torch.float64)
    beside = torch.diag(k / (4 * k * k - 1).sqrt(), 1)
    values, vectors = torch.linalg.eigh(beside + beside.T)
    return (values + 1) / 2, vectors[0].square()


def speed_time(weights: Tensor, direction: Callable[[Tensor], Tensor]) -> Tensor:
    """How long ``w' = -direction(g)`` takes to leave the plateau, in steps of ``_STEP``; at most ``_LONGEST``."""
    w, begun = weights.clone(), (weights.prod(-1) - 1).square()
    times = torch.full_like(begun, _LONGEST)
    for step in range(1, round(_LONGEST / _STEP) + 1):
        gradient = (w.prod(-1, keepdim=True) - 1) * without(w)
        w -= _STEP * direction(gradient)
        left = ((w.prod(-1) - 1).square() <= LEFT * begun) & (times == _LONGEST)
        times[left] = step * _STEP
        if bool((times < _LONGEST).all()):
            break
    return times


def rms_direction(gradient: Tensor) -> Tensor:
    """The gradient over the root of its mean square."""
    return gradient / gradient.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-300)


class Chains:
    """Statistics over many chains, and medians of the times that three flows stay on the plateau.

    ``flow``: gradient flow; ``sign``: sign descent, |w_i'| = 1; ``rms``: the gradient over the root of its mean square.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject, self.seed = subject, seed

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        subject = self.subject
        drawn = generator(self.seed, subject.depth, 1)
        weights = draw_chains(subject.network, subject.networks or 0, subject.depth, drawn)
        some = weights[: subject.hessians]
        eigenvalues = torch.linalg.eigvalsh(hessian(some))
        row = {
            **log_statistics("gradient", without(weights)[:, 0].abs().tolist()),
            **log_statistics("curvature", eigenvalues.abs().amax(-1).tolist()),
            **log_statistics("top", eigenvalues[:, -1].tolist()),
            **log_statistics("bottom", (-eigenvalues[:, 0]).tolist()),
        }
        times = {"flow": flow_time(some), "sign": speed_time(some, torch.sign), "rms": speed_time(some, rms_direction)}
        for name, time in times.items():
            row |= log_statistics(f"{name}_time", time.tolist())
        row["stuck"] = float(((times["sign"] == _LONGEST) | (times["rms"] == _LONGEST)).double().mean())
        return Measured(row)
