"""What every optimizer owes to whoever calls it: a step, whatever the tensors and the numbers.

How a step is carried out (stacked, compiled, differentiated, in other dtypes) is tested in
test_every_way_is_the_same_step.py.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reltrust.optim import NovoGrad

from .kinds import (
    EACH,
    EACH_RULE,
    NAN,
    Kind,
    assert_close,
    copies,
    give_gradients,
    learn,
    parameters,
    same,
    take_steps,
    tensors_of_state,
    values,
)

# --- a step ----------------------------------------------------------------------------------------------------------


@EACH
def test_a_step_moves_every_parameter_in_place(make: Kind) -> None:
    params = parameters()
    before, addresses = values(params), [p.data_ptr() for p in params]
    take_steps(make(params), [0])
    assert not any(torch.equal(p, old) for p, old in zip(params, before, strict=True))
    assert [p.data_ptr() for p in params] == addresses
    assert all(p.isfinite().all() and p.requires_grad and p.is_leaf for p in params)


@EACH_RULE
def test_autograd_notices_that_weights_have_moved_between_forward_and_backward(make: Kind) -> None:
    separate, in_one_buffer = parameters(shapes=[(3,)] * 3), parameters(shapes=[(3,)] * 3)
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(in_one_buffer).detach(), in_one_buffer)
    for params in (separate, in_one_buffer):
        products = [(p * p).sum() for p in params]
        take_steps(make(params), [0])
        for product in products:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                product.backward()


@EACH_RULE
def test_the_closures_loss_is_returned_and_its_gradients_are_used(make: Kind) -> None:
    by_closure, by_hand = parameters(), parameters()
    enabled = []

    def loss_of(params: list[nn.Parameter]) -> Tensor:
        return torch.stack([(p**2).sum() for p in params]).sum()

    def closure() -> Tensor:
        enabled.append(torch.is_grad_enabled())
        for p in by_closure:
            p.grad = None
        loss = loss_of(by_closure)
        loss.backward()
        return loss

    expected = loss_of(by_hand)
    expected.backward()
    make(by_hand).step()
    optimizer = make(by_closure)
    with torch.no_grad():
        returned = optimizer.step(closure)
    assert enabled == [True]
    assert returned.item() == expected.item()
    assert same(by_closure, by_hand)


@EACH_RULE
def test_without_a_closure_a_step_returns_none(make: Kind) -> None:
    params = parameters()
    give_gradients(params, 0)
    assert make(params).step() is None


@pytest.mark.parametrize("maximize", [False, True])
@EACH_RULE
def test_a_step_does_not_write_to_the_gradients(make: Kind, maximize: bool) -> None:
    params = parameters()
    optimizer = make(params, maximize=maximize)
    for step in range(3):
        give_gradients(params, step)
        if step == 2:  # gradients that lie one after another in one buffer, as some wrappers keep them
            flat = torch.cat([p.grad.flatten() for p in params])
            for p, part in zip(params, flat.split([p.numel() for p in params]), strict=True):
                p.grad = part.view(p.shape)
        grads: list[Any] = [p.grad for p in params]
        before, versions = values(grads), [g._version for g in grads]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert same(grads, before)
        assert [g._version for g in grads] == versions


@EACH_RULE
def test_a_step_does_not_write_to_a_tensor_lr(make: Kind) -> None:
    lr = torch.tensor([0.02])
    take_steps(make(parameters(), lr=lr, maximize=True), range(2))
    assert lr.item() == torch.tensor(0.02).item()
    assert lr._version == 0


@EACH_RULE
def test_zero_grad_removes_the_gradients_or_fills_them_with_zeros(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    give_gradients(params, 0)
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


@EACH_RULE
def test_hooks_run_before_and_after_a_step(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    start = values(params)
    seen = []

    def hook(name: str) -> Callable[..., None]:
        return lambda opt, args, kwargs: seen.append((name, opt is optimizer, same(params, start)))

    handles = [optimizer.register_step_pre_hook(hook("before")), optimizer.register_step_post_hook(hook("after"))]
    take_steps(optimizer, [0])
    assert seen == [("before", True, True), ("after", True, False)]
    for handle in handles:
        handle.remove()
    take_steps(optimizer, [1])
    assert len(seen) == 2


@EACH
def test_maximize_descends_on_the_negated_gradients(make: Kind) -> None:
    ascending, descending = parameters(), parameters()
    up, down = make(ascending, maximize=True), make(descending)
    for step in range(4):
        take_steps(up, [step])
        take_steps(down, [step], scale=-1.0)
        assert same(ascending, descending)


def test_the_weight_decay_of_novograd_keeps_its_sign_under_maximize() -> None:
    for maximize in (False, True):
        p = nn.Parameter(torch.ones(2))
        p.grad = torch.zeros(2)
        NovoGrad([p], lr=0.1, weight_decay=0.5, maximize=maximize).step()
        torch.testing.assert_close(p.detach(), torch.full((2,), 0.95))


@EACH_RULE
def test_a_gradient_that_is_an_expanded_view_counts_like_its_copy(make: Kind) -> None:
    viewed, copied = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    viewed.grad = torch.tensor(0.5).expand(3, 2)
    copied.grad = viewed.grad.clone()
    make([viewed]).step()
    make([copied]).step()
    assert torch.equal(viewed, copied)
    assert torch.equal(viewed.grad, copied.grad)


@EACH_RULE
def test_parameters_without_a_gradient_are_left_alone(make: Kind) -> None:
    params = parameters()
    before = values(params)
    optimizer = make(params)
    give_gradients(params, 0)
    params[1].grad = None
    optimizer.step()
    assert torch.equal(params[1], before[1])
    assert params[1] not in optimizer.state
    assert not any(torch.equal(params[i], before[i]) for i in (0, 2, 3, 4))


@EACH_RULE
def test_a_parameter_whose_gradient_comes_later_moves_as_if_the_steps_before_had_not_been(make: Kind) -> None:
    late, alone = parameters(), parameters()
    optimizer = make(late)
    for step in range(3):
        give_gradients(late, step)
        late[0].grad = None
        optimizer.step()
    for params, opt in ((late, optimizer), (alone, make(alone))):
        give_gradients(params, 3)
        opt.step()
    assert_close(late[:1], alone[:1], 1e-6)


@EACH_RULE
def test_a_step_without_any_gradient_does_nothing(make: Kind) -> None:
    params = parameters()
    before = values(params)
    optimizer = make(params)
    assert optimizer.step() is None
    assert same(params, before)
    assert not optimizer.state


@pytest.mark.parametrize("before", [0, 3])  # the first step too: it may bring no weight onto a grid or into bounds
@pytest.mark.parametrize("zero", [0.0, torch.tensor([0.0])], ids=repr)
@EACH_RULE
def test_a_step_of_length_zero_moves_nothing_and_still_counts_for_the_state(
    make: Kind, zero: float | Tensor, before: int
) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(before))
    resting = values(params)
    state = {key: value.clone() for key, value in tensors_of_state(optimizer).items()}
    optimizer.param_groups[0]["lr"] = zero
    for step in range(before, before + 3):
        take_steps(optimizer, [step])
        assert same(params, resting)
    after = tensors_of_state(optimizer)
    assert {key for _, key in after} == set(make.state)
    assert make.name == "fromage_p_bound" or not after or not state or not same(after.values(), state.values())


@EACH
def test_a_least_squares_problem_is_driven_downhill(make: Kind) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=generator)
    y = x @ torch.tensor([1.0, 0.5, 2.0, 1.5, 0.7])
    w = nn.Parameter(torch.full((5,), 1.6))  # of the signs of the solution, and larger than it
    first, last = learn(make([w], **make.training), lambda: ((x @ w - y) ** 2).mean(), steps=150)
    assert last < 0.05 * first


# --- unusual tensors -------------------------------------------------------------------------------------------------


@EACH_RULE
def test_tensors_without_elements_move_nowhere_and_do_not_disturb_the_others(make: Kind) -> None:
    shapes = [(0,), (2, 0), (0,), (3,), (0, 4)]
    params, alone = parameters(shapes=shapes), parameters(shapes=[(3,)])
    only_empty = parameters(shapes=[(0, 2)])
    take_steps(make(params), range(3))
    take_steps(make(alone), range(3))
    take_steps(make(only_empty), range(3))
    assert same([params[3]], alone)
    assert [tuple(p.shape) for p in params] == shapes


@EACH_RULE
def test_a_number_moves_like_a_vector_of_length_one(make: Kind) -> None:
    number, vector = parameters(shapes=[()]), parameters(shapes=[(1,)])
    take_steps(make(number), range(4))
    take_steps(make(vector), range(4))
    assert same(number, [vector[0][0]])


@EACH_RULE
def test_tensors_that_are_not_contiguous_move_like_their_contiguous_copies(make: Kind) -> None:
    images, matrices, columns = parameters(shapes=[(2, 3, 4, 4), (5, 3), (4, 6)], dtype=torch.float64)
    scattered = [
        nn.Parameter(images.detach().to(memory_format=torch.channels_last)),
        nn.Parameter(images.detach().flip(0).to(memory_format=torch.channels_last)),  # stacked with the one before
        nn.Parameter(matrices.detach().t()),
        nn.Parameter(matrices.detach().clone().t()),  # of one shape with the one before, so they are stacked
        nn.Parameter(columns.detach()[:, ::2]),
    ]
    assert not any(p.is_contiguous() for p in scattered)
    strides = [p.stride() for p in scattered]
    contiguous = [nn.Parameter(p.detach().contiguous()) for p in scattered]
    untouched = columns.detach()[:, 1::2].clone()
    optimizer, other = make(scattered), make(contiguous)
    for step in range(4):
        take_steps(optimizer, [step])
        take_steps(other, [step])
        assert_close(scattered, contiguous, 1e-13)
    assert [p.stride() for p in scattered] == strides
    assert torch.equal(columns.detach()[:, 1::2], untouched)


@EACH_RULE
def test_gradients_that_are_not_contiguous_count_like_their_contiguous_copies(make: Kind) -> None:
    shapes = [(4, 3), (4, 3), (2, 3, 4, 4), (2, 3, 4, 4)]
    params, others = parameters(shapes=shapes), parameters(shapes=shapes)
    optimizer, other = make(params), make(others)
    for step in range(3):
        give_gradients(params, step)
        give_gradients(others, step)
        for p in params[:2]:
            p.grad = p.grad.t().contiguous().t()
        for p in params[2:]:
            p.grad = p.grad.to(memory_format=torch.channels_last)
        optimizer.step()
        other.step()
        assert same(params, others)


@EACH
def test_parameters_of_several_dtypes_in_one_group_each_move_as_in_a_group_of_their_own(make: Kind) -> None:
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
    alone = [parameters(dtype=dtype) for dtype in dtypes]
    together = [copies(params) for params in alone]
    mixed = [p for same_index in zip(*together, strict=True) for p in same_index]
    optimizer, others = make(mixed), [make(params) for params in alone]
    for step in range(3):
        for params in [*alone, *together]:
            give_gradients(params, step)
        for opt in [optimizer, *others]:
            opt.step()
    for params, expected in zip(together, alone, strict=True):
        assert same(params, expected)


# --- unusual numbers -------------------------------------------------------------------------------------------------


@EACH_RULE
def test_a_nan_in_the_gradient_shows_in_the_weights_from_then_on(make: Kind) -> None:
    params = parameters(shapes=[(3,), (3,), (4, 3)])
    optimizer = make(params)
    take_steps(optimizer, [0])
    give_gradients(params, 1)
    params[0].grad[1] = NAN
    optimizer.step()
    assert params[0][1].isnan()
    take_steps(optimizer, [2, 3])
    assert params[0][1].isnan()
    assert all(p.isfinite().all() for p in params[1:])


@EACH
def test_a_nan_in_the_gradient_lets_no_other_weight_jump(make: Kind) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = make([p])
    for step in range(3):
        p.grad = torch.tensor([1.0, NAN if step == 0 else 1.0, 1e6])
        optimizer.step()
        assert all(w.isnan() or abs(w - 1) < 1 for w in p.detach()), p


@EACH_RULE
def test_a_nan_in_the_weights_stays(make: Kind) -> None:
    p = nn.Parameter(torch.tensor([1.0, NAN, 1.0]))
    p.grad = torch.ones(3)
    make([p]).step()
    assert p[1].isnan()


@pytest.mark.parametrize("exponent", [-100, 83])  # about 1e-30 and 1e25
@EACH
def test_the_size_of_all_gradients_does_not_matter(make: Kind, exponent: int) -> None:
    plain, scaled = parameters(), parameters()
    optimizer, other = make(plain, **make.scale_free), make(scaled, **make.scale_free)
    for step in range(4):
        take_steps(optimizer, [step])
        take_steps(other, [step], scale=2.0**exponent)
        assert_close(scaled, plain, 1e-6)


@EACH
def test_the_largest_gradients_of_float32_leave_the_weights_finite(make: Kind) -> None:
    plain, scaled = parameters(shapes=[(4, 3), (5,)]), parameters(shapes=[(4, 3), (5,)])
    optimizer, other = make(plain, **make.scale_free), make(scaled, **make.scale_free)
    for _ in range(2):
        for p, q in zip(plain, scaled, strict=True):
            p.grad, q.grad = p.detach().sign(), 3e38 * q.detach().sign()
        optimizer.step()
        other.step()
    assert_close(scaled, plain, 1e-5)


@EACH
def test_gradients_smaller_than_normal_numbers_leave_the_weights_finite(make: Kind) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = make([p], **make.scale_free)
    for _ in range(3):
        p.grad = torch.tensor([1e-40, 0.0, -1e-45])
        optimizer.step()
    assert p.isfinite().all()
    assert (p - 1).abs().max() < 0.5


@EACH_RULE
def test_gradients_of_zero_leave_the_weights_finite(make: Kind) -> None:
    params = parameters()
    optimizer = make(params, **make.scale_free)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(p.isfinite().all() for p in params)
