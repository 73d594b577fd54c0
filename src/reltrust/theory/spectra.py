"""The spectrum of a random network's Jacobian in infinite width, by free probability.

    law = JacobianSpectrum(widths=(784, 500, 250), variances=(2.0, 2.0), masks=(0.5, 0.5))  # He's initialisation, ReLU
    law.density(x), law.quantiles([0.5, 0.9]), law.mass_at_zero, law.edges

``J = D_L W_L ... D_1 W_1``, W_l of N_l x N_{l-1} independent entries of variance s_l/N_{l-1}, D_l diagonal with entries
1 with probability p_l and 0 otherwise, free of the weights. Needs numpy and scipy, and no torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq, elementwise

from reltrust.theory.lilypads import Solution, solve

Array = np.ndarray
_HEIGHT = 1e-9  # over the real axis, relative to the distance from 0
_TOGETHER = 1e-12  # offsets that differ by less, relatively, are equal


@dataclass(frozen=True)
class JacobianSpectrum:
    """The limit of the distribution of the eigenvalues of ``J^T J``, squared singular values, when all widths grow.

    Its moment series ``M(z) = z G(z) - 1 = sum_k E[x^k]/z^k`` has the inverse
    ``z(m) = ((m + 1)/m) prod_l s_l (N_l/N_{l-1}) (N_0/N_l m + p_l)``, that is ``scale prod_k (m + a_k) / m`` with
    a_0 = 1 and ``a_l = p_l N_l/N_0``. Between its edges the distribution has a density, and beside that, if
    ``min a < 1``, a mass of ``1 - min a`` at zero.

    Args:
        widths: N_0 to N_L; only their ratios count.
        variances: s_1 to s_L, the variance of an entry of W_l times its fan-in N_{l-1}.
        masks: p_1 to p_L. 1 of a linear layer, 1/2 of a ReLU's; of hard tanh see :func:`hard_tanh_masks`.

    Raises:
        ValueError: other lengths; a width or variance that is not finite and above 0; a mask outside (0, 1].

    Source: arXiv 2111.00841, its theorem on the S-transform of ``J^T J``; edges, mass and the function H are derived.
    """

    widths: Sequence[float]
    variances: Sequence[float]
    masks: Sequence[float]

    def __post_init__(self) -> None:
        layers = len(self.widths) - 1
        if layers < 1:
            raise ValueError(f"widths={tuple(self.widths)}: must be at least two, of the input and of one layer")
        for name in ("variances", "masks"):
            if (given := len(getattr(self, name))) != layers:
                raise ValueError(f"{name}: {given} given, must be {layers}, one a layer")
        for name in ("widths", "variances"):
            for i, value in enumerate(getattr(self, name)):
                if not (math.isfinite(value) and value > 0):
                    raise ValueError(f"{name}[{i}]={value}: must be finite and above 0")
        for i, value in enumerate(self.masks):
            if not 0 < value <= 1:
                raise ValueError(f"masks[{i}]={value}: must be in (0, 1]")

    @cached_property
    def offsets(self) -> Array:
        """a_0 to a_L, (L + 1,)."""
        return np.array([1.0, *(p * n / self.widths[0] for p, n in zip(self.masks, self.widths[1:], strict=True))])

    @cached_property
    def scale(self) -> float:
        return math.prod(s * self.widths[0] / n for s, n in zip(self.variances, self.widths, strict=False))

    @property
    def mean(self) -> float:
        """``prod_l s_l p_l N_l/N_{l-1}``."""
        return self.scale * float(self.offsets.prod())

    @property
    def mass_at_zero(self) -> float:
        return 1 - float(self.offsets.min())

    @cached_property
    def edges(self) -> tuple[float, float]:
        """The least and the largest x with a density: critical values of z(m), where ``sum_k 1/(m + a_k) = 1/m``.

        The right one is that of the m > 0, the left one that between the two smallest offsets' negatives; if these are
        equal, it is 0.
        """
        a = np.sort(self.offsets)

        def critical(m: float) -> float:
            return float((m / (m + a)).sum()) - 1

        right = brentq(critical, 0.99 / (1 / a).sum(), 1.01 * a[-1] / (len(a) - 1), xtol=1e-300, rtol=1e-14)
        if a[1] - a[0] <= _TOGETHER * a[1]:
            return 0.0, self._z(right)
        # m = -(a_0 + t): relative to t, so that offsets may be near each other.
        gap = a[1] - a[0]

        def below(t: float) -> float:
            others = (1 / (a[1:] - a[0] - t)).sum()
            return float((a[0] + t) * (1 / t - others)) - 1

        left = brentq(below, 1e-14 * gap, (1 - 1e-14) * gap, xtol=1e-300, rtol=1e-14)
        return self._z(-(a[0] + left)), self._z(right)

    def _z(self, m: float) -> float:
        return self.scale * float((m + self.offsets).prod() / m)

    def moment_series(self, z: Array) -> Solution:
        """M(z) at complex z above the real axis, of any shape, each certified or not.

        Raises:
            ValueError: a z that is not above the real axis, or not finite.
        """
        return solve(self.offsets, self.scale, z)

    def density(self, x: Array, *, height: float = _HEIGHT) -> Array:
        """``-Im G(z)/pi`` at ``z = x (1 + i height)``; without the mass at zero.

        Args:
            x: above 0, of any shape.

        Raises:
            ValueError: an x or a height that is not finite and above 0.
            ArithmeticError: a point could not be certified.
        """
        z, m = self._near_the_axis(x, height)
        return np.asarray(-((m + 1) / z).imag / math.pi)

    def above(self, x: Array) -> Array:
        """The share of eigenvalues above x > 0: ``Im H(m)/pi`` just over the axis, with
        ``H(m) = L m + sum_k (1 - a_k) log(m + a_k) - log m``, whose derivative along z is G.

        Raises:
            ValueError, ArithmeticError: as :meth:`density`.
        """
        _, m = self._near_the_axis(x, _HEIGHT)
        logs = ((1 - self.offsets) * np.log(m[..., None] + self.offsets)).sum(-1)
        grown = (len(self.offsets) - 1) * m + logs - np.log(m)
        return np.asarray(np.clip(grown.imag / math.pi, 0, 1 - self.mass_at_zero))

    def quantiles(self, shares: Sequence[float] | Array) -> Array:
        """The least x that at least such shares of eigenvalues do not exceed, (n,).

        Args:
            shares: in 0..1.

        Raises:
            ValueError: a share outside 0..1.
            ArithmeticError: a point could not be certified.
        """
        wanted = np.asarray(shares, dtype=float)
        if (wrong := ~((wanted >= 0) & (wanted <= 1))).any():
            raise ValueError(f"shares={wanted[wrong][0]}: must be in 0..1")
        found = np.where(wanted == 1, self.edges[1], 0.0)
        within = (wanted > self.mass_at_zero) & (wanted < 1)
        rest = 1 - wanted[within]
        high = np.full(len(rest), math.log(self.edges[1]))
        low = high - 1
        while len(short := np.flatnonzero(self.above(np.exp(low)) < rest)):
            low[short] -= (high[short] - low[short]) / 2  # in small steps: far down doubles cannot tell roots apart
        # A root exists between them: the share above falls from one to the other.
        found[within] = np.exp(
            elementwise.find_root(lambda t, share: self.above(np.exp(t)) - share, (low, high), args=(rest,)).x
        )
        return found

    def _near_the_axis(self, x: Array, height: float) -> tuple[Array, Array]:
        x = np.asarray(x, dtype=float)
        if not (np.isfinite(x) & (x > 0)).all():
            raise ValueError(f"x={x[~(np.isfinite(x) & (x > 0))].flat[0]}: must be finite and above 0")
        if not (math.isfinite(height) and height > 0):
            raise ValueError(f"height={height}: must be finite and above 0")
        z = x * (1 + 1j * height)
        found = self.moment_series(z)
        if not found.certified.all():
            raise ArithmeticError(f"x={x[~found.certified].flat[0]}: the moment series could not be certified there")
        return z, found.m


def hard_tanh_masks(variances: Sequence[float], mean_square: float) -> list[float]:
    """The share of units of each layer that hard tanh lets through: ``p_l = P(|h| < 1) = erf(1/sqrt(2 q_l))``.

    ``h ~ N(0, q_l)``, ``q_1 = s_1 mean_square`` and ``q_{l+1} = s_{l+1} E[clip(h, -1, 1)^2]``, where
    ``E[clip(h)^2] = q (p - 2 b phi(b)) + P(|h| > 1)`` with ``b = 1/sqrt(q)`` and phi the standard normal density; the
    last term, the saturated units, belongs to it.

    Args:
        variances: s_1 to s_L, the variance of an entry of W_l times its fan-in.
        mean_square: of the input's entries, |x|^2/N_0.

    Raises:
        ValueError: a variance or mean square that is not finite and above 0.
    """
    given = {"mean_square": mean_square, **{f"variances[{i}]": s for i, s in enumerate(variances)}}
    for name, value in given.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value}: must be finite and above 0")
    masks, passed = [], mean_square
    for s in variances:
        q = s * passed
        b = 1 / math.sqrt(q)
        p = math.erf(b / math.sqrt(2))
        bell = math.exp(-b * b / 2) / math.sqrt(2 * math.pi)
        passed = q * (p - 2 * b * bell) + (1 - p)
        masks.append(p)
    return masks
