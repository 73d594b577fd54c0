"""Stacked parameters: K networks in one optimizer, each as if it were alone."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from reltrust.optim import LARS, Fromage, IntegerMadam, Madam, NovoGrad, SignSGD

from .internals import use_sizes

MEMBERS, STEPS = 5, 100
SHAPES = [(7, 6), (7,), (3, 2, 2), (1,), (30, 20)]

# For each optimizer the hyperparameters of five members.
LRS = [0.1, 0.03, 0.01, 0.003, 0.001]
CASES: list[tuple[type, dict[str, Any], dict[str, list[Any]]]] = [
    (Fromage, {}, {"lr": LRS}),
    (Fromage, {}, {"lr": LRS, "p_bound": [1.0, 1.5, 0.9, 2.0, 1.0]}),
    (LARS, {}, {"lr": LRS}),
    (Madam, {}, {"lr": LRS}),
    (
        Madam,
        {},
        {
            "lr": LRS,
            "p_scale": [3.0, 2.0, 1.0, 4.0, 1.5],
            "g_bound": [10.0, 1.0, 0.5, 2.0, 3.0],
            "beta": [0.9, 0.999, 0.0, 0.5, 0.99],
        },
    ),
    (IntegerMadam, {"levels": 256, "base_lr": 0.01}, {"lr": LRS, "p_scale": [3.0, 2.0, 1.0, 4.0, 1.5]}),
    (SignSGD, {}, {"lr": LRS}),
    (NovoGrad, {}, {"lr": LRS}),
    (
        NovoGrad,
        {"grad_averaging": True},
        {"lr": LRS, "betas": [(0.9, 0.99), (0.95, 0.98), (0.0, 0.5), (0.5, 0.0), (0.9, 0.9)], "weight_decay": LRS},
    ),
]
IDS = [f"{cls.__name__}-{'-'.join(own)}" for cls, _, own in CASES]


def drawn(seed: int) -> list[list[Tensor]]:
    """The parameters of each member."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(MEMBERS)]


def by_member(values: list[Any]) -> Any:
    if isinstance(values[0], tuple):
        return tuple(torch.tensor(part, dtype=torch.float64) for part in zip(*values, strict=True))
    return torch.tensor(values, dtype=torch.float64)


def stacked(cls: Callable[..., Any], params: list[Tensor], fixed: dict[str, Any], own: dict[str, Any]) -> Any:
    group = {"params": params, "stacked_dims": 1, **fixed, **{key: by_member(values) for key, values in own.items()}}
    return cls([group], lr=1.0)


def gradients(step: int) -> list[list[Tensor]]:
    """Every member's, of sizes that differ by member; at some steps those of a tensor vanish."""
    grads = drawn(1000 + step)
    for k, member in enumerate(grads):
        for g in member:
            g.mul_(10.0 ** (-3 * k))
        if step % 7 == 0:
            member[0].zero_()
    return grads


@pytest.mark.parametrize(("cls", "fixed", "own"), CASES, ids=IDS)
def test_a_stack_moves_each_member_as_if_it_were_alone(
    cls: Callable[..., Any], fixed: dict[str, Any], own: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sizes(monkeypatch, 2**15, 2 * math.prod(SHAPES[-1]))  # the last one is updated in slices of two members
    alone = [[p.clone() for p in member] for member in drawn(0)]
    optimizers = [
        cls(member, **fixed, **{key: values[k] for key, values in own.items()}) for k, member in enumerate(alone)
    ]
    stacks = [torch.stack(tensors) for tensors in zip(*drawn(0), strict=True)]
    optimizer = stacked(cls, stacks, fixed, own)
    for step in range(STEPS):
        grads = gradients(step)
        for member, one, its in zip(alone, optimizers, grads, strict=True):
            for p, g in zip(member, its, strict=True):
                p.grad = g
            one.step()
        for stack, tensors in zip(stacks, zip(*grads, strict=True), strict=True):
            stack.grad = torch.stack(tensors)
        optimizer.step()
    for k, member in enumerate(alone):
        for p, stack in zip(member, stacks, strict=True):
            # The same arithmetic, but a stack's norms are summed in another order.
            assert (stack[k] - p).norm() <= (1e-3 if cls is IntegerMadam else 1e-6) * p.norm()
            for key, value in optimizers[k].state[p].items():
                assert optimizer.state[stack][key][k].shape == value.shape
                assert optimizer.state[stack][key].dtype == value.dtype


@pytest.mark.capability
@pytest.mark.parametrize(("cls", "fixed", "own"), CASES, ids=IDS)
def test_a_stack_of_stacks_moves_as_the_stacks_in_it_do(
    cls: Callable[..., Any], fixed: dict[str, Any], own: dict[str, list[Any]]
) -> None:
    layers = [[torch.stack(tensors) for tensors in zip(*drawn(seed), strict=True)] for seed in range(3)]
    deep = [torch.stack(of_shape, dim=1) for of_shape in zip(*layers, strict=True)]
    flat = [p for stacks in layers for p in stacks]
    separate, together = stacked(cls, flat, fixed, own), stacked(cls, deep, {**fixed, "stacked_dims": 2}, own)
    for step in range(10):
        for i, stacks in enumerate(layers):
            for p, tensors in zip(stacks, zip(*gradients(10 * step + i), strict=True), strict=True):
                p.grad = torch.stack(tensors)
        for p, of_shape in zip(deep, zip(*layers, strict=True), strict=True):
            p.grad = torch.stack([one.grad for one in of_shape], dim=1)
        separate.step()
        together.step()
    for i, stacks in enumerate(layers):
        for p, all_layers in zip(stacks, deep, strict=True):
            assert torch.equal(all_layers[:, i], p)
            for key, value in separate.state[p].items():
                assert torch.equal(together.state[all_layers][key][:, i], value)


@pytest.mark.parametrize(("cls", "fixed", "own"), CASES, ids=IDS)
def test_a_stack_goes_on_from_its_saved_state_to_the_bit(
    cls: Callable[..., Any], fixed: dict[str, Any], own: dict[str, list[Any]]
) -> None:
    def steps(params: list[Tensor], optimizer: Any, first: int, last: int) -> None:
        for step in range(first, last):
            for stack, tensors in zip(params, zip(*gradients(step), strict=True), strict=True):
                stack.grad = torch.stack(tensors)
            optimizer.step()

    whole = [torch.stack(tensors) for tensors in zip(*drawn(0), strict=True)]
    optimizer = stacked(cls, whole, fixed, own)
    steps(whole, optimizer, 0, 5)
    resumed = [p.clone() for p in whole]
    other = stacked(cls, resumed, fixed, own)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(whole, optimizer, 5, 10)
    steps(resumed, other, 5, 10)
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a, b)


@pytest.mark.capability
def test_a_member_without_finite_numbers_does_not_disturb_the_others() -> None:
    for cls, fixed, own in CASES:
        params = [[torch.stack(tensors) for tensors in zip(*drawn(0), strict=True)] for _ in range(2)]
        optimizers = [stacked(cls, stacks, fixed, own) for stacks in params]
        for step in range(5):
            for broken, (stacks, optimizer) in enumerate(zip(params, optimizers, strict=True)):
                for stack, tensors in zip(stacks, zip(*gradients(step), strict=True), strict=True):
                    stack.grad = torch.stack(tensors)
                    if broken:
                        stack.grad[2] = [float("nan"), float("inf"), 1e30][step % 3]
                optimizer.step()
        others = [0, 1, 3, 4]
        for a, b in zip(*params, strict=True):
            assert torch.equal(a[others], b[others])
            assert not torch.equal(a[2], b[2])


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"params": [torch.ones(3, 2), torch.ones(4, 2)]}, "as many members"),
        ({"params": [torch.ones(())]}, "1 axes at least"),
        ({"params": [torch.ones(3)], "stacked_dims": 2}, "2 axes at least"),
        ({"params": [torch.ones(3, 3, 3)], "stacked_dims": 3}, "stacked_dims=3"),
        ({"params": [torch.ones(3, 3, 3)], "stacked_dims": True}, "stacked_dims=True"),
        ({"params": [torch.ones(2, 3).T]}, "contiguous"),
        ({"params": [torch.ones(3, 2, dtype=torch.complex64)]}, "real"),
        ({"params": [torch.ones(3, 2)], "lr": torch.tensor([0.1, -0.1, 0.1])}, "lr=-0.1"),
        ({"params": [torch.ones(3, 2)], "lr": torch.tensor([0.1, 0.1])}, "3 members"),
        ({"params": [torch.ones(3, 2)], "levels": torch.tensor([16, 16, 16])}, "for lr, p_scale, g_bound, beta"),
        ({"params": [torch.ones(3, 2)], "beta": torch.tensor([0.9, 1.0, 0.9])}, "beta=1.0"),
    ],
)
def test_a_stack_that_is_none_is_refused_and_not_added(group: dict[str, Any], message: str) -> None:
    optimizer = IntegerMadam([torch.ones(2)])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"stacked_dims": 1, **group})
    assert len(optimizer.param_groups) == 1


def test_a_stack_is_not_differentiated() -> None:
    with pytest.raises(RuntimeError, match="differentiable"):
        Fromage([{"params": [torch.ones(3, 2)], "stacked_dims": 1}], differentiable=True)
