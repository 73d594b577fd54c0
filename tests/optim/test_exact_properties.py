"""What follows exactly from the equations of Fromage, LARS, Madam and signSGD, whatever the numbers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reltrust.optim import LARS, Fromage, Madam, SignSGD

few = settings(deadline=None, max_examples=15, derandomize=True, database=None)
seeds = st.integers(0, 2**31)
shapes = st.sampled_from([(7,), (3, 4), (2, 3, 2), (1,), ()])
factors = st.floats(1e-3, 1e3)
etas = st.floats(1e-4, 0.5)

BOTH = pytest.mark.parametrize("optimizer", [Fromage, LARS])


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Normal numbers without any that is close to zero, in float64."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x + 0.01 * torch.where(x < 0, -1.0, 1.0)


def normals(shape: tuple[int, ...], seed: int, count: int) -> list[Tensor]:
    return [normal(shape, seed + i) for i in range(count)]


def trajectory(
    optimizer: Callable[..., torch.optim.Optimizer], w: Tensor, gradients: list[Tensor], **arguments: Any
) -> list[Tensor]:
    """The weights after each step."""
    p = w.clone().requires_grad_()
    opt = optimizer([p], **arguments)
    weights = []
    for g in gradients:
        p.grad = g.clone()
        opt.step()
        weights.append(p.detach().clone())
    return weights


def one_step(optimizer: Callable[..., torch.optim.Optimizer], w: Tensor, g: Tensor, **arguments: Any) -> Tensor:
    return trajectory(optimizer, w, [g], **arguments)[0]


def norm(x: Tensor) -> float:
    return math.sqrt(float((x * x).sum()))


def orthogonal_to(w: Tensor, g: Tensor) -> Tensor:
    """What is left of ``g`` without its part along ``w``."""
    for _ in range(2):  # the second time for what rounding left
        g = g - w * ((g * w).sum() / (w * w).sum())
    return g


def angle(x: Tensor, y: Tensor) -> float:
    x, y = x / norm(x), y / norm(y)
    return 2 * math.atan2(norm(x - y), norm(x + y))


# --- Fromage and LARS ------------------------------------------------------------------------------------------------


@BOTH
@few
@given(seed=seeds, shape=shapes, c=factors, eta=etas)
def test_a_step_does_not_depend_on_the_size_of_the_gradient(
    optimizer: type[Fromage], seed: int, shape: tuple[int, ...], c: float, eta: float
) -> None:
    w, g = normals(shape, seed, 2)
    torch.testing.assert_close(
        one_step(optimizer, w, c * g, lr=eta), one_step(optimizer, w, g, lr=eta), rtol=1e-11, atol=1e-13
    )


@BOTH
@few
@given(seed=seeds, shape=shapes, c=factors, eta=etas)
def test_a_step_grows_in_proportion_to_the_weights(
    optimizer: type[Fromage], seed: int, shape: tuple[int, ...], c: float, eta: float
) -> None:
    w, g = normals(shape, seed, 2)
    moved, moved_scaled = one_step(optimizer, w, g, lr=eta) - w, one_step(optimizer, c * w, g, lr=eta) - c * w
    torch.testing.assert_close(moved_scaled, c * moved, rtol=1e-8, atol=1e-13 * c)


@few
@given(seed=seeds, shape=shapes, eta=etas)
def test_a_step_of_lars_is_eta_times_as_long_as_the_weights_and_points_against_the_gradient(
    seed: int, shape: tuple[int, ...], eta: float
) -> None:
    w, g = normals(shape, seed, 2)
    moved = one_step(LARS, w, g, lr=eta) - w
    assert norm(moved) == pytest.approx(eta * norm(w), rel=1e-10)
    torch.testing.assert_close(moved / norm(moved), -g / norm(g), rtol=1e-8, atol=1e-10)


@few
@given(seed=seeds, shape=shapes, eta=etas)
def test_a_step_of_fromage_is_that_of_lars_shrunk(seed: int, shape: tuple[int, ...], eta: float) -> None:
    w, g = normals(shape, seed, 2)
    shrunk = one_step(LARS, w, g, lr=eta) / math.sqrt(1 + eta**2)
    torch.testing.assert_close(one_step(Fromage, w, g, lr=eta), shrunk, rtol=1e-11, atol=1e-13)


@few
@given(seed=seeds, shape=shapes.filter(lambda shape: math.prod(shape) > 1), eta=etas)
def test_orthogonal_gradients_leave_the_norm_under_fromage(seed: int, shape: tuple[int, ...], eta: float) -> None:
    w, *directions = normals(shape, seed, 11)
    now = w
    for direction in directions:
        now = one_step(Fromage, now, orthogonal_to(now, direction), lr=eta)
        assert norm(now) == pytest.approx(norm(w), rel=1e-12)


@few
@given(seed=seeds, shape=shapes.filter(lambda shape: math.prod(shape) > 1), eta=etas)
def test_orthogonal_gradients_grow_the_norm_by_the_same_factor_every_step_under_lars(
    seed: int, shape: tuple[int, ...], eta: float
) -> None:
    w, *directions = normals(shape, seed, 11)
    now = w
    for t, direction in enumerate(directions, start=1):
        now = one_step(LARS, now, orthogonal_to(now, direction), lr=eta)
        assert norm(now) == pytest.approx(norm(w) * (1 + eta**2) ** (t / 2), rel=1e-12)


@BOTH
@few
@given(seed=seeds, shape=shapes.filter(lambda shape: math.prod(shape) > 1), eta=etas)
def test_an_orthogonal_gradient_turns_the_weights_by_the_arctangent_of_eta(
    optimizer: type[Fromage], seed: int, shape: tuple[int, ...], eta: float
) -> None:
    w, g = normals(shape, seed, 2)
    assert angle(w, one_step(optimizer, w, orthogonal_to(w, g), lr=eta)) == pytest.approx(math.atan(eta), rel=1e-8)


@BOTH
@few
@given(seed=seeds, shape=shapes, eta=etas, p_bound=st.floats(0, 2))
def test_the_norm_never_exceeds_p_bound_times_the_first_norm(
    optimizer: type[Fromage], seed: int, shape: tuple[int, ...], eta: float, p_bound: float
) -> None:
    w, *gradients = normals(shape, seed, 31)
    for after in trajectory(optimizer, w, gradients, lr=eta, p_bound=p_bound):
        assert norm(after) <= p_bound * norm(w) * (1 + 1e-12)


@few
@given(seed=seeds, shape=shapes, eta=etas)
def test_outward_steps_stay_on_the_sphere_of_p_bound(seed: int, shape: tuple[int, ...], eta: float) -> None:
    w = normal(shape, seed)
    for after in trajectory(LARS, w, [-w] * 5, lr=eta, p_bound=1.0):  # each alone would grow the norm by 1 + eta
        torch.testing.assert_close(after, w, rtol=1e-12, atol=0)


@BOTH
@few
@given(seed=seeds, shape=shapes, eta=etas)
def test_a_bound_that_is_not_reached_changes_nothing(
    optimizer: type[Fromage], seed: int, shape: tuple[int, ...], eta: float
) -> None:
    w, *gradients = normals(shape, seed, 6)
    free, bounded = (trajectory(optimizer, w, gradients, lr=eta, p_bound=bound) for bound in (None, 1e6))
    assert all(torch.equal(x, y) for x, y in zip(free, bounded, strict=True))


@BOTH
def test_p_bound_measures_the_norm_at_the_first_step_and_not_at_construction(optimizer: type[Fromage]) -> None:
    p = normal((3, 4), 0).requires_grad_()
    opt = optimizer([p], lr=0.1, p_bound=1.0)
    with torch.no_grad():
        p.mul_(5)
    at_first_step = norm(p.detach())
    for _ in range(3):
        p.grad = -p.detach()  # outward
        opt.step()
    assert norm(p.detach()) == pytest.approx(at_first_step, rel=1e-12)


@few
@given(seed=seeds, shape=shapes, eta=etas)
def test_weights_of_norm_zero_take_a_plain_gradient_step(seed: int, shape: tuple[int, ...], eta: float) -> None:
    g = normal(shape, seed)
    zero = torch.zeros_like(g)
    torch.testing.assert_close(one_step(LARS, zero, g, lr=eta), -eta * g, rtol=1e-13, atol=0)
    plain = -eta * g / math.sqrt(1 + eta**2)
    torch.testing.assert_close(one_step(Fromage, zero, g, lr=eta), plain, rtol=1e-13, atol=0)


@few
@given(seed=seeds, shape=shapes, eta=etas)
def test_a_gradient_of_norm_zero_only_shrinks_the_weights(seed: int, shape: tuple[int, ...], eta: float) -> None:
    w = normal(shape, seed)
    zero = torch.zeros_like(w)
    assert torch.equal(one_step(LARS, w, zero, lr=eta), w)
    shrunk = w / math.sqrt(1 + eta**2)
    torch.testing.assert_close(one_step(Fromage, w, zero, lr=eta), shrunk, rtol=1e-13, atol=0)


@BOTH
@pytest.mark.parametrize("p_bound", [None, 0.0, 1.0])
def test_zero_weights_with_a_zero_gradient_stay_zero(optimizer: type[Fromage], p_bound: float | None) -> None:
    zero = torch.zeros(3, 2, dtype=torch.float64)
    assert torch.equal(one_step(optimizer, zero, zero, p_bound=p_bound), zero)


@BOTH
def test_zero_weights_with_a_bound_stay_zero(optimizer: type[Fromage]) -> None:
    zero = torch.zeros(3, 2, dtype=torch.float64)
    for after in trajectory(optimizer, zero, normals((3, 2), 0, 3), lr=0.1, p_bound=2.0):
        assert torch.equal(after, zero)


@BOTH
def test_each_tensor_moves_by_its_own_norms_alone(optimizer: type[Fromage]) -> None:
    pairs = [((3, 4), 1e-4), ((3, 4), 1e4), ((5,), 1.0)]
    weights = [scale * normal(shape, i) for i, (shape, scale) in enumerate(pairs)]
    gradients = [normal(shape, 10 + i) for i, (shape, _) in enumerate(pairs)]
    params = [w.clone().requires_grad_() for w in weights]
    for p, g in zip(params, gradients, strict=True):
        p.grad = g.clone()
    optimizer(params, lr=0.1).step()
    for p, w, g in zip(params, weights, gradients, strict=True):
        torch.testing.assert_close(p.detach(), one_step(optimizer, w, g, lr=0.1), rtol=1e-12, atol=0)


# --- Madam -----------------------------------------------------------------------------------------------------------


@few
@given(seed=seeds, shape=shapes, eta=etas, g_bound=st.floats(0.1, 10), p_scale=st.floats(0.5, 4))
def test_signs_never_change(seed: int, shape: tuple[int, ...], eta: float, g_bound: float, p_scale: float) -> None:
    w, *gradients = normals(shape, seed, 21)
    for after in trajectory(Madam, w, gradients, lr=eta, g_bound=g_bound, p_scale=p_scale):
        assert torch.equal(after.sign(), w.sign())


@few
@given(seed=seeds, eta=etas, p_scale=st.floats(0.5, 4))
def test_zeros_stay_zero_and_the_others_do_not_stay(seed: int, eta: float, p_scale: float) -> None:
    w, *gradients = normals((3, 4), seed, 6)
    w[0] = 0.0
    for after in trajectory(Madam, w, gradients, lr=eta, p_scale=p_scale):
        assert torch.equal(after[0], torch.zeros(4, dtype=torch.float64))
        assert (after[1:] != w[1:]).all()


def test_a_tensor_of_zeros_stays_zero() -> None:
    zero = torch.zeros(4, dtype=torch.float64)
    assert torch.equal(trajectory(Madam, zero, normals((4,), 0, 5), lr=0.1)[-1], zero)


@few
@given(seed=seeds, shape=shapes, eta=etas, g_bound=st.floats(0.1, 3), spread=st.floats(0, 3))
def test_log_weights_move_by_at_most_eta_times_g_bound(
    seed: int, shape: tuple[int, ...], eta: float, g_bound: float, spread: float
) -> None:
    w, *gradients = normals(shape, seed, 31)
    gradients = [g * 10 ** (spread * math.sin(5.0 * t)) for t, g in enumerate(gradients)]
    p_scale = math.sqrt(w.numel())  # no weight of the start exceeds it, so the clip itself makes no jump
    before = w
    for after in trajectory(Madam, w, gradients, lr=eta, g_bound=g_bound, p_scale=p_scale):
        assert (after.abs().log() - before.abs().log()).abs().max() <= eta * g_bound * (1 + 1e-9) + 1e-12
        before = after


def test_a_sudden_large_gradient_moves_log_weights_by_exactly_eta_times_g_bound() -> None:
    w, eta, g_bound = normal((3, 4), 0), 0.01, 2.0
    small, large = torch.full_like(w, 1e-3), torch.full_like(w, 1e3)
    *_, before, after = trajectory(Madam, w, [small] * 20 + [large], lr=eta, g_bound=g_bound, p_scale=100.0)
    torch.testing.assert_close(after / before, torch.exp(-eta * g_bound * w.sign()), rtol=1e-12, atol=0)


@few
@given(seed=seeds, shape=shapes, eta=etas, g_bound=st.floats(1.01, 10), beta=st.floats(0, 0.999))
def test_the_first_step_multiplies_by_the_same_factor_or_its_inverse(
    seed: int, shape: tuple[int, ...], eta: float, g_bound: float, beta: float
) -> None:
    w, g = normals(shape, seed, 2)
    expected = w * torch.exp(-eta * w.sign() * g.sign())
    after = one_step(Madam, w, g, lr=eta, g_bound=g_bound, beta=beta, p_scale=1e3)
    torch.testing.assert_close(after, expected, rtol=1e-12, atol=0)


@few
@given(seed=seeds, shape=shapes, eta=etas, p_scale=st.floats(0.5, 4))
def test_flipping_weights_and_gradients_flips_the_trajectory(
    seed: int, shape: tuple[int, ...], eta: float, p_scale: float
) -> None:
    w, *gradients = normals(shape, seed, 11)
    straight = trajectory(Madam, w, gradients, lr=eta, p_scale=p_scale)
    flipped = trajectory(Madam, -w, [-g for g in gradients], lr=eta, p_scale=p_scale)
    assert all(torch.equal(x, -y) for x, y in zip(straight, flipped, strict=True))


@few
@given(seed=seeds, shape=shapes, c=factors, eta=etas)
def test_the_size_of_all_gradients_together_does_not_matter(
    seed: int, shape: tuple[int, ...], c: float, eta: float
) -> None:
    w, *gradients = normals(shape, seed, 11)
    plain, scaled = (trajectory(Madam, w, [k * g for g in gradients], lr=eta) for k in (1.0, c))
    for x, y in zip(plain, scaled, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=0)


@few
@given(seed=seeds, shape=shapes, c=factors, eta=etas)
def test_the_trajectory_grows_in_proportion_to_the_first_weights(
    seed: int, shape: tuple[int, ...], c: float, eta: float
) -> None:
    w, *gradients = normals(shape, seed, 11)
    plain, scaled = (trajectory(Madam, k * w, gradients, lr=eta) for k in (1.0, c))
    for x, y in zip(plain, scaled, strict=True):
        torch.testing.assert_close(c * x, y, rtol=1e-10, atol=0)


@few
@given(seed=seeds, shape=shapes, eta=etas, p_scale=st.floats(0.5, 4))
def test_no_weight_exceeds_p_scale_times_the_first_root_mean_square(
    seed: int, shape: tuple[int, ...], eta: float, p_scale: float
) -> None:
    w = normal(shape, seed)
    largest = p_scale * norm(w) / math.sqrt(w.numel())
    weights = trajectory(Madam, w, [-w] * 20, lr=eta, p_scale=p_scale)  # every step makes every weight larger
    assert all(float(after.abs().max()) <= largest * (1 + 1e-12) for after in weights)


def test_weights_that_grow_come_to_rest_at_the_bound() -> None:
    w = normal((3, 4), 0)
    largest = 2.0 * norm(w) / math.sqrt(12)
    last = trajectory(Madam, w, [-w] * 30, lr=0.5, p_scale=2.0)[-1]
    torch.testing.assert_close(last, largest * w.sign(), rtol=1e-12, atol=0)


@few
@given(seed=seeds, eta=etas)
def test_weights_without_gradient_do_not_move_under_madam(seed: int, eta: float) -> None:
    w, *gradients = normals((3, 4), seed, 6)
    for g in gradients:
        g[0] = 0.0
    for after in trajectory(Madam, w, gradients, lr=eta, p_scale=1e3):
        assert torch.equal(after[0], w[0])


# --- signSGD ---------------------------------------------------------------------------------------------------------


@few
@given(seed=seeds, shape=shapes, eta=etas, c=factors)
def test_every_weight_moves_by_eta_against_the_sign_of_its_gradient(
    seed: int, shape: tuple[int, ...], eta: float, c: float
) -> None:
    w, g = normals(shape, seed, 2)
    moved = one_step(SignSGD, w, c * g, lr=eta) - w
    torch.testing.assert_close(moved.abs(), torch.full_like(w, eta), rtol=0, atol=1e-14)
    assert torch.equal(moved.sign(), -g.sign())


def test_a_weight_without_gradient_does_not_move_under_signsgd() -> None:
    w, g = normals((3, 4), 0, 2)
    g[1] = 0.0
    after = one_step(SignSGD, w, g, lr=0.1)
    assert torch.equal(after[1], w[1])
    assert (after[[0, 2]] != w[[0, 2]]).all()
