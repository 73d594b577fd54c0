"""How many polynomials a polynomial network can be: the dimension of its function space, exactly, over a finite field.

    found = dimension((3, 5, 1), power=4)
    found.dimension, found.expected, found.ambient  # 14, 15, 15: a defect of one

Needs numpy and sympy, and no torch.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sympy import isprime

Array = np.ndarray
PRIMES = (2_147_483_629, 2_147_483_587)  # below 2^31, so that a product of two residues is below 2^62
_BYTES = 2**31  # that a Jacobian may take
_SPARE = 4  # points beyond what there must be: a few lose no rank to an unlucky draw


class Dimension(NamedTuple):
    """Of the closure of what a network with all its weights can be."""

    dimension: int
    expected: int
    """``min(ambient, d_h + sum_i (d_{i-1} - 1) d_i)``: parameters but one of each hidden unit, whose scale is free."""
    ambient: int
    """Of all outputs: ``d_h C(D + d_0 - 1, D)`` coefficients, D the degree."""
    parameters: int
    draws: int
    """How many samples of weights and points it took: 1 if the first has all that is expected."""

    @property
    def defect(self) -> int:
        return self.expected - self.dimension

    @property
    def filling(self) -> bool:
        """Whether almost every polynomial (over the complex numbers) is one of the network's."""
        return self.dimension == self.ambient


def dimension(widths: Sequence[int], power: int, *, primes: Sequence[int] = PRIMES, seed: int = 0) -> Dimension:
    """The generic rank of the Jacobian from weights to outputs at points, of
    ``p(x) = W_h rho W_{h-1} ... rho W_1 x``, rho the entrywise power, without biases.

    At random weights and points over GF(p) the rank is at most the dimension, and less with a chance of about degree
    times parameters over p. If it is what is expected, it cannot be larger, and that is proof. If not, it is the
    largest of one draw of weights and points for every prime, with a few points more than the parameters there are, or
    the monomials.

    Args:
        widths: d_0 to d_h, h >= 1.
        power: r >= 1; outputs are forms of degree r^(h-1).
        primes: above the degree, below 2^31.
        seed: of the draws.

    Raises:
        ValueError: a width or power below 1; a prime that is none, not below 2^31, or not above the degree; no prime;
            an architecture whose Jacobian would not fit 2 GiB.

    Source: Kileel, Trager and Bruna 2019, arXiv 1905.12207; the count of points is derived.
    """
    widths = tuple(widths)
    if len(widths) < 2 or any(width < 1 for width in widths):
        raise ValueError(f"widths={widths}: must be at least two, each at least 1")
    if power < 1:
        raise ValueError(f"power={power}: must be at least 1")
    layers = len(widths) - 1
    degree = power ** (layers - 1)
    monomials = math.comb(degree + widths[0] - 1, degree)
    parameters = sum(n * m for n, m in itertools.pairwise(widths))
    ambient = widths[-1] * monomials
    expected = min(ambient, widths[-1] + sum((n - 1) * m for n, m in itertools.pairwise(widths)))
    enough = min(parameters, monomials) + _SPARE  # as if all that differs were in one output
    if (size := 8 * enough * widths[-1] * parameters) > _BYTES:
        raise ValueError(
            f"widths={widths}: a Jacobian of {size / 2**30:,.1f} GiB: must be at most {_BYTES // 2**30} GiB"
        )
    if not primes:
        raise ValueError("primes: must be at least one")
    for prime in primes:
        if not (degree < prime < 2**31 and isprime(prime)):
            raise ValueError(f"primes: {prime}: must be primes above the degree, {degree}, and below 2^31, {2**31}")
    rng = np.random.default_rng(seed)
    few = min(enough, math.ceil(expected / widths[-1]) + _SPARE)
    largest, draws = 0, 0
    for points in dict.fromkeys((few, enough)):
        for prime in primes:
            draws += 1
            weights = [rng.integers(prime, size=(m, n)) for n, m in itertools.pairwise(widths)]
            found = rank(jacobian(weights, rng.integers(prime, size=(points, widths[0])), power, prime), prime)
            largest = max(largest, found)
            if largest == expected:
                return Dimension(largest, expected, ambient, parameters, draws)
    return Dimension(largest, expected, ambient, parameters, draws)


def jacobian(weights: Sequence[Array], points: Array, power: int, prime: int) -> Array:
    """Derivatives of the outputs at the points with respect to all weights, modulo p: (points * d_h, parameters).

    Args:
        weights: W_1 to W_h, (d_i, d_{i-1}) each, residues modulo p.
        points: (points, d_0).
    """
    inputs, slopes, x = [], [], points % prime
    for i, weight in enumerate(weights):
        inputs.append(x)
        x = _product(x, weight.T, prime)  # pre-activations
        if i + 1 < len(weights):
            below = _power(x, power - 1, prime)
            slopes.append(power % prime * below % prime)
            x = below * x % prime
    count, outputs = len(points), len(weights[-1])
    back = np.broadcast_to(
        np.eye(outputs, dtype=np.int64), (count, outputs, outputs)
    )  # of the outputs, by layer's units
    columns: list[Array] = []
    for i in range(len(weights) - 1, -1, -1):
        own = back[:, :, :, None] * inputs[i][:, None, None, :] % prime
        columns.append(own.reshape(count * outputs, -1))
        if i:
            back = _product(back, weights[i], prime) * slopes[i - 1][:, None, :] % prime
    return np.concatenate(columns[::-1], axis=1)


def rank(matrix: Array, prime: int) -> int:
    """Of a matrix of residues modulo a prime below 2^31, by elimination in int64."""
    a, found = np.array(matrix, dtype=np.int64) % prime, 0
    for column in range(a.shape[1]):
        if found == len(a):
            break
        places = np.flatnonzero(a[found:, column])
        if not len(places):
            continue
        pivot = found + int(places[0])
        if pivot != found:
            a[[found, pivot]] = a[[pivot, found]]
        factors = a[found + 1 :, column] * pow(int(a[found, column]), -1, prime) % prime
        rest = a[found + 1 :, column + 1 :]
        rest -= factors[:, None] * a[found, column + 1 :] % prime
        rest %= prime
        found += 1
    return found


def _product(a: Array, b: Array, prime: int) -> Array:
    """``a @ b`` modulo p: each product is reduced before they are added."""
    found: Array = (a[..., :, None] * b % prime).sum(-2) % prime
    return found


def _power(x: Array, exponent: int, prime: int) -> Array:
    """``x^exponent`` modulo p, by squaring."""
    found = np.ones_like(x)
    while exponent:
        if exponent & 1:
            found = found * x % prime
        x, exponent = x * x % prime, exponent >> 1
    return found
