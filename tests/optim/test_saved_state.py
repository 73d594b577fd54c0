"""What every optimizer owes to whoever saves, copies or loads it."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from reltrust.optim import SignSGD

from .kinds import (
    EACH,
    EACH_CLASS,
    EACH_RULE,
    KINDS,
    SHARED,
    Kind,
    by_file,
    copies,
    default_arguments,
    each,
    give_gradients,
    parameters,
    same,
    take_steps,
    tensors_of_state,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@EACH
def test_a_saved_optimizer_continues_bit_for_bit(make: Kind, dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    optimizer = make(params, lr=0.02)
    take_steps(optimizer, range(5))
    continued = copies(params)
    restored = make(continued, lr=0.5)
    restored.load_state_dict(by_file(optimizer.state_dict()))
    for step in range(5, 10):
        take_steps(optimizer, [step])
        take_steps(restored, [step])
        assert same(params, continued)
    before, after = tensors_of_state(optimizer), tensors_of_state(restored)
    assert list(before) == list(after)
    assert same(before.values(), after.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@EACH
def test_state_has_its_own_dtype_whatever_that_of_the_parameters_and_keeps_it(make: Kind, dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    optimizer = make(params)
    take_steps(optimizer, range(2))
    restored = make(copies(params))
    restored.load_state_dict(by_file(optimizer.state_dict()))
    for opt in (optimizer, restored):
        for _ in range(2):
            found = tensors_of_state(opt)
            assert set(found) == {(i, key) for i in range(len(params)) for key in make.state}
            for (_, key), value in found.items():
                moment = torch.float64 if dtype == torch.float64 else torch.float32
                assert value.dtype == (moment if make.state[key] == torch.float32 else make.state[key]), key
            take_steps(opt, [2])


@EACH_RULE
def test_state_comes_into_being_at_the_first_step_of_each_parameter(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    assert not optimizer.state
    give_gradients(params, 0)
    params[0].grad = None
    optimizer.step()
    assert {i for i, _ in tensors_of_state(optimizer)} == (set(range(1, len(params))) if make.state else set())
    take_steps(optimizer, [1])
    assert {i for i, _ in tensors_of_state(optimizer)} == (set(range(len(params))) if make.state else set())


@pytest.mark.parametrize("stacked", [True, False])
@EACH_RULE
def test_to_look_at_the_state_of_a_parameter_changes_nothing(make: Kind, stacked: bool) -> None:
    looked_at, left_alone = parameters(), parameters()
    optimizers = [make(params, foreach=stacked) for params in (looked_at, left_alone)]
    for step in range(4):
        for params, optimizer in zip((looked_at, left_alone), optimizers, strict=True):
            give_gradients(params, step)
            if step < 2:
                params[0].grad = params[3].grad = None
            if params is looked_at:
                assert all(optimizer.state[p] is not None for p in params)  # torch's dict makes an empty entry
            optimizer.step()
        assert same(looked_at, left_alone)


@each(kind for kind in KINDS if kind.state)
def test_the_state_that_is_saved_is_what_makes_it_continue(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(5))
    assert len(optimizer.state_dict()["state"]) == len(params)
    continued = copies(params)
    forgetful = make(continued)
    take_steps(optimizer, [5])
    take_steps(forgetful, [5])
    assert not same(params, continued)


@EACH_RULE
def test_a_copied_optimizer_and_its_copied_parameters_continue_alike(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(3))
    twins, twin = copy.deepcopy((params, optimizer))
    take_steps(optimizer, range(3, 6))
    assert not same(params, twins)
    take_steps(twin, range(3, 6))
    assert same(params, twins)


def by_pickle(optimizer: Optimizer) -> Any:
    return pickle.loads(pickle.dumps(optimizer))


@pytest.mark.parametrize("carry", [copy.deepcopy, by_pickle])
@EACH
def test_an_optimizer_that_is_copied_or_pickled_brings_its_parameters_along(
    make: Kind, carry: Callable[[Optimizer], Optimizer]
) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(3))
    twin = carry(optimizer)
    twins = twin.param_groups[0]["params"]
    assert same(params, twins)
    assert not any(p is q for p, q in zip(params, twins, strict=True))
    take_steps(optimizer, range(3, 6))
    take_steps(twin, range(3, 6))
    assert same(params, twins)
    calls: list[Any] = []
    twin.register_step_post_hook(lambda *_: calls.append(None))
    twin.step()
    assert len(calls) == 1


def forget(kind: Kind, groups: list[dict[str, Any]]) -> list[str]:
    """Deletes from groups what has its default, as if the keywords had been added to the optimizer since."""
    forgotten = [key for key, default in default_arguments(kind).items() if groups[0][key] == default]
    for group in groups:
        for key in forgotten:
            del group[key]
    return forgotten


@EACH
def test_a_state_dict_of_before_some_keywords_existed_continues_with_their_defaults(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(3))
    old = copy.deepcopy(optimizer.state_dict())
    forgotten = forget(make, old["param_groups"])
    assert set(SHARED) <= set(forgotten)
    assert make.optimizer is SignSGD or len(forgotten) > len(SHARED) or make.name == "novograd_averaging"
    continued = copies(params)
    restored = make(continued)
    restored.load_state_dict(old)
    assert restored.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    take_steps(optimizer, range(3, 6))
    take_steps(restored, range(3, 6))
    assert same(params, continued)


@EACH
def test_an_optimizer_pickled_before_some_keywords_existed_continues_with_their_defaults(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(3))
    twins, twin = copy.deepcopy((params, optimizer))
    forget(make, twin.param_groups)
    twin = pickle.loads(pickle.dumps(twin))
    twins = twin.param_groups[0]["params"]
    take_steps(optimizer, range(3, 6))
    take_steps(twin, range(3, 6))
    assert same(params, twins)


@pytest.mark.parametrize("carry", [by_pickle, None], ids=["pickle", "state_dict"])
@EACH_CLASS
def test_a_subclass_that_hands_keywords_on_continues_an_older_state_too(
    make: Kind, carry: Callable[[Optimizer], Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own signature names none of the keywords."""
    cls: Any = make.optimizer

    class Derived(cls):  # type: ignore[misc]
        def __init__(self, params: Any, **arguments: Any) -> None:
            super().__init__(params, **arguments)

    monkeypatch.setitem(globals(), "Derived", Derived)
    Derived.__qualname__ = "Derived"
    params = parameters()
    optimizer = Derived(params, **make.arguments)
    take_steps(optimizer, range(3))
    twins, twin = copy.deepcopy((params, optimizer))
    for group in [twin.defaults, *twin.param_groups]:
        forget(make, [group])
    if carry is not None:
        twin = carry(twin)
    else:
        old, twin = twin.state_dict(), Derived(twins, **make.arguments)
        twin.load_state_dict(old)
    assert twin.param_groups[0].keys() == optimizer.param_groups[0].keys()
    twins = twin.param_groups[0]["params"]
    take_steps(optimizer, range(3, 6))
    take_steps(twin, range(3, 6))
    assert same(params, twins)
    twin.add_param_group({"params": parameters(1)})


@pytest.mark.parametrize("stacked_dims", [0, 1])
@each(kind for kind in KINDS if kind.state)
def test_a_state_of_one_number_a_tensor_may_be_a_number(make: Kind, stacked_dims: int) -> None:
    """As the count of steps is in the state dicts of other libraries."""
    shapes = [(2, 3), (2, 3), (2,)]
    params, others = parameters(shapes=shapes), parameters(shapes=shapes)
    optimizers = [make([{"params": group, "stacked_dims": stacked_dims}]) for group in (params, others)]
    for optimizer in optimizers:
        take_steps(optimizer, range(2))
        for state in optimizer.state.values():
            for key, value in state.items():
                if value.dtype == torch.float64:
                    state[key] = 2.0 if optimizer is optimizers[0] else torch.full_like(value, 2.0)
        assert same(by_pickle(optimizer).param_groups[0]["params"], params)
        if hasattr(optimizer, "quantized") and not stacked_dims:
            assert all(optimizer.quantized(p) is None for p in params)  # as its scale has changed
    for optimizer in optimizers:
        take_steps(optimizer, range(2, 4))
    assert same(params, others)
    found, expected = map(tensors_of_state, optimizers)
    assert same(found.values(), expected.values())
    assert [x.shape for x in found.values()] == [x.shape for x in expected.values()]


@each(kind for kind in KINDS if kind.name == "fromage_p_bound")
def test_a_bound_that_is_taken_away_leaves_tensors_with_its_state_beside_others_without(make: Kind) -> None:
    params, alone = parameters(), parameters()
    optimizer, other = make(params), make(alone, p_bound=None)
    for opt, own in ((optimizer, params), (other, alone)):
        give_gradients(own, 0)
        own[0].grad = None
        opt.param_groups[0]["lr"] = 0.0  # the state is started, and nothing moves
        opt.step()
        opt.param_groups[0] |= {"lr": 0.01, "p_bound": None}
        take_steps(opt, [1])
    assert same(params, alone)


@EACH_RULE
def test_a_hook_may_rewrite_the_state_dict_that_is_loaded(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    take_steps(optimizer, range(3))
    old = copy.deepcopy(optimizer.state_dict())
    old["state"] = {i: {f"old_{key}": x for key, x in state.items()} for i, state in old["state"].items()}

    def rename(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        named = {i: {k.removeprefix("old_"): x for k, x in s.items()} for i, s in state_dict["state"].items()}
        return {**state_dict, "state": named}

    continued = copies(params)
    restored = make(continued)
    restored.register_load_state_dict_pre_hook(rename)
    restored.load_state_dict(old)
    take_steps(optimizer, range(3, 6))
    take_steps(restored, range(3, 6))
    assert same(params, continued)


@EACH_RULE
def test_a_state_dict_of_other_groups_is_refused(make: Kind) -> None:
    params = parameters()
    state = make(params).state_dict()
    with pytest.raises(ValueError, match="different number of parameter groups"):
        make([{"params": params[:1]}, {"params": params[1:]}]).load_state_dict(state)
    with pytest.raises(ValueError, match="doesn't match the size"):
        make(params[1:]).load_state_dict(state)


@EACH_RULE
def test_parameters_that_are_given_with_names_are_saved_with_them(make: Kind) -> None:
    net = nn.Linear(3, 2)
    optimizer = make(net.named_parameters())
    take_steps(optimizer, [0])
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    restored = make(copy.deepcopy(net).named_parameters())
    restored.load_state_dict(by_file(optimizer.state_dict()))
    take_steps(optimizer, [1])
    take_steps(restored, [1])
    assert same(net.parameters(), restored.param_groups[0]["params"])
