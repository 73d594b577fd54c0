r"""Nystrom layers: kernels between the features of an example and those of landmarks, times a learned matrix.

Of landmarks l_1, ..., l_m with the kernel matrix K_11 among themselves, Nystrom's approximation of a kernel is
:math:`k(x, y) \approx k(x, l) K_{11}^{+} k(l, y)` (Williams and Seeger, NIPS 2000): the inner product of
:math:`\phi(x) = k(x, l) K_{11}^{+1/2}`. The adaptive layer of arXiv 1911.13036 learns a matrix W in the place of the
root.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kernel = Callable[[Tensor, Tensor], Tensor]
"""From x (..., n, d) and y (..., m, d) to k(x_i, y_j), (..., n, m)."""
Init = Literal["root", "random"]
_CHUNK = 2**17  # numbers that a pass over pairs of examples holds at a time: they stay in the cache


class NystromLayer(nn.Module):
    r"""From images to :math:`\phi(x) = [k(f(x), f(l_1)), ..., k(f(x), f(l_m))] W`, f the features as they are now.

    The landmarks pass through f together with the images at every call, so that f learns from both of their sides.
    Features are normalised to length 1 first. Of several kernels each has a W of its own, and what they give is
    concatenated: with roots for W the inner product is that of the sum of their kernels.

    Args:
        landmarks: (m, ...), what ``features`` takes; kept in the state dict. They are training examples.
        features: f, a module to vectors (n, d); None: x and landmarks are vectors themselves. With batch normalisation
            in it the landmarks are part of each batch.
        kernel: ``"linear"``, ``"rbf"``, ``"chi2"``, ``"exp_chi2"``, a function as :data:`Kernel`, or several of these.
        gamma: of ``rbf`` and ``exp_chi2``, above 0.
        out_features: m', the columns of each W; None: m.
        init: ``"root"``: W begins as the pseudo-inverse root of K_11, of the m' largest eigenvalues if m' is less than
            m; ``"random"``: uniform in +-1/sqrt(m), as ``nn.Linear`` would.
        adaptive: whether W is learned. If not, W is at every call the pseudo-inverse root of the present K_11, without
            a gradient of its own: the plain Nystrom approximation, with nothing to learn.

    Raises:
        ValueError: an unknown kernel, a gamma that is not above 0, no landmarks, a wrong m', landmarks' features that
            are not finite; there and in a call, features below 0 where the kernel is one of histograms (``chi2``,
            ``exp_chi2``).

    Source: arXiv 1911.13036.
    """

    def __init__(
        self,
        landmarks: Tensor,
        features: nn.Module | None = None,
        *,
        kernel: str | Kernel | Sequence[str | Kernel] = "rbf",
        gamma: float = 1.0,
        out_features: int | None = None,
        init: Init = "root",
        adaptive: bool = True,
    ) -> None:
        super().__init__()
        m, given = len(landmarks), [kernel] if isinstance(kernel, str) or callable(kernel) else list(kernel)
        if m == 0:
            raise ValueError("landmarks: must be at least one example")
        if not given:
            raise ValueError("kernel: must be at least one")
        columns = m if out_features is None else out_features
        most = m if init == "root" or not adaptive else None
        if columns < 1 or (most is not None and columns > most):
            allowed = "at least 1" if most is None else f"between 1 and the {m} landmarks, whose root W is"
            raise ValueError(f"out_features={columns}: must be {allowed}")
        self.kernels = [kernel_of(one, gamma) for one in given]
        self.features = nn.Identity() if features is None else features
        self._histograms = any(getattr(one, "func", one) in HISTOGRAMS for one in self.kernels)
        self._columns, self.out_features = columns, columns * len(given)
        self.register_buffer("landmarks", landmarks)
        self.weights = nn.ParameterList()
        if adaptive:
            with torch.no_grad():
                y = self.features(landmarks)
                if not bool(y.isfinite().all()):
                    raise ValueError("landmarks: their features must be finite numbers")
                self._check(y)
                y = F.normalize(y, dim=-1)
                for one in self.kernels:
                    if init == "root":
                        weight = inverse_root(one(y, y), columns)
                    else:
                        weight = y.new_empty(m, columns).uniform_(-(m**-0.5), m**-0.5)
                    self.weights.append(nn.Parameter(weight))

    def forward(self, x: Tensor) -> Tensor:  # (n, ...) -> (n, out_features)
        assert isinstance(self.landmarks, Tensor)
        together = self.features(torch.cat((x, self.landmarks)))
        self._check(together)
        weights = list(self.weights) if len(self.weights) else None
        return nystrom_features(together, len(x), self.kernels, weights, self._columns)

    def _check(self, features: Tensor) -> None:
        # A compiled graph cannot look at numbers.
        if self._histograms and not torch.compiler.is_compiling() and (least := float(features.detach().min())) < 0:
            raise ValueError(f"features: the least is {least:g}: must be at least 0 under chi2 kernels")


def nystrom_features(
    together: Tensor, n: int, kernels: Sequence[Kernel], weights: Sequence[Tensor] | None, columns: int
) -> Tensor:
    """phi (..., n, q m') of q kernels from the features of n examples and, after them, m landmarks: (..., n + m, d).

    In float32 at least: what of a kernel matrix is rounding is told by the rounding of its numbers.

    Args:
        weights: W of each kernel, (..., m, m'); None: the roots of the present kernel matrices.
        columns: m'.
    """
    with torch.autocast(together.device.type, enabled=False):
        together = together.to(torch.promote_types(together.dtype, torch.float32))
        x, y = F.normalize(together, dim=-1).split((n, together.shape[-2] - n), dim=-2)
        found = []
        for number, kernel in enumerate(kernels):
            if weights is None:
                with torch.no_grad():
                    weight = inverse_root(kernel(y, y), columns)
            else:
                weight = weights[number]
            found.append(kernel(x, y) @ weight)
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def inverse_root(matrix: Tensor, columns: int) -> Tensor:
    r"""The pseudo-inverse root :math:`U \Lambda^{-1/2} U^T` of positive semidefinite matrices (..., m, m) or, of fewer
    than m ``columns``, :math:`U' \Lambda'^{-1/2}` of that many largest eigenvalues, (..., m, columns).

    Eigenvalues up to m times the rounding of the largest count as 0. Computed in float64. NaN where one is not finite.
    """
    m = matrix.shape[-1]
    finite = matrix.isfinite().all(-1).all(-1)[..., None, None]  # of others there are no eigenvalues: LAPACK raises
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix.double(), 0.0))
    least = values[..., -1:] * m * torch.finfo(matrix.dtype).eps
    scales = torch.where(values > least, values.clamp(min=1e-300).rsqrt(), 0.0)
    scaled = vectors * scales.unsqueeze(-2)
    root = scaled @ vectors.mT if columns == m else scaled[..., -columns:].flip(-1)
    found: Tensor = torch.where(finite, root, torch.nan).to(matrix.dtype)
    return found


# --- kernels ---------------------------------------------------------------------------------------------------------


def linear(x: Tensor, y: Tensor) -> Tensor:
    """x . y"""
    products: Tensor = x @ y.mT
    return products


def rbf(x: Tensor, y: Tensor, gamma: float = 1.0) -> Tensor:
    """exp(-gamma |x - y|^2)"""
    squared = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2) - 2 * linear(x, y)
    return torch.exp(-gamma * squared.clamp(min=0))


def chi2(x: Tensor, y: Tensor) -> Tensor:
    """sum 2 x y / (x + y) over features from 0 on, with 0/0 = 0: positive semidefinite."""
    if x.shape[:-2] != y.shape[:-2]:
        batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        x, y = x.expand(*batch, *x.shape[-2:]), y.expand(*batch, *y.shape[-2:])
    found: Tensor = _Chi2.apply(x, y)
    return found


def exp_chi2(x: Tensor, y: Tensor, gamma: float = 1.0) -> Tensor:
    """exp(-gamma sum (x - y)^2 / (x + y)) over features from 0 on, with 0/0 = 0."""
    # (x - y)^2 / (x + y) = x + y - 4 x y / (x + y)
    apart = x.sum(-1).unsqueeze(-1) + y.sum(-1).unsqueeze(-2) - 2 * chi2(x, y)
    return torch.exp(-gamma * apart.clamp(min=0))


KERNELS: dict[str, Callable[..., Tensor]] = {"linear": linear, "rbf": rbf, "chi2": chi2, "exp_chi2": exp_chi2}
HISTOGRAMS = (chi2, exp_chi2)  # those of features from 0 on


def kernel_of(kernel: str | Kernel, gamma: float) -> Kernel:
    """The kernel of this name with this gamma, if it has one; a function is one already.

    Raises:
        ValueError: there is none of this name, or gamma is not above 0.
    """
    if not isinstance(kernel, str):
        return kernel
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel}: must be one of {', '.join(KERNELS)}, or a function")
    if not gamma > 0:
        raise ValueError(f"gamma={gamma}: must be above 0")
    return partial(KERNELS[kernel], gamma=gamma) if kernel in ("rbf", "exp_chi2") else KERNELS[kernel]


class _Chi2(torch.autograd.Function):
    """Of x (..., n, d) and y (..., m, d). Nothing of the size n m d is kept, nor ever there as a whole."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        out = x.new_empty(*x.shape[:-1], y.shape[-2])
        flat = out.view(-1, *out.shape[-2:])
        for part, rows, own, others, sums in _pairs(x, y):
            flat[part, rows] = torch.div(others, sums, out=sums).mul_(own).sum(-1)
        return out.mul_(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        grad = 2 * grads[0].reshape(-1, *grads[0].shape[-2:])
        x_grad, y_grad = x.new_empty(len(grad), *x.shape[-2:]), y.new_zeros(len(grad), *y.shape[-2:])
        for part, rows, own, others, sums in _pairs(x, y):
            # Derivatives of x y / (x + y): (y / (x + y))^2 and (x / (x + y))^2.
            inverse, weight = sums.reciprocal_(), grad[part, rows].unsqueeze(-1)  # (b, n, m, 1)
            x_grad[part, rows] = (inverse * others).square_().mul_(weight).sum(2)
            y_grad[part].add_(inverse.mul_(own).square_().mul_(weight).sum(1))
        return x_grad.view_as(x), y_grad.view_as(y)


def _pairs(x: Tensor, y: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
    """A chunk of pairs: which members and which of their rows, these (b, n, 1, d), all of y (b, 1, m, d), their sums.

    The sums (b, n, m, d) are new, and above 0 by a number that is lost in any other.
    """
    x, y = x.reshape(-1, *x.shape[-2:]), y.reshape(-1, *y.shape[-2:])
    (count, n, d), m = x.shape, y.shape[1]
    above = x + torch.finfo(x.dtype).tiny
    rows = max(1, min(n, _CHUNK // max(1, m * d)))
    members = max(1, _CHUNK // max(1, n * m * d)) if rows == n else 1
    for first in range(0, count, members):
        for start in range(0, n, rows):
            part, some = slice(first, first + members), slice(start, start + rows)
            others = y[part].unsqueeze(1)
            yield part, some, x[part, some].unsqueeze(2), others, above[part, some].unsqueeze(2) + others
