"""Lanczos' method: what a symmetric operator's spectrum is like, from its products with vectors alone."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_NOISE = 10  # units of rounding that a product may be wrong by, relative to its length

Operator = Callable[[Tensor], Tensor]
"""The products of symmetric matrices, (..., n, n), each with its own vector: (..., n) -> (..., n)."""


class Ritz(NamedTuple):
    """Eigenvalues of the operator seen from a Krylov space, ascending, (..., m) each."""

    values: Tensor
    errors: Tensor
    """``|A y - theta y|`` of the Ritz vector y: an eigenvalue lies at most this far away (Paige 1972)."""
    weights: Tensor
    """Squared overlap of the Ritz vector and the start; they sum to 1."""


class Lanczos:
    """``A Q = Q T + beta q e^T`` with orthonormal Q, T tridiagonal: from products ``A q``, a column of Q each.

    Rounding makes new vectors lean towards old ones. Where by an estimate one does so by more than the root of the
    rounding error, it and the next are made orthogonal to all of them again; as long as none does, T is as good as if
    none leant at all (Simon 1984), and no eigenvalue comes twice. Where the space is exhausted early, as of an operator
    of low rank, the process goes on with empty vectors, which change neither extremes nor weights.

    Args:
        operator: of one matrix or, with leading axes, of as many as ``start`` has vectors.
        start: (..., n), not zero.
        order: the most steps that will be made, of vectors that will be kept: in 1..n.

    Raises:
        ValueError: an order above the dimension, or a start that is zero or not finite.
    """

    def __init__(self, operator: Operator, start: Tensor, order: int) -> None:
        n = start.shape[-1]
        if not 1 <= order <= n:
            raise ValueError(f"order={order}: must be between 1 and the dimension of the operator, {n}")
        norm = start.norm(dim=-1, keepdim=True)
        if not bool((norm.isfinite() & (norm > 0)).all()):
            raise ValueError("start: must be finite and not zero")
        self._operator = operator
        self._basis = start.new_empty(*start.shape[:-1], order, n)
        self._basis[..., 0, :] = start / norm
        self._diagonal, self._beside = (start.new_zeros(*start.shape[:-1], order) for _ in range(2))
        empty = start.new_zeros(*start.shape[:-1], 0)
        self._leans = (empty, empty)  # of the vector before the last one, and of the last one
        self._again = self._exhausted = False
        self.steps = 0

    def advance(self, steps: int = 1) -> None:
        """Makes so many steps, a product each, but none above the order.

        Raises:
            ValueError: a product is not finite.
        """
        for k in range(self.steps, min(self.steps + steps, self._basis.shape[-2])):
            q, eps = self._basis[..., k, :], torch.finfo(self._basis.dtype).eps
            product = self._operator(q)
            alpha = torch.linalg.vecdot(product, q).unsqueeze(-1)
            rest = torch.addcmul(product, alpha, q, value=-1)
            if k:
                rest.addcmul_(self._beside[..., k - 1 : k], self._basis[..., k - 1, :], value=-1)
            norm = rest.norm(dim=-1, keepdim=True)  # in exact arithmetic this is beta
            if not bool(norm.isfinite().all()):
                raise ValueError(f"operator: its product number {k + 1} must be finite")
            # What is left of a product in an exhausted space is rounding.
            length = torch.cat((alpha, norm, self._beside[..., k - 1 : k] if k else alpha), -1).norm(
                dim=-1, keepdim=True
            )
            lean = self._leaning(alpha, norm, length)
            if self._again or bool((lean > math.sqrt(eps)).any()):
                known = self._basis[..., : k + 1, :]
                for _ in range(2):
                    rest = rest - _combination(_products(known, rest), known)
                norm = rest.norm(dim=-1, keepdim=True)
                lean = torch.full_like(lean, eps)
                self._again = not self._again  # what comes next follows from this vector and the one before it
            self._leans = (self._leans[1], lean)
            ended = norm <= 10 * eps * length
            self._diagonal[..., k] = alpha.squeeze(-1)
            if self._exhausted or bool(ended.any()):
                # An empty vector has no place of its own in the spectrum: it is given one within.
                empty = (q == 0).all(-1)
                self._diagonal[..., k] = self._diagonal[..., k].where(~empty, self._diagonal[..., 0])
                rest, norm = rest.where(~ended, 0.0), norm.where(~ended, 1.0)
                self._exhausted = True
            if k + 1 < self._basis.shape[-2]:
                torch.div(rest, norm, out=self._basis[..., k + 1, :])
            self._beside[..., k] = norm.where(~ended, 0.0).squeeze(-1)
            self.steps = k + 1

    def _leaning(self, alpha: Tensor, beta: Tensor, length: Tensor) -> Tensor:
        """Estimates of ``|q_j . q|`` of the next vector q and all before it, (..., k + 1), from numbers alone.

        Simon's recurrence: both ways of writing ``q_j . A q_k`` are equal up to rounding, which is taken at its worst.
        """
        k, (before, now) = self.steps, self._leans
        one, noise = torch.ones_like(alpha), _NOISE * torch.finfo(alpha.dtype).eps * length
        diagonal, beside = self._diagonal[..., :k], self._beside[..., :k]
        carried = (diagonal - alpha).abs() * now
        if k:
            carried = (
                carried
                + (beside * torch.cat((now[..., 1:], one), -1) - beside[..., -1:] * torch.cat((before, one), -1)).abs()
            )
            carried[..., 1:] += beside[..., :-1] * now[..., :-1]
        return torch.cat((carried + noise, noise), -1) / beta.clamp(min=torch.finfo(beta.dtype).tiny)

    def ritz(self) -> Ritz:
        """What has been found so far."""
        diagonal, beside = self._diagonal[..., : self.steps], self._beside[..., : self.steps]
        off = torch.diag_embed(beside[..., :-1], offset=1)
        values, vectors = torch.linalg.eigh(torch.diag_embed(diagonal) + off + off.mT)
        errors = beside[..., -1:] * vectors[..., -1, :].abs()
        return Ritz(values, errors, vectors[..., 0, :].square())


def _products(rows: Tensor, vector: Tensor) -> Tensor:
    """Of each of the rows (..., k, n) with the vector (..., n): (..., k)."""
    if rows.dim() == 2:  # the library's fastest
        return rows.mv(vector)
    return (rows @ vector.unsqueeze(-1)).squeeze(-1)


def _combination(factors: Tensor, rows: Tensor) -> Tensor:
    """The sum of the rows (..., k, n), each times its factor (..., k): (..., n)."""
    return (factors.unsqueeze(-2) @ rows).squeeze(-2)


class Extremes(NamedTuple):
    """The largest and the smallest eigenvalue, (...) each: no absolute values."""

    top: Tensor
    bottom: Tensor
    top_error: Tensor
    """An eigenvalue lies at most this far from ``top``."""
    bottom_error: Tensor
    products: int
    """How many products with vectors it took."""


def extreme_eigenvalues(
    operator: Operator, start: Tensor, *, order: int, tolerance: float = 1e-4, check_every: int = 5
) -> Extremes:
    """Both ends of the spectrum: until each error is at most ``tolerance`` times its eigenvalue, or ``order`` products.

    Args:
        start: a random direction, (..., n); what is orthogonal to it is not seen.
        check_every: after how many products the errors are looked at.

    Raises:
        ValueError: as :class:`Lanczos`.
    """
    process = Lanczos(operator, start, order)
    while True:
        process.advance(check_every)
        values, errors, _ = process.ritz()
        ends = [(values[..., i], errors[..., i]) for i in (-1, 0)]
        done = all(bool((error <= tolerance * value.abs()).all()) for value, error in ends)
        if done or process.steps == order:
            (top, top_error), (bottom, bottom_error) = ends
            return Extremes(top, bottom, top_error, bottom_error, process.steps)


class SpectralDensity(NamedTuple):
    """The share of eigenvalues that lie in a place: ``mean over probes of sum_i weight_i delta(x - node_i)``."""

    nodes: Tensor
    weights: Tensor
    """(probes, order) as the nodes; each probe's sum to 1."""

    def moment(self, k: int) -> Tensor:
        """The mean of the eigenvalues' k-th powers: an estimate without bias for k < 2 order."""
        return (self.weights * torch.pow(self.nodes, k)).sum(-1).mean()

    def smoothed(self, x: Tensor, width: float) -> Tensor:
        """The density at x, (...), every eigenvalue drawn as a Gaussian of this standard deviation."""
        bells = torch.exp(-0.5 * ((x.unsqueeze(-1) - self.nodes.flatten()) / width).square())
        height = self.weights.flatten() / (width * math.sqrt(2 * math.pi))
        return (bells * height).sum(-1) / len(self.nodes)


def spectral_density(operator: Operator, probes: Tensor, *, order: int) -> SpectralDensity:
    """Stochastic Lanczos quadrature: Gauss quadrature of the spectral measure that each probe sees.

    Args:
        operator: of one matrix, (n,) -> (n,).
        probes: (probes, n), independent, with mean zero and covariance the identity: random signs or normal.

    Source: Golub and Welsch 1969; Ubaru, Chen and Saad 2017.

    Raises:
        ValueError: as :class:`Lanczos`.
    """
    found = []
    for probe in probes:
        process = Lanczos(operator, probe, order)
        process.advance(order)
        found.append(process.ritz())
    return SpectralDensity(torch.stack([one.values for one in found]), torch.stack([one.weights for one in found]))
