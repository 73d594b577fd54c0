"""What every optimizer owes to whoever calls it."""

import copy
import io
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reltrust.optim import LARS, Fromage, Madam, SignSGD

Make = Callable[..., Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "fromage": lambda params, lr=0.01: Fromage(params, lr=lr),
    "fromage_p_bound": lambda params, lr=0.01: Fromage(params, lr=lr, p_bound=0.9),
    "lars": lambda params, lr=0.01: LARS(params, lr=lr),
    "madam": lambda params, lr=0.01: Madam(params, lr=lr),
    "signsgd": lambda params, lr=0.01: SignSGD(params, lr=lr),
}
EACH = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in [(4, 3), (3,), ()]]


def give_gradients(params: Iterable[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def take_steps(optimizer: Optimizer, steps: Iterable[int]) -> None:
    """The gradients of a step depend on its number alone."""
    for step in steps:
        give_gradients([p for group in optimizer.param_groups for p in group["params"]], step)
        optimizer.step()


def values(params: Iterable[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def same(xs: Iterable[Tensor], ys: Iterable[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True))


# --- a step ----------------------------------------------------------------------------------------------------------


@EACH
def test_a_step_moves_every_parameter_in_place(make: Make) -> None:
    params = parameters()
    before, addresses = values(params), [p.data_ptr() for p in params]
    take_steps(make(params), [0])
    assert not any(torch.equal(p, old) for p, old in zip(params, before, strict=True))
    assert [p.data_ptr() for p in params] == addresses
    assert all(p.isfinite().all() and p.requires_grad and p.is_leaf for p in params)


@EACH
def test_the_closures_loss_is_returned_and_its_gradients_are_used(make: Make) -> None:
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
    optimizer: Any = make(by_closure)
    with torch.no_grad():
        returned = optimizer.step(closure)
    assert enabled == [True]
    assert returned.item() == expected.item()
    assert same(by_closure, by_hand)


@EACH
def test_without_a_closure_a_step_returns_none(make: Make) -> None:
    params = parameters()
    give_gradients(params, 0)
    assert make(params).step() is None


@EACH
def test_a_step_does_not_write_to_the_gradients(make: Make) -> None:
    params = parameters()
    optimizer = make(params)
    for step in range(3):
        give_gradients(params, step)
        grads: list[Any] = [p.grad for p in params]
        before, versions = values(grads), [g._version for g in grads]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert same(grads, before)
        assert [g._version for g in grads] == versions


@EACH
def test_a_gradient_that_is_an_expanded_view_counts_like_its_copy(make: Make) -> None:
    viewed, copied = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    viewed.grad = torch.tensor(0.5).expand(3, 2)
    copied.grad = viewed.grad.clone()
    make([viewed]).step()
    make([copied]).step()
    assert torch.equal(viewed, copied)
    assert torch.equal(viewed.grad, copied.grad)


@EACH
def test_parameters_without_a_gradient_are_left_alone(make: Make) -> None:
    params = parameters()
    before = values(params)
    optimizer = make(params)
    give_gradients(params, 0)
    params[1].grad = None
    optimizer.step()
    assert torch.equal(params[1], before[1])
    assert params[1] not in optimizer.state
    assert not torch.equal(params[0], before[0])
    assert not torch.equal(params[2], before[2])


@EACH
def test_a_parameter_whose_gradient_comes_later_moves_as_if_the_steps_before_had_not_been(make: Make) -> None:
    late, alone = parameters(), parameters()
    optimizer = make(late)
    for step in range(3):
        give_gradients(late, step)
        late[0].grad = None
        optimizer.step()
    for params, opt in ((late, optimizer), (alone, make(alone))):
        give_gradients(params, 3)
        opt.step()
    torch.testing.assert_close(late[0], alone[0], rtol=1e-6, atol=0)


@EACH
def test_a_step_without_any_gradient_does_nothing(make: Make) -> None:
    params = parameters()
    before = values(params)
    optimizer = make(params)
    assert optimizer.step() is None
    assert same(params, before)
    assert not optimizer.state


@EACH
def test_a_learning_rate_of_zero_does_nothing(make: Make) -> None:
    params = [nn.Parameter(0.1 * p.detach()) for p in parameters(dtype=torch.float64)]
    optimizer = make(params, lr=0.01)
    take_steps(optimizer, range(3))
    before = values(params)
    optimizer.param_groups[0]["lr"] = 0.0
    take_steps(optimizer, range(3, 5))
    for p, old in zip(params, before, strict=True):
        torch.testing.assert_close(p.detach(), old, rtol=1e-13, atol=0)


@EACH
def test_a_least_squares_problem_is_driven_downhill(make: Make) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=generator)
    y = x @ torch.tensor([1.0, 0.5, 2.0, 1.5, 0.7])
    w = nn.Parameter(torch.full((5,), 1.6))  # of the signs of the solution, and larger than it
    optimizer = make([w])
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = ((x @ w - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("name", ["fromage", "lars", "madam"])
def test_a_nan_in_the_gradient_shows_in_the_weights(name: str) -> None:
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.tensor([1.0, float("nan"), 1.0])
    OPTIMIZERS[name]([p]).step()
    assert p[1].isnan()


@EACH
def test_a_nan_in_the_weights_stays(make: Make) -> None:
    p = nn.Parameter(torch.tensor([1.0, float("nan"), 1.0]))
    p.grad = torch.ones(3)
    make([p]).step()
    assert p[1].isnan()


# --- state -----------------------------------------------------------------------------------------------------------


def by_deepcopy(state: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(state)


def by_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("carry", [by_deepcopy, by_file])
@EACH
def test_a_saved_optimizer_continues_bit_for_bit(make: Make, carry: Callable[..., dict[str, Any]]) -> None:
    params = parameters()
    optimizer = make(params, lr=0.02)
    take_steps(optimizer, range(5))
    continued = [nn.Parameter(value) for value in values(params)]
    restored = make(continued, lr=0.5)
    restored.load_state_dict(carry(optimizer.state_dict()))
    for step in range(5, 10):
        take_steps(optimizer, [step])
        take_steps(restored, [step])
        assert same(params, continued)


@pytest.mark.parametrize("name", ["fromage_p_bound", "madam"])
def test_the_state_that_is_saved_is_what_makes_it_continue(name: str) -> None:
    params = parameters()
    optimizer = OPTIMIZERS[name](params)
    take_steps(optimizer, range(5))
    assert len(optimizer.state_dict()["state"]) == len(params)
    continued = [nn.Parameter(value) for value in values(params)]
    forgetful = OPTIMIZERS[name](continued)
    take_steps(optimizer, [5])
    take_steps(forgetful, [5])
    assert not same(params, continued)


@pytest.mark.parametrize("name", ["fromage", "lars", "signsgd"])
def test_optimizers_without_memory_keep_no_state(name: str) -> None:
    params = parameters()
    optimizer = OPTIMIZERS[name](params)
    take_steps(optimizer, range(2))
    assert not optimizer.state_dict()["state"]


@EACH
def test_a_copied_optimizer_and_its_copied_parameters_continue_alike(make: Make) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(3))
    twins, twin = copy.deepcopy((params, optimizer))
    take_steps(optimizer, range(3, 6))
    take_steps(twin, range(3, 6))
    assert same(params, twins)


# --- groups and learning rates ---------------------------------------------------------------------------------------


@EACH
def test_a_changed_learning_rate_is_followed_at_the_next_step(make: Make) -> None:
    changed, fixed, unchanged = parameters(), parameters(), parameters()
    optimizer = make(changed, lr=0.01)
    optimizer.param_groups[0]["lr"] = 0.003
    take_steps(optimizer, [0])
    take_steps(make(fixed, lr=0.003), [0])
    take_steps(make(unchanged, lr=0.01), [0])
    assert same(changed, fixed)
    assert not same(changed, unchanged)


@EACH
def test_a_learning_rate_in_a_tensor_counts_like_the_number(make: Make) -> None:
    by_tensor, by_number = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    lr = torch.tensor(0.02, dtype=torch.float64)
    tensor_optimizer, number_optimizer = make(by_tensor, lr=lr), make(by_number, lr=0.02)
    take_steps(tensor_optimizer, range(3))
    take_steps(number_optimizer, range(3))
    lr.fill_(0.005)
    number_optimizer.param_groups[0]["lr"] = 0.005
    take_steps(tensor_optimizer, range(3, 6))
    take_steps(number_optimizer, range(3, 6))
    for x, y in zip(by_tensor, by_number, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)


@EACH
def test_step_lr_drives_it(make: Make) -> None:
    scheduled, by_hand = parameters(), parameters()
    optimizer, other = make(scheduled, lr=0.08), make(by_hand, lr=0.08)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    for step, lr in enumerate([0.08, 0.08, 0.04, 0.04, 0.02, 0.02]):
        assert optimizer.param_groups[0]["lr"] == lr
        take_steps(optimizer, [step])
        scheduler.step()
        other.param_groups[0]["lr"] = lr
        take_steps(other, [step])
        assert same(scheduled, by_hand)


@EACH
def test_a_group_added_later_moves_with_its_own_learning_rate_and_its_own_start(make: Make) -> None:
    first, second = parameters(0), parameters(1)
    first_alone, second_alone = parameters(0), parameters(1)
    optimizer = make(first, lr=0.01)
    take_steps(optimizer, range(3))
    optimizer.add_param_group({"params": second, "lr": 0.05})

    one, other = make(first_alone, lr=0.01), make(second_alone, lr=0.05)
    take_steps(one, range(3))
    for step in range(3, 6):
        for params in (first, second, first_alone, second_alone):
            give_gradients(params, step)
        for each in (optimizer, one, other):
            each.step()
    assert same(first, first_alone)
    assert same(second, second_alone)


@EACH
def test_parameter_groups_given_at_the_start_have_their_own_learning_rates(make: Make) -> None:
    grouped, slow, fast = parameters(), parameters()[:1], parameters()[1:]
    optimizer = make([{"params": grouped[:1]}, {"params": grouped[1:], "lr": 0.1}], lr=0.01)
    for params in (grouped[:1], grouped[1:], slow, fast):
        give_gradients(params, 0)
    for each in (optimizer, make(slow, lr=0.01), make(fast, lr=0.1)):
        each.step()
    assert same(grouped, [*slow, *fast])


# --- refusals --------------------------------------------------------------------------------------------------------


@EACH
def test_a_sparse_gradient_is_refused_before_anything_moves(make: Make) -> None:
    dense, p = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(4, 2))
    dense.grad = torch.ones(2)
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (4, 2), check_invariants=True)
    optimizer = make([dense, p])
    with pytest.raises(RuntimeError, match=f"{type(optimizer).__name__}.*sparse"):
        optimizer.step()
    assert torch.equal(dense, torch.ones(2))
    assert torch.equal(p, torch.ones(4, 2))


@pytest.mark.parametrize("name", ["madam", "signsgd"])
def test_a_complex_parameter_is_refused(name: str) -> None:
    p = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    p.grad = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(RuntimeError, match="complex"):
        OPTIMIZERS[name]([p]).step()


INF, NAN = float("inf"), float("nan")
REFUSED: list[tuple[Callable[..., Optimizer], str, float]] = [
    *((optimizer, "lr", value) for optimizer in (Fromage, LARS, Madam, SignSGD) for value in (-0.1, NAN, INF)),
    *((optimizer, "p_bound", value) for optimizer in (Fromage, LARS) for value in (-1, NAN)),
    *((Madam, "g_bound", value) for value in (0, -1.0, NAN)),
    *((Madam, "p_scale", value) for value in (0, -1.0, NAN, INF)),
    *((Madam, "beta", value) for value in (1, -0.1, NAN)),
]


@pytest.mark.parametrize(("optimizer", "argument", "value"), REFUSED)
def test_an_argument_outside_its_range_is_refused_by_name_and_value(
    optimizer: Callable[..., Optimizer], argument: str, value: float
) -> None:
    with pytest.raises(ValueError, match=f"^{argument}={value!r} "):
        optimizer(parameters(), **{"lr": 0.01, argument: value})


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        (Fromage, {"lr": 0, "p_bound": 0}),
        (LARS, {"lr": 0.0, "p_bound": None}),
        (Madam, {"lr": 0.0, "p_scale": 1e-3, "g_bound": 1e-3, "beta": 0}),
        (SignSGD, {"lr": 0}),
    ],
)
def test_arguments_at_the_edge_of_their_ranges_are_allowed(
    optimizer: Callable[..., Optimizer], arguments: dict[str, Any]
) -> None:
    group = optimizer(parameters(), **arguments).param_groups[0]
    assert {key: group[key] for key in arguments} == arguments


def own_defaults(optimizer: Optimizer) -> dict[str, Any]:
    shared = {"foreach", "maximize", "capturable", "differentiable", "fused"}
    return {key: value for key, value in optimizer.defaults.items() if key not in shared}


def test_the_defaults_are_those_of_the_papers() -> None:
    assert own_defaults(Fromage(parameters())) == {"lr": 0.01, "p_bound": None}
    assert own_defaults(LARS(parameters())) == {"lr": 0.01, "p_bound": None}
    assert own_defaults(Madam(parameters())) == {"lr": 0.01, "p_scale": 3.0, "g_bound": 10.0, "beta": 0.999}


# --- the package -----------------------------------------------------------------------------------------------------


def test_importing_the_optimizers_imports_no_other_part_of_reltrust_and_none_of_its_dependencies() -> None:
    code = "import sys, reltrust.optim; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    modules = found.stdout.split()
    ours = {name for name in modules if name.split(".")[0] == "reltrust"}
    assert {"reltrust", "reltrust.optim", "reltrust.optim.fromage", "reltrust.optim.madam"} <= ours
    assert {name for name in ours if name != "reltrust" and not f"{name}.".startswith("reltrust.optim.")} == set()
    heavy = {"hydra", "omegaconf", "pydantic", "pandas", "matplotlib", "sklearn", "torchvision", "wandb", "mlxtend"}
    assert heavy & {name.split(".")[0] for name in modules} == set()
