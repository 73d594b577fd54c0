"""Newton's method hop by hop: moment series m = M(z) from ``z(m) = scale prod_k (m + a_k) / m``, each one certified.

From high in the upper half-plane, where m is near 0, a few points walk down to their own z, and others walk from their
neighbours', all at once. A hop to the next place on the way is made only if Kantorovich's test says that Newton's
method, begun at the last place's solution, converges quadratically to a root of the next; otherwise it is halved.

That the root is M(z) does not rest on the way: see :func:`on_branch`.

Source: the hops and their test are those of arXiv 2111.00841; the bound, the order of the sweep and the certificate of
the branch are derived.
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray
_FEW = 16  # points, that walk down from above
_MOST_HOPS = 2_000  # tried; even to within 1e-9 of an edge it is about fifty
_MOST_STEPS = 50  # of Newton at the end, from where it converges quadratically


class Solution(NamedTuple):
    """Moment series at z, each of z's shape."""

    m: Array
    certified: Array
    """Whether, in this arithmetic, a root is proven to be within one more step of Newton, and is M(z)."""
    hops: int
    """How many were tried, each with all points that had not arrived."""


class _Curve:
    """``N(m) = scale prod_k (m + a_k)`` and what Newton's method needs of ``f_z(m) = N(m)/z - m``."""

    def __init__(self, offsets: Array, scale: float) -> None:
        self.offsets, self.counts = np.unique(np.asarray(offsets, dtype=float), return_counts=True)
        self.scale = scale

    def __call__(self, m: Array) -> tuple[Array, Array]:
        """N(m) and N'(m)."""
        away = m[:, None] + self.offsets
        value = self.scale * (away**self.counts).prod(1)
        return value, value * (self.counts / away).sum(1)

    def in_basin(self, center: Array, radius: Array, inverse: Array, z: Array) -> Array:
        """Kantorovich's test: ``|h| K / |f'| < 1/2``, K a bound of |f''| on the disc around m + h of radius |h|.

        There ``|N''| <= scale sum_{i != j} prod_{k != i, j} b_k`` with ``b_k = |m + h + a_k| + |h|``.
        """
        bounds = np.abs(center[:, None] + self.offsets) + radius[:, None]
        powers = (bounds**self.counts).prod(1) * (self.scale / np.abs(z))
        curvature = powers * ((self.counts / bounds).sum(1) ** 2 - (self.counts / bounds**2).sum(1))
        found: Array = radius * curvature * np.abs(inverse) < 0.5
        return found

    def rounding(self, m: Array) -> Array:
        """What f_z(m) may be wrong by at its root, where N(m)/z = m."""
        size = np.abs(m)[:, None]
        relative = (self.counts * (1 + (size + self.offsets) / np.abs(m[:, None] + self.offsets))).sum(1)
        found: Array = np.finfo(float).eps * np.abs(m) * relative
        return found


def solve(offsets: Array, scale: float, z: Array) -> Solution:
    """``M(z)``, the analytic root of ``z(m) = z`` in the upper half-plane that is 0 at infinity.

    Args:
        offsets: a_k > 0, (k,) with k >= 2.
        scale: above 0.
        z: complex, of any shape, with positive imaginary parts.

    Raises:
        ValueError: a z that is not above the real axis, or not finite.
    """
    z = np.asarray(z, dtype=complex)
    target = z.ravel()
    if (wrong := ~((target.imag > 0) & np.isfinite(target))).any():
        raise ValueError(f"z={target[wrong.argmax()]}: must be finite with an imaginary part above 0")
    curve, order = _Curve(offsets, scale), np.argsort(target.real, kind="stable")
    m = np.empty_like(target)
    m[order], hops = _sweep(curve, target[order])
    m, proven = _polish(curve, m, target)
    certified = proven & on_branch(offsets, m, target)
    return Solution(m.reshape(z.shape), certified.reshape(z.shape), hops)


def on_branch(offsets: Array, m: Array, z: Array) -> Array:
    """Whether roots m of ``z(m) = z`` are the moment series: ``Im m < 0`` and ``sum_k arg(m + a_k) - arg m = arg z``.

    The arguments are those in (-pi, 0); other roots in the lower half-plane miss the sum by a multiple of 2 pi.
    No two roots have it: ``log N(m) - log m`` is harmonic in its imaginary part, which on the real axis is 0 for m > 0,
    pi on (-min a, 0) and at most 0 below. So {Im > 0} is one bounded region, and maps onto the strip 0 < Im < pi
    with the degree that it has near m = 0, which is one.
    """
    turned = np.angle(m[:, None] + np.asarray(offsets)).sum(1) - np.angle(m) - np.angle(z)
    found: Array = (m.imag < 0) & (np.abs(turned) < 1)
    return found


def _newton(value: Array, slope: Array, m: Array, z: Array) -> tuple[Array, Array]:
    """The step ``h = -f/f'`` and ``1/f'``."""
    inverse = 1 / (slope / z - 1)
    return (m - value / z) * inverse, inverse


def _sweep(curve: _Curve, target: Array) -> tuple[Array, int]:
    """Starts of Newton's method that converge to the moment series at the targets, in order, and the number of hops.

    Every fourth point is solved first, by the same rule, and the others walk from there; a few walk down from above.
    """
    if len(target) <= _FEW:
        return _walk(curve, target, *_above(curve, target))
    coarse, hops = _sweep(curve, target[::4])
    m, more = _walk(curve, target, np.repeat(target[::4], 4)[: len(target)], np.repeat(coarse, 4)[: len(target)])
    return m, hops + more


def _above(curve: _Curve, target: Array) -> tuple[Array, Array]:
    """Places over the targets from which m = 0 is in the basin, and m there."""
    m = np.zeros_like(target)
    value, slope = curve(m)
    height = np.maximum(target.imag, np.abs(target.real))
    while True:
        place = target.real + 1j * height
        h, inverse = _newton(value, slope, m, place)
        if (ready := curve.in_basin(m + h, np.abs(h), inverse, place)).all():
            return place, m + h
        height = np.where(ready, height, 2 * height)


def _walk(curve: _Curve, target: Array, place: Array, m: Array) -> tuple[Array, int]:
    """From solutions m of other places to the targets, in hops that Kantorovich's test allows."""
    found, share = m.copy(), np.ones(len(m))  # of what is left of the way
    left, hops = np.flatnonzero(place != target), 0
    m, place, share = m[left], place[left], share[left]
    value, slope = curve(m)
    while len(left) and hops < _MOST_HOPS:
        hops += 1
        trial = np.where(share == 1, target[left], place + share * (target[left] - place))
        h, inverse = _newton(value, slope, m, trial)
        ready = curve.in_basin(m + h, np.abs(h), inverse, trial)
        share = np.where(ready, np.minimum(1, 4 * share), share / 2)
        moved = np.flatnonzero(ready)
        if len(moved):
            nearer = m[moved] + h[moved]
            h, _ = _newton(*curve(nearer), nearer, trial[moved])
            m[moved], place[moved] = nearer + h, trial[moved]
            found[left] = m
            keep = place != target[left]
            moved = moved[keep[moved]]
            value[moved], slope[moved] = curve(m[moved])
            left, m, place, value, slope, share = (x[keep] for x in (left, m, place, value, slope, share))
    return found, hops


def _polish(curve: _Curve, m: Array, z: Array) -> tuple[Array, Array]:
    """Newton's method until what is left of f is rounding; and whether a root is proven to be within one more step."""
    for _ in range(_MOST_STEPS):
        value, slope = curve(m)
        h, inverse = _newton(value, slope, m, z)
        if (np.abs(m - value / z) <= 4 * curve.rounding(m)).all():
            break
        m = m + h
    return m, curve.in_basin(m + h, np.abs(h), inverse, z)
