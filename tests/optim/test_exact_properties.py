"""What follows exactly from the equations of the optimizers, whatever the numbers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reltrust.optim import LARS, Fromage, IntegerMadam, Madam, NovoGrad, SignSGD, lns

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


@pytest.mark.parametrize(("optimizer", "growth"), [(LARS, (1 + 0.1**2) ** 100), (Fromage, 1.0)])
def test_a_layer_whose_scale_does_not_matter_grows_by_the_root_of_one_plus_eta_squared_a_step_under_lars_alone(
    optimizer: type[Fromage], growth: float
) -> None:
    """A layer that is normalised, as a GAN's by spectral norm: what figure 2 (right) of arXiv 2002.03432 shows."""
    w, inputs = normal((6, 4), 0).requires_grad_(), normal((4, 20), 1)
    first, opt = w.detach().norm(), optimizer([w], lr=0.1)
    for _ in range(200):
        opt.zero_grad()
        torch.tanh(w / torch.linalg.matrix_norm(w, 2) @ inputs).square().sum().backward()
        opt.step()
    assert float(w.detach().norm() / first) == pytest.approx(growth, rel=1e-9)


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


# --- integer Madam ---------------------------------------------------------------------------------------------------

# K, and the dynamic range b (K - 1) in nats.
scales = st.tuples(st.sampled_from([2, 3, 256, 1024, 4096, 40_000, 65_536]), st.floats(0.5, 100.0)).map(
    lambda chosen: {"levels": chosen[0], "base_lr": chosen[1] / (chosen[0] - 1)}
)
lr_factors = st.floats(0.01, 40.0)


def largest_weight(w: Tensor, p_scale: float = 3.0) -> float:
    return p_scale * norm(w) / math.sqrt(w.numel())


def levels_in(w: Tensor, w_max: float, base_lr: float) -> Tensor:
    """log(w_max / |W|) / b, which is to be a whole number."""
    return (math.log(w_max) - w.abs().log()) / base_lr


def whole_levels(w: Tensor, w_max: float, levels: int, base_lr: float) -> Tensor:
    """``levels_in``, once it is sure that they are whole numbers in 0..levels-1."""
    exact = levels_in(w, w_max, base_lr)
    rounded = exact.round()
    assert ((exact - rounded) * base_lr).abs().max() <= 1e-13 * (1 + base_lr * levels)
    assert rounded.min() >= 0
    assert rounded.max() <= levels - 1
    return rounded


@few
@given(seed=seeds, shape=shapes, scale=scales, factor=lr_factors, p_scale=st.floats(0.5, 4), g_bound=st.floats(0.5, 10))
def test_log_weights_are_a_whole_number_of_levels_below_the_largest_at_every_step(
    seed: int, shape: tuple[int, ...], scale: dict[str, Any], factor: float, p_scale: float, g_bound: float
) -> None:
    w, *gradients = normals(shape, seed, 21)
    w_max = largest_weight(w, p_scale)
    arguments = scale | {"lr": factor * scale["base_lr"], "p_scale": p_scale, "g_bound": g_bound}
    before = None
    for after in trajectory(IntegerMadam, w, gradients, **arguments):
        now = whole_levels(after, w_max, **scale)
        if before is not None:
            assert (now - before).abs().max() <= round(factor * g_bound)
        before = now


@few
@given(seed=seeds, shape=shapes, scale=scales, p_scale=st.floats(0.5, 4))
def test_before_any_gradient_each_weight_becomes_its_nearest_level(
    seed: int, shape: tuple[int, ...], scale: dict[str, Any], p_scale: float
) -> None:
    w = normal(shape, seed)
    w_max = largest_weight(w, p_scale)
    smallest = w_max * math.exp(-scale["base_lr"] * (scale["levels"] - 1))
    after = one_step(IntegerMadam, w, torch.zeros_like(w), p_scale=p_scale, **scale)
    whole_levels(after, w_max, **scale)
    reachable = w.abs().clamp(smallest, w_max)
    assert (after.abs().log() - reachable.log()).abs().max() <= 0.5 * scale["base_lr"] + 1e-12
    assert torch.equal(after.sign(), w.sign())


@few
@given(seed=seeds, shape=shapes, eta=st.floats(1e-3, 0.02))
def test_with_levels_close_together_it_tracks_madam_from_the_same_weights_within_half_a_level_a_step(
    seed: int, shape: tuple[int, ...], eta: float
) -> None:
    w, *gradients = normals(shape, seed, 31)
    scale = {"levels": 65_536, "base_lr": 1.2e-4}  # 7.9 nats: no weight comes to the lower end
    start = lns.dequantize(*lns.quantize(w, scale=largest_weight(w), **scale), dtype=torch.float64, **scale)
    p_scale = 3.0 * norm(w) / norm(start)  # so that both have the same largest weight
    integers = trajectory(IntegerMadam, w, gradients, lr=eta, p_scale=3.0, **scale)
    floats = trajectory(Madam, start, gradients, lr=eta, p_scale=p_scale)
    for t, (x, y) in enumerate(zip(integers, floats, strict=True), start=1):
        assert torch.equal(x.sign(), y.sign())
        assert (x.abs().log() - y.abs().log()).abs().max() <= t * scale["base_lr"] / 2 * (1 + 1e-9)
    assert not torch.equal(integers[-1], start)


@few
@given(seed=seeds, scale=scales, factor=lr_factors)
def test_signs_never_change_and_zeros_stay_zero_under_integer_madam(
    seed: int, scale: dict[str, Any], factor: float
) -> None:
    w, *gradients = normals((3, 4), seed, 21)
    w[1] = 0.0
    for after in trajectory(IntegerMadam, w, gradients, lr=factor * scale["base_lr"], **scale):
        assert torch.equal(after.sign(), w.sign())


def test_a_tensor_of_zeros_stays_zero_under_integer_madam() -> None:
    zero = torch.zeros(4, dtype=torch.float64)
    assert torch.equal(trajectory(IntegerMadam, zero, normals((4,), 0, 5), lr=0.1)[-1], zero)


@few
@given(seed=seeds, shape=shapes, factor=st.integers(1, 100), base_lr=st.floats(1e-3, 1e-2))
def test_the_learning_rate_is_the_factor_times_the_distance_of_two_levels(
    seed: int, shape: tuple[int, ...], factor: int, base_lr: float
) -> None:
    w, g = normals(shape, seed, 2)
    arguments = {"base_lr": base_lr, "levels": 65_536, "p_scale": 1e3}  # no weight comes to an end of the scale
    start = one_step(IntegerMadam, w, torch.zeros_like(w), **arguments)
    after = one_step(IntegerMadam, w, g, lr=factor * base_lr, **arguments)
    expected = start * torch.exp(-factor * base_lr * w.sign() * g.sign())
    torch.testing.assert_close(after, expected, rtol=1e-12, atol=0)


@few
@given(seed=seeds, scale=scales)
def test_the_dynamic_range_is_the_distance_of_two_levels_times_all_levels_but_one(
    seed: int, scale: dict[str, Any]
) -> None:
    w = normal((3, 4), seed)
    far = (scale["levels"] + 1) * scale["base_lr"]  # one step reaches the end
    larger, smaller = (one_step(IntegerMadam, w, toward * w, lr=far, **scale) for toward in (-1.0, 1.0))
    torch.testing.assert_close(larger, largest_weight(w) * w.sign(), rtol=1e-13, atol=0)
    nats = (larger.abs() / smaller.abs()).log()
    torch.testing.assert_close(nats, torch.full_like(w, scale["base_lr"] * (scale["levels"] - 1)), rtol=1e-11, atol=0)


def test_a_schedule_of_the_learning_rate_changes_the_moves_and_not_the_levels() -> None:
    w, base_lr = normal((3, 4), 0), 0.001
    w_max = largest_weight(w)
    p = w.clone().requires_grad_()
    optimizer = IntegerMadam([p], lr=16 * base_lr, base_lr=base_lr)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.25)
    moves, before = [], None
    for _ in range(8):
        p.grad = p.detach().sign()  # of the same size at every step: the normalised gradient is 1
        optimizer.step()
        scheduler.step()
        now = whole_levels(p.detach(), w_max, levels=4096, base_lr=base_lr)
        if before is not None:
            inside = now < 4095
            moves.append((now - before)[inside].unique().tolist())
        before = now
    assert moves == [[16.0], [4.0], [4.0], [1.0], [1.0], [0.0], [0.0]]


def test_a_change_of_the_base_learning_rate_changes_what_the_levels_mean() -> None:
    w, g = normals((3, 4), 0, 2)
    p = w.clone().requires_grad_()
    optimizer = IntegerMadam([p], base_lr=0.001)
    p.grad = g.clone()
    optimizer.step()
    before = whole_levels(p.detach(), largest_weight(w), levels=4096, base_lr=0.001)
    optimizer.param_groups[0]["base_lr"] = 0.0005
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(whole_levels(p.detach(), largest_weight(w), levels=4096, base_lr=0.0005), before)
    assert torch.equal(p.detach().sign(), w.sign())


@pytest.mark.parametrize("levels", [2, 3, 256, 4096, 65_536])
def test_random_levels_are_drawn_evenly_from_all_but_the_last(levels: int) -> None:
    torch.manual_seed(0)
    w = normal((50_000,), 0)
    base_lr = 8.0 / (levels - 1)
    after = one_step(IntegerMadam, w, torch.zeros_like(w), levels=levels, base_lr=base_lr, init="random")
    assert torch.equal(after.sign(), w.sign())
    drawn = whole_levels(after, largest_weight(w), levels=levels, base_lr=base_lr)
    assert drawn.max() <= levels - 2
    found = drawn.to(torch.int64).bincount(minlength=levels - 1).cumsum(0) / len(w)
    even = torch.arange(1, levels) / (levels - 1)
    assert (found - even).abs().max() <= 1.95 / math.sqrt(len(w))  # Kolmogorov and Smirnov: one in a thousand is more


def test_random_levels_forget_the_magnitudes_and_are_those_of_the_seed() -> None:
    w = normal((3, 4), 0)
    other = w.sign() * w.abs().flatten().flip(0).view(3, 4)  # other magnitudes; the same signs and mean square
    drawn = []
    for start, seed in [(w, 1), (other, 1), (w, 2)]:
        torch.manual_seed(seed)
        drawn.append(trajectory(IntegerMadam, start, normals((3, 4), 5, 4), init="random"))
    assert all(torch.allclose(x, y, rtol=1e-14, atol=0) for x, y in zip(drawn[0], drawn[1], strict=True))
    assert not torch.allclose(drawn[0][0], drawn[2][0])


@few
@given(seed=seeds, shape=shapes, scale=scales, factor=lr_factors)
def test_flipping_weights_and_gradients_flips_the_trajectory_of_integer_madam(
    seed: int, shape: tuple[int, ...], scale: dict[str, Any], factor: float
) -> None:
    w, *gradients = normals(shape, seed, 11)
    lr = factor * scale["base_lr"]
    straight = trajectory(IntegerMadam, w, gradients, lr=lr, **scale)
    flipped = trajectory(IntegerMadam, -w, [-g for g in gradients], lr=lr, **scale)
    assert all(torch.equal(x, -y) for x, y in zip(straight, flipped, strict=True))


@few
@given(seed=seeds, shape=shapes, power=st.integers(-10, 10), scale=scales, factor=lr_factors)
def test_the_size_of_all_weights_and_of_all_gradients_does_not_matter_to_the_levels(
    seed: int, shape: tuple[int, ...], power: int, scale: dict[str, Any], factor: float
) -> None:
    w, *gradients = normals(shape, seed, 11)
    lr = factor * scale["base_lr"]
    plain = trajectory(IntegerMadam, w, gradients, lr=lr, **scale)
    scaled = trajectory(IntegerMadam, 2.0**power * w, [2.0**-power * g for g in gradients], lr=lr, **scale)
    assert all(torch.equal(2.0**power * x, y) for x, y in zip(plain, scaled, strict=True))


# --- NovoGrad --------------------------------------------------------------------------------------------------------

decays = st.floats(0, 0.5)
two_betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.99))


@few
@given(seed=seeds, shape=shapes, c=factors, eta=etas, betas=two_betas, decay=decays)
def test_without_eps_the_first_step_does_not_depend_on_the_size_of_the_gradient(
    seed: int, shape: tuple[int, ...], c: float, eta: float, betas: tuple[float, float], decay: float
) -> None:
    w, g = normals(shape, seed, 2)
    plain, scaled = (one_step(NovoGrad, w, k * g, lr=eta, betas=betas, eps=0.0, weight_decay=decay) for k in (1.0, c))
    torch.testing.assert_close(plain, scaled, rtol=1e-11, atol=1e-13)
    expected = w - eta * (g / norm(g) + decay * w)
    torch.testing.assert_close(plain, expected, rtol=1e-11, atol=1e-13)


@few
@given(seed=seeds, shape=shapes, c=factors, eta=etas, betas=two_betas, decay=decays)
def test_without_eps_the_size_of_all_gradients_together_does_not_matter_to_novograd(
    seed: int, shape: tuple[int, ...], c: float, eta: float, betas: tuple[float, float], decay: float
) -> None:
    w, *gradients = normals(shape, seed, 11)
    plain, scaled = (
        trajectory(NovoGrad, w, [k * g for g in gradients], lr=eta, betas=betas, eps=0.0, weight_decay=decay)
        for k in (1.0, c)
    )
    for x, y in zip(plain, scaled, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


@few
@given(seed=seeds, shape=shapes, eta=etas, eps=st.floats(0, 1), size=factors)
def test_eps_stands_beside_the_norm_in_the_first_step(
    seed: int, shape: tuple[int, ...], eta: float, eps: float, size: float
) -> None:
    w, g = normals(shape, seed, 2)
    g = size * g
    moved = one_step(NovoGrad, w, g, lr=eta, eps=eps) - w
    torch.testing.assert_close(moved, -eta * g / (norm(g) + eps), rtol=1e-8, atol=1e-13)


@few
@given(seed=seeds, shape=shapes, eta=etas, beta1=st.floats(0, 0.99), beta2=st.floats(0, 0.99))
def test_equal_gradients_add_up_as_a_geometric_series(
    seed: int, shape: tuple[int, ...], eta: float, beta1: float, beta2: float
) -> None:
    before, g = normals(shape, seed, 2)
    for t, after in enumerate(trajectory(NovoGrad, before, [g] * 10, lr=eta, betas=(beta1, beta2), eps=0.0), start=1):
        expected = -eta * sum(beta1**k for k in range(t)) * g / norm(g)
        torch.testing.assert_close(after - before, expected, rtol=1e-8, atol=1e-12)
        before = after


@few
@given(seed=seeds, shape=shapes, eta=etas, betas=two_betas, decay=decays)
def test_averaging_the_gradients_only_makes_the_learning_rate_smaller(
    seed: int, shape: tuple[int, ...], eta: float, betas: tuple[float, float], decay: float
) -> None:
    w, *gradients = normals(shape, seed, 11)
    summed = trajectory(NovoGrad, w, gradients, lr=(1 - betas[0]) * eta, betas=betas, weight_decay=decay)
    averaged = trajectory(NovoGrad, w, gradients, lr=eta, betas=betas, weight_decay=decay, grad_averaging=True)
    for x, y in zip(summed, averaged, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-13)


@few
@given(seed=seeds, eta=etas, betas=two_betas, decay=decays)
def test_novograd_does_not_care_which_way_the_axes_of_a_tensor_point(
    seed: int, eta: float, betas: tuple[float, float], decay: float
) -> None:
    w, mixed, *gradients = normals((6, 6), seed, 12)
    turn, _ = torch.linalg.qr(mixed)
    straight = trajectory(NovoGrad, w, gradients, lr=eta, betas=betas, weight_decay=decay)
    turned = trajectory(NovoGrad, turn @ w, [turn @ g for g in gradients], lr=eta, betas=betas, weight_decay=decay)
    for x, y in zip(straight, turned, strict=True):
        torch.testing.assert_close(turn @ x, y, rtol=1e-10, atol=1e-12)


@few
@given(seed=seeds, shape=shapes, eta=etas, decay=decays, eps=st.sampled_from([0.0, 1e-8]))
def test_a_gradient_of_zero_leaves_novograd_the_weight_decay_alone(
    seed: int, shape: tuple[int, ...], eta: float, decay: float, eps: float
) -> None:
    w = normal(shape, seed)
    after = one_step(NovoGrad, w, torch.zeros_like(w), lr=eta, weight_decay=decay, eps=eps)
    torch.testing.assert_close(after, w * (1 - eta * decay), rtol=1e-13, atol=1e-15)


@few
@given(seed=seeds, shape=shapes, eta=etas, decay=decays)
def test_climbing_under_novograd_is_descending_along_the_opposite_gradients(
    seed: int, shape: tuple[int, ...], eta: float, decay: float
) -> None:
    w, *gradients = normals(shape, seed, 6)
    up = trajectory(NovoGrad, w, gradients, lr=eta, weight_decay=decay, maximize=True)
    down = trajectory(NovoGrad, w, [-g for g in gradients], lr=eta, weight_decay=decay)
    assert all(torch.equal(x, y) for x, y in zip(up, down, strict=True))


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


# --- the ends of floating point --------------------------------------------------------------------------------------

SCALE_FREE: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "fromage": (Fromage, {}),
    "fromage_p_bound": (Fromage, {"p_bound": 1.0}),
    "lars": (LARS, {}),
    "madam": (Madam, {}),
    "integer_madam": (IntegerMadam, {}),
    "novograd": (NovoGrad, {"lr": 0.01, "eps": 0.0, "weight_decay": 0.1}),
    "signsgd": (SignSGD, {"lr": 0.01}),
}
BY_SCALE_FREE = pytest.mark.parametrize(("optimizer", "arguments"), SCALE_FREE.values(), ids=SCALE_FREE.keys())


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e25])
@BY_SCALE_FREE
def test_tiny_and_huge_gradients_in_float32_move_the_weights_as_others_do(
    optimizer: Callable[..., torch.optim.Optimizer], arguments: dict[str, Any], size: float
) -> None:
    w, *gradients = (x.float() for x in normals((3, 4), 0, 11))
    scaled = [(size * g.double()).float() for g in gradients]
    found = trajectory(optimizer, w, scaled, **arguments)
    expected = trajectory(optimizer, w.double(), [g.double() / size for g in scaled], **arguments)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y.float(), rtol=1e-5, atol=1e-6)


@BY_SCALE_FREE
def test_gradients_that_differ_by_50_orders_of_magnitude_meet_in_one_stack(
    optimizer: Callable[..., torch.optim.Optimizer], arguments: dict[str, Any]
) -> None:
    starts = [x.float() for x in normals((3, 4), 0, 3)]
    directions = [x.float() for x in normals((3, 4), 10, 3)]
    params = [w.clone().requires_grad_() for w in starts]
    stacked = optimizer(params, **arguments)
    for _ in range(3):
        for p, g, size in zip(params, directions, [1e-30, 1.0, 1e20], strict=True):
            p.grad = size * g
        stacked.step()
    for p, w, g in zip(params, starts, directions, strict=True):
        expected = trajectory(optimizer, w.double(), [g.double()] * 3, **arguments)[-1]
        torch.testing.assert_close(p.detach(), expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e25])
@pytest.mark.parametrize("name", ["fromage", "fromage_p_bound", "lars", "madam", "integer_madam"])
def test_tiny_and_huge_weights_in_float32_move_in_proportion(name: str, size: float) -> None:
    optimizer, arguments = SCALE_FREE[name]
    w, *gradients = (x.float() for x in normals((3, 4), 0, 11))
    found = trajectory(optimizer, (size * w.double()).float(), gradients, **arguments)
    expected = trajectory(optimizer, w.double(), [g.double() for g in gradients], **arguments)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x.double() / size, y, rtol=1e-5, atol=1e-6)


@BOTH
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_at_the_lower_end_of_float32_is_followed_as_far_as_the_dtype_goes(
    optimizer: type[Fromage], dtype: torch.dtype, maximize: bool
) -> None:
    w, g = torch.ones(2, dtype=dtype), torch.tensor([3e-45, 0.0], dtype=dtype)
    after = one_step(optimizer, w, g, lr=0.1, maximize=maximize)
    shrink = 1.0 if optimizer is LARS else math.sqrt(1 + 0.1**2)
    step = (0.1 if maximize else -0.1) * math.sqrt(2)
    assert float(after[1]) == pytest.approx(1 / shrink, rel=1e-6)
    assert 0 <= (float(after[0]) * shrink - 1) / step <= 1 + 1e-6  # float32 cannot hold the ratio of the norms
    if dtype == torch.float64:
        assert float(after[0]) == pytest.approx((1 + step) / shrink, rel=1e-12)


@pytest.mark.parametrize("maximize", [False, True])
def test_a_gradient_at_the_lower_end_of_float32_leaves_novograd_finite(maximize: bool) -> None:
    w, g = torch.ones(2), torch.tensor([3e-45, 0.0])
    after = one_step(NovoGrad, w, g, lr=0.1, eps=0.0, maximize=maximize)
    assert float(after[1]) == 1.0
    assert 0 <= (float(after[0]) - 1) * (1 if maximize else -1) <= 0.1 + 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@BOTH
def test_the_norm_of_half_precision_weights_exceeds_the_bound_by_no_more_than_one_rounding(
    optimizer: type[Fromage], dtype: torch.dtype
) -> None:
    w, *noise = (x.to(dtype) for x in normals((1000,), 0, 51))
    outward = [(-w.double() + 0.3 * x.double()).to(dtype) for x in noise]
    for after in trajectory(optimizer, w, outward, lr=0.005, p_bound=1.0):
        assert norm(after.double()) <= norm(w.double()) * (1 + torch.finfo(dtype).eps / 2)
