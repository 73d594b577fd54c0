"""Dimensions of polynomial networks: closed forms, primes and samples, the Jacobian against sympy, refusals."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import sympy

from reltrust.theory.algebra import PRIMES, dimension, jacobian, rank

# --- closed forms ----------------------------------------------------------------------------------------------------


def test_linear_networks_are_matrices_of_bounded_rank() -> None:
    for widths in itertools.product(range(1, 6), repeat=3):
        k = min(widths)
        assert dimension(widths, 1).dimension == k * (widths[0] + widths[2] - k), widths
    for widths in ((4, 2, 5, 3), (3, 4, 2, 5, 4)):
        assert dimension(widths, 1).dimension == 2 * (widths[0] + widths[-1] - 2)


def test_sums_of_squares_are_quadratic_forms_of_bounded_rank() -> None:
    for d0 in range(1, 8):
        for d1 in range(1, d0 + 1):
            assert dimension((d0, d1, 1), 2).dimension == d0 * d1 - math.comb(d1, 2), (d0, d1)
        assert dimension((d0, d0 + 2, 1), 2).filling


@pytest.mark.parametrize("power", [3, 4, 5])
def test_sums_of_higher_powers_are_as_alexander_and_hirschowitz_say(power: int) -> None:
    exceptions = {(3, 5, 4), (4, 9, 4), (5, 14, 4), (5, 7, 3)}
    for d0, d1 in itertools.chain(itertools.product(range(1, 5), range(1, 10)), [(5, 7)]):
        ambient = math.comb(power + d0 - 1, power)
        exact = min(d0 * d1, ambient) - ((d0, d1, power) in exceptions)
        assert dimension((d0, d1, 1), power).dimension == exact, (d0, d1)


def test_three_five_one_of_fourth_powers_is_fourteen_and_not_fifteen() -> None:
    found = dimension((3, 5, 1), 4)
    assert (found.dimension, found.expected, found.ambient, found.defect) == (14, 15, 15, 1)
    assert not found.filling
    assert dimension((5, 14, 1), 4).defect == 1


def test_for_high_powers_the_expected_dimension_is_attained() -> None:
    assert [dimension((2, 2, 3, 1), power).defect for power in (3, 4, 5, 6)] == [2, 1, 0, 0]
    # Four powers of forms in two variables: 8 parameters, and such forms of degree r have r + 1 coefficients.
    assert [dimension((3, 2, 4, 1), power).defect for power in (5, 6, 7, 8)] == [2, 1, 0, 0]
    for widths in ((3, 4, 3), (2, 3, 3, 2)):
        found = dimension(widths, 6)
        assert found.defect == 0
        assert found.draws == 1  # which is proof


def test_a_network_without_hidden_layers_is_all_linear_maps() -> None:
    found = dimension((4, 3), 5)
    assert (found.dimension, found.ambient, found.parameters, found.filling) == (12, 12, 12, True)


# --- the rank --------------------------------------------------------------------------------------------------------


def test_the_rank_is_the_same_for_every_prime_and_every_sample() -> None:
    for widths, power in (((3, 5, 1), 4), ((2, 3, 2, 1), 2), ((3, 3, 3), 1), ((4, 3, 3, 2), 2)):
        found = {
            dimension(widths, power, primes=(prime,), seed=seed).dimension
            for prime in (*PRIMES, 1_000_003, 65_537)
            for seed in range(4)
        }
        assert len(found) == 1, (widths, found)


def test_the_rank_by_elimination_is_that_of_factors_and_of_sympy() -> None:
    rng = np.random.default_rng(0)
    for p in (PRIMES[0], 101):
        for k in (1, 3, 7):
            factors = rng.integers(p, size=(12, k)), rng.integers(p, size=(k, 9))
            product = (factors[0][:, :, None] * factors[1][None] % p).sum(1) % p
            assert rank(product, p) == k
    small = rng.integers(-3, 4, size=(6, 8))
    small[4] = small[0] + 2 * small[1]
    assert rank(small, PRIMES[0]) == sympy.Matrix(small).rank() == 5
    assert rank(np.zeros((3, 4), dtype=np.int64), 7) == 0


@pytest.mark.parametrize(("widths", "power"), [((2, 2, 1), 2), ((2, 2, 2), 3), ((2, 2, 1, 2), 2), ((1, 2, 1), 4)])
def test_the_jacobian_is_that_of_sympy(widths: tuple[int, ...], power: int) -> None:
    """Derivatives of the polynomials themselves, at integer weights and points."""
    rng, prime = np.random.default_rng(1), PRIMES[0]
    values = [rng.integers(-5, 6, size=(m, n)) for n, m in itertools.pairwise(widths)]
    points = rng.integers(-5, 6, size=(3, widths[0]))
    symbols = [
        sympy.Matrix(*w.shape, lambda i, j, k=k: sympy.Symbol(f"w{k}_{i}_{j}"))  # type: ignore[misc]
        for k, w in enumerate(values)
    ]
    flat = [symbol for matrix in symbols for symbol in matrix]
    at = dict(zip(flat, (int(v) for w in values for v in w.flatten()), strict=True))
    rows = []
    for point in points:
        x = sympy.Matrix([int(v) for v in point])
        for i, matrix in enumerate(symbols):
            x = matrix * x
            if i + 1 < len(symbols):
                x = x.applyfunc(lambda entry: entry**power)
        rows += [[int(out.diff(symbol).subs(at)) % prime for symbol in flat] for out in x]
    assert jacobian([w % prime for w in values], points % prime, power, prime).tolist() == rows


def test_the_rank_of_coefficients_is_that_at_points() -> None:
    """By sympy, over the rational numbers, from all coefficients of the polynomials."""
    widths, power = (2, 3, 1, 1), 2
    rng = np.random.default_rng(0)
    names = [sympy.symbols(f"w{k}_:{m * n}") for k, (n, m) in enumerate(itertools.pairwise(widths))]
    x = sympy.Matrix(sympy.symbols("x:2"))
    variables = list(x)
    for i, (own, (n, m)) in enumerate(zip(names, itertools.pairwise(widths), strict=True)):
        x = sympy.Matrix(m, n, own) * x
        if i + 2 < len(widths):
            x = x.applyfunc(lambda entry: entry**power)
    flat = [symbol for own in names for symbol in own]
    coefficients = sympy.Poly(sympy.expand(x[0]), *variables).coeffs()
    at = {symbol: int(v) for symbol, v in zip(flat, rng.integers(-9, 10, size=len(flat)), strict=True)}
    matrix = sympy.Matrix([[c.diff(symbol).subs(at) for symbol in flat] for c in coefficients])
    assert dimension(widths, power).dimension == matrix.rank()


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dimension((3,), 2), r"widths=\(3,\): must be at least two, each at least 1"),
        (lambda: dimension((3, 0, 1), 2), r"widths=\(3, 0, 1\): must be at least two, each at least 1"),
        (lambda: dimension((3, 2, 1), 0), "power=0: must be at least 1"),
        (lambda: dimension((200, 200, 200), 2), r"widths=\(200, 200, 200\): a Jacobian of .*: must be at most 2 GiB"),
        (lambda: dimension((2, 2, 1), 2, primes=(2**31 + 11,)), "must be primes above the degree, 2, and below 2.31"),
        (lambda: dimension((2, 2, 1), 2, primes=(91,)), "primes: 91: must be primes"),
        (lambda: dimension((2, 2, 2, 1), 7, primes=(47,)), "primes: 47: must be primes above the degree, 49"),
        (lambda: dimension((2, 2, 1), 2, primes=()), "primes: must be at least one"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
