"""Spectra of Jacobians: closed forms, moments, edges, certificates, sampled networks, refusals."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad

from reltrust.theory.lilypads import on_branch, solve
from reltrust.theory.spectra import JacobianSpectrum, hard_tanh_masks


def square(layers: int, mask: float = 1.0) -> JacobianSpectrum:
    return JacobianSpectrum((1,) * (layers + 1), (1.0,) * layers, (mask,) * layers)


UNEVEN = JacobianSpectrum((100, 150, 60, 90, 240), (2.0, 0.7, 1.3, 2.0), (0.5, 1.0, 0.8, 0.5))
HE = JacobianSpectrum((784, 500, 250), (2.0, 2.0), (0.5, 0.5))
DEEP = JacobianSpectrum(tuple(np.linspace(1, 2, 41)), (1.5,) * 40, (0.7,) * 40)


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_one_linear_layer_is_marchenko_pastur(ratio: float) -> None:
    law = JacobianSpectrum((1, ratio), (1.0,), (1.0,))
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    x = np.linspace(low, high, 402)[5:-5]
    exact = np.sqrt((x - low) * (high - x)) / (2 * math.pi * x)
    assert law.density(x) == pytest.approx(exact, abs=1e-8)
    assert law.edges == pytest.approx((low, high), abs=1e-12)
    assert law.mass_at_zero == max(0.0, 1 - ratio)


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_moments_of_square_products_are_fuss_catalan_numbers(layers: int) -> None:
    """By integration of the density, in a variable that takes both edges' roots away."""
    law = square(layers)
    assert law.edges == (0.0, pytest.approx((layers + 1) ** (layers + 1) / layers**layers, rel=1e-12))
    nodes, weights = np.polynomial.legendre.leggauss(400)
    t, power = (nodes + 1) / 2, layers + 1  # density ~ x^(-L/(L+1)) at 0, a root at the right edge
    x = law.edges[1] * (1 - (1 - t) ** 2) ** power
    slope = law.edges[1] * power * (1 - (1 - t) ** 2) ** (power - 1) * 2 * (1 - t)
    mass = law.density(x) * slope * weights / 2
    for k in range(6):
        catalan = math.comb((layers + 1) * k, k) / (layers * k + 1)
        assert float((mass * x**k).sum()) == pytest.approx(catalan, rel=1e-6)


@pytest.mark.parametrize("law", [square(20), UNEVEN, HE, DEEP, square(3, 0.5)])
def test_the_moment_series_has_the_mean_and_solves_its_equation(law: JacobianSpectrum) -> None:
    radius = 3 * law.edges[1]
    z = radius * np.exp(1j * (np.arange(64) + 0.5) * math.pi / 64)
    found = law.moment_series(z)
    assert found.certified.all()
    assert float((found.m * z).real.mean()) == pytest.approx(law.mean, rel=1e-9)
    back = law.scale * (found.m[:, None] + law.offsets).prod(1) / found.m
    assert back == pytest.approx(z, rel=1e-10)
    assert law.mean == pytest.approx(
        math.prod(
            s * p * m / n for s, p, (n, m) in zip(law.variances, law.masks, itertools.pairwise(law.widths), strict=True)
        )
    )


@pytest.mark.parametrize("law", [UNEVEN, HE, square(2), square(5, 0.5)])
def test_the_share_above_is_the_integral_of_the_density(law: JacobianSpectrum) -> None:
    left, right = law.edges
    for x in np.geomspace(max(left, 1e-3 * right) * 1.01, 0.99 * right, 5):
        # t^2 takes the root at the right edge away
        integral, _ = quad(lambda t: 2 * t * float(law.density(right - t * t)), 0, math.sqrt(right - x), limit=200)
        assert float(law.above(x)) == pytest.approx(integral, abs=1e-6)
    assert float(law.above(1.1 * right)) == pytest.approx(0, abs=1e-6)
    if left:
        assert float(law.above(0.9 * left)) == pytest.approx(1 - law.mass_at_zero, abs=1e-6)


def test_quantiles_are_where_their_share_is_and_zero_within_the_mass_at_zero() -> None:
    shares = np.array([0.05, 0.2, 0.5, 0.9, 0.99])
    for law in (UNEVEN, HE, square(20), DEEP):
        found = law.quantiles(shares)
        within = shares > law.mass_at_zero
        assert (found[~within] == 0).all()
        assert 1 - law.above(found[within]) == pytest.approx(shares[within], abs=1e-8)
    assert HE.mass_at_zero == pytest.approx(1 - 250 / 784 / 2)
    assert HE.quantiles([0.0, 1.0]).tolist() == [0.0, HE.edges[1]]


def test_only_ratios_of_widths_count() -> None:
    x = np.linspace(0.1, 1, 7)
    again = JacobianSpectrum((7.84, 5.0, 2.5), HE.variances, HE.masks)
    assert again.density(x) == pytest.approx(HE.density(x), rel=1e-9)


# --- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [square(1), square(20), UNEVEN, HE, DEEP, square(40, 0.5)])
def test_no_point_of_a_sweep_is_left_uncertified(law: JacobianSpectrum) -> None:
    """Across both edges too, where roots meet."""
    left, right = law.edges
    x = np.concatenate([np.geomspace(max(left / 2, 1e-12 * right), 2 * right, 4_000), [right, right * (1 + 1e-12)]])
    found = law.moment_series(x * (1 + 1e-9j))
    assert found.certified.all()
    assert found.hops < 2_000  # over all rounds


def test_the_certificate_tells_the_moment_series_from_every_other_root() -> None:
    for law, z in itertools.product((square(6), UNEVEN, HE), (0.3 + 1e-6j, 1.0 + 0.5j, 2.0 + 1e-3j)):
        # scale prod (m + a) - z m
        polynomial = law.scale * np.poly(-law.offsets).astype(complex)
        polynomial[-2] -= z
        roots = np.roots(polynomial)
        branch = on_branch(law.offsets, roots, np.full(len(roots), z))
        assert branch.sum() == 1
        assert roots[branch][0] == pytest.approx(law.moment_series(np.array([z])).m[0], rel=1e-8)


def test_points_are_solved_in_any_shape_as_each_alone() -> None:
    z = np.array([[0.5 + 1e-3j, 1 + 1j], [3 + 1e-9j, 20 + 1e-9j]])
    together = UNEVEN.moment_series(z)
    assert together.m.shape == together.certified.shape == (2, 2)
    for place in np.ndindex(2, 2):
        assert UNEVEN.moment_series(z[place]).m == pytest.approx(together.m[place], rel=1e-12)


# --- sampled networks ------------------------------------------------------------------------------------------------


def test_unequal_widths_and_masks_are_those_of_sampled_matrices() -> None:
    rng = np.random.default_rng(0)
    widths, masks, variances = (300, 450, 180, 270), (0.5, 1.0, 0.8), (2.0, 0.7, 1.3)
    law = JacobianSpectrum(widths, variances, masks)
    values = []
    for _ in range(4):
        jacobian = np.eye(widths[0])
        for n, m, p, s in zip(widths, widths[1:], masks, variances, strict=False):
            kept = rng.permutation(m) < round(p * m)
            jacobian = kept[:, None] * (rng.normal(size=(m, n)) * math.sqrt(s / n) @ jacobian)
        values.append(np.linalg.eigvalsh(jacobian.T @ jacobian))
    sampled = np.sort(np.concatenate(values))
    positive = sampled[sampled > 1e-12]
    assert len(positive) / len(sampled) == pytest.approx(1 - law.mass_at_zero, abs=2e-3)
    expected = law.above(positive)
    measured = 1 - np.searchsorted(sampled, positive) / len(sampled)
    assert np.abs(measured - expected).max() < 0.01


def test_the_masks_of_hard_tanh_are_those_of_a_wide_network() -> None:
    rng, variances, n = np.random.default_rng(0), [4.0, 2.0, 1.0, 3.0], 4_000
    x = rng.normal(size=n) * math.sqrt(0.7)
    for s, p in zip(variances, hard_tanh_masks(variances, 0.7), strict=True):
        h = rng.normal(size=n) * math.sqrt(s * np.square(x).mean())  # a row of weights times x is normal
        assert np.mean(np.abs(h) < 1) == pytest.approx(p, abs=0.03)
        x = np.clip(h, -1, 1)
    q = 2.5
    exact, _ = quad(lambda h: min(h * h, 1) * math.exp(-h * h / (2 * q)) / math.sqrt(2 * math.pi * q), -np.inf, np.inf)
    assert hard_tanh_masks([q, 1.0], 1.0)[1] == pytest.approx(math.erf(1 / math.sqrt(2 * exact)), abs=1e-8)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HE.moment_series(np.array([1 + 1j, 2 - 1e-9j])), r"z=\(2-1e-09j\): must be finite with an imaginary"),
        (lambda: HE.moment_series(np.array([1.0])), r"z=\(1\+0j\): must be finite with an imaginary part above 0"),
        (lambda: solve(np.ones(2), 1.0, np.array([np.nan + 1j])), "must be finite"),
        (lambda: HE.density(np.array([0.5, 0.0])), "x=0.0: must be finite and above 0"),
        (lambda: HE.density(np.array([0.5]), height=0.0), "height=0.0: must be finite and above 0"),
        (lambda: HE.quantiles([0.5, 1.5]), r"shares=1.5: must be in 0..1"),
        (lambda: JacobianSpectrum((1, 1), (1.0,), (0.0,)), r"masks\[0\]=0.0: must be in \(0, 1\]"),
        (lambda: JacobianSpectrum((1, 1, 1), (1.0, 1.0), (1.0, 1.5)), r"masks\[1\]=1.5: must be in \(0, 1\]"),
        (lambda: JacobianSpectrum((1, 0), (1.0,), (1.0,)), r"widths\[1\]=0: must be finite and above 0"),
        (lambda: JacobianSpectrum((1, 1), (math.inf,), (1.0,)), r"variances\[0\]=inf: must be finite and above 0"),
        (lambda: JacobianSpectrum((1, 1), (1.0, 1.0), (1.0,)), "variances: 2 given, must be 1, one a layer"),
        (lambda: JacobianSpectrum((1,), (), ()), "must be at least two"),
        (lambda: hard_tanh_masks([1.0, -1.0], 1.0), r"variances\[1\]=-1.0: must be finite and above 0"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
