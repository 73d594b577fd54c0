"""What every optimizer owes to whoever sets it: hyperparameters, learning rates, groups, refusals."""

import inspect
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from reltrust.optim import LARS, Fromage, IntegerMadam, Madam, NovoGrad, SignSGD

from .kinds import (
    DTYPES,
    EACH,
    EACH_CLASS,
    EACH_RULE,
    INF,
    KINDS,
    NAN,
    ONE_OF_EACH_CLASS,
    SHARED,
    Kind,
    Memory,
    assert_close,
    by_file,
    default_arguments,
    each,
    give_gradients,
    hyperparameters,
    integer_madam_by_equations,
    parameters,
    same,
    take_steps,
    tensors_of_state,
    values,
)


def test_the_list_has_another_value_and_invalid_values_of_every_hyperparameter() -> None:
    for kind in KINDS:
        own = set(hyperparameters(kind))
        assert set(kind.others) - {"maximize"} == own - {"init"}, kind.name
        assert set(kind.invalid) == own - {"lr", "grad_averaging"}, kind.name
        usual = {**default_arguments(kind), "lr": 0.01, **kind.arguments}
        assert all(other != usual[key] for key, other in kind.others.items()), kind.name


@EACH
def test_every_argument_is_a_default_and_in_every_group(make: Kind) -> None:
    optimizer = make(parameters())
    arguments = {**default_arguments(make), "lr": 0.01, **make.arguments, "stacked_dims": 0}
    assert set(SHARED.items()) <= set(arguments.items())
    assert optimizer.defaults == arguments
    assert {key: value for key, value in optimizer.param_groups[0].items() if key != "params"} == arguments


# --- hyperparameters -------------------------------------------------------------------------------------------------


def each_change(kinds: list[Kind]) -> pytest.MarkDecorator:
    changes = [(kind, key) for kind in kinds for key in kind.others]
    return pytest.mark.parametrize(("make", "key"), changes, ids=lambda x: getattr(x, "name", x))


@each_change(KINDS)
def test_every_hyperparameter_is_read_from_the_group_at_each_step(make: Kind, key: str) -> None:
    params = parameters(dtype=torch.float64)
    group = (optimizer := make(params, lr=0.04)).param_groups[0]
    usual, other = group[key], make.others[key]
    expected, unchanged = values(params), values(params)
    memories: list[Memory] = [{} for _ in range(2 * len(params))]
    differed = False
    for step in range(9):
        group[key] = other if 3 <= step < 6 else usual
        take_steps(optimizer, [step])
        for twins, value, own in ((expected, group[key], memories[::2]), (unchanged, usual, memories[1::2])):
            settings = {**group, key: value}
            for i, (p, memory) in enumerate(zip(params, own, strict=True)):
                g = -p.grad if settings["maximize"] else p.grad
                twins[i] = make.equations(twins[i], g, memory, settings)
        assert_close(params, expected, 1e-11)
        differed = differed or not same(expected, unchanged)
    assert differed


@each_change(ONE_OF_EACH_CLASS)
def test_a_hyperparameter_set_in_the_group_counts_like_one_given_at_construction(make: Kind, key: str) -> None:
    changed, fixed, unchanged = parameters(), parameters(), parameters()
    optimizer = make(changed)
    optimizer.param_groups[0][key] = make.others[key]
    take_steps(optimizer, range(3))
    take_steps(make(fixed, **{key: make.others[key]}), range(3))
    take_steps(make(unchanged), range(3))
    assert same(changed, fixed)
    assert not same(changed, unchanged)


@each_change(ONE_OF_EACH_CLASS)
def test_every_hyperparameter_may_differ_between_groups(make: Kind, key: str) -> None:
    grouped, usual, other = parameters(), parameters()[:2], parameters()[2:]
    optimizer = make([{"params": grouped[:2]}, {"params": grouped[2:], key: make.others[key]}])
    for step in range(3):
        for params in (grouped, [*usual, *other]):
            give_gradients(params, step)
        if step == 0:
            others = [make(usual), make(other, **{key: make.others[key]})]
        for each_optimizer in (optimizer, *others):
            each_optimizer.step()
    assert same(grouped, [*usual, *other])


@pytest.mark.parametrize("other", [300, 2])  # of the dtype of 32768, and of a smaller one
def test_weights_beyond_a_scale_that_becomes_shorter_move_from_its_last_level(other: int) -> None:
    params = parameters(dtype=torch.float64)
    optimizer = IntegerMadam(params, levels=32768)
    expected = values(params)
    memories: list[Memory] = [{} for _ in params]
    for step in range(6):
        optimizer.param_groups[0]["levels"] = 32768 if step < 3 else other
        take_steps(optimizer, [step])
        for i, (p, memory) in enumerate(zip(params, memories, strict=True)):
            expected[i] = integer_madam_by_equations(expected[i], p.grad, memory, optimizer.param_groups[0])
        assert_close(params, expected, 1e-11)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_levels_are_kept_in_the_smallest_dtype_that_holds_them_now(dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    optimizer = IntegerMadam(params)
    for step, levels in enumerate([256, 4096, 256, 65536, 32768, 257, 2]):
        optimizer.param_groups[0]["levels"] = levels
        take_steps(optimizer, [step])
        expected = torch.uint8 if levels <= 256 else torch.int16 if levels <= 32768 else torch.uint16
        for p in params:
            held = optimizer.state[p]["level"]
            assert held.dtype == expected
            assert int(held.to(torch.int32).max()) < levels
            assert int(held.to(torch.int32).min()) >= 0


@pytest.mark.parametrize("levels", [256, 2048])
def test_integer_madam_knows_no_levels_of_a_weight_that_is_beyond_a_scale_made_shorter(levels: int) -> None:
    params = parameters()
    optimizer = IntegerMadam(params)
    take_steps(optimizer, range(2))
    assert all(optimizer.quantized(p) is not None for p in params)
    optimizer.param_groups[0]["levels"] = levels
    for p in params:
        held = optimizer.quantized(p)
        assert held is None or int(held[0].level.max()) < levels
    take_steps(optimizer, [2])
    assert all(optimizer.quantized(p) is not None for p in params)


def test_the_init_of_integer_madam_is_read_at_the_first_step_of_each_parameter() -> None:
    set_later, given, quantized = parameters(), parameters(), parameters()
    optimizer = IntegerMadam(set_later)
    optimizer.param_groups[0]["init"] = "random"
    for opt in (optimizer, IntegerMadam(given, init="random"), IntegerMadam(quantized)):
        torch.manual_seed(0)
        take_steps(opt, range(2))
    assert same(set_later, given)
    assert not same(set_later, quantized)
    assert all(torch.equal(p.sign(), q.sign()) for p, q in zip(set_later, quantized, strict=True))


# --- learning rates and groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])  # the last one was taken for a number for each row
@EACH
def test_a_learning_rate_in_a_tensor_counts_like_the_number(make: Kind, shape: tuple[int, ...]) -> None:
    by_tensor, by_number = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    lr = torch.full(shape, 0.02, dtype=torch.float64)
    tensor_optimizer, number_optimizer = make(by_tensor, lr=lr), make(by_number, lr=0.02)
    take_steps(tensor_optimizer, range(3))
    take_steps(number_optimizer, range(3))
    lr.fill_(0.05)
    number_optimizer.param_groups[0]["lr"] = 0.05
    take_steps(tensor_optimizer, range(3, 6))
    take_steps(number_optimizer, range(3, 6))
    assert_close(by_tensor, by_number, 1e-12)
    assert tensor_optimizer.param_groups[0]["lr"] is lr


@EACH_CLASS
def test_a_learning_rate_in_a_tensor_that_wants_a_gradient_is_taken_without_a_warning(make: Kind) -> None:
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer = make(parameters(), lr=torch.tensor(0.01, requires_grad=True))
            take_steps(optimizer, range(2))
    finally:
        torch.set_warn_always(always)
    assert all(p.is_leaf and p.grad_fn is None for p in optimizer.param_groups[0]["params"])


@each([kind for kind in KINDS if kind.name in ("fromage_p_bound", "madam", "novograd")])
def test_a_group_changed_by_hand_to_a_tensor_of_several_numbers_is_refused_before_anything_moves(make: Kind) -> None:
    single, stack = parameters(), [nn.Parameter(torch.ones(3, 2))]
    optimizer = make([{"params": single}, {"params": stack, "stacked_dims": 1}])
    take_steps(optimizer, [0])
    before = [*values([*single, *stack]), *values(tensors_of_state(optimizer).values())]
    for group, allowed in zip(optimizer.param_groups, ["one element", "each of 3 members"], strict=True):
        usual, group["lr"] = group["lr"], torch.tensor([0.1, 0.2])
        with pytest.raises(ValueError, match=f"lr=tensor.*{allowed}"):
            optimizer.step()
        group["lr"] = usual
    assert same([*values([*single, *stack]), *values(tensors_of_state(optimizer).values())], before)
    take_steps(optimizer, [1])


Schedule = Callable[[Optimizer], Any]

SCHEDULES: dict[str, Schedule] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.7**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.8),
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.6),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, milestones=[1, 4], gamma=0.6),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.7, total_iters=3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, start_factor=0.3, total_iters=5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.8),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.3, total_iters=3), lr_scheduler.ExponentialLR(o, gamma=0.8)], milestones=[3]
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=7),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, factor=0.7, total_iters=3), lr_scheduler.ExponentialLR(o, gamma=0.8)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.6, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.08, step_size_up=3, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.08, total_steps=9, cycle_momentum=False),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=8, power=2.0),
}


@pytest.mark.parametrize("in_a_tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_every_schedule_of_torch_drives_an_optimizer(schedule: Schedule, in_a_tensor: bool) -> None:
    (madam,) = [kind for kind in KINDS if kind.name == "madam"]
    check_that_a_schedule_drives(madam, schedule, in_a_tensor)


@pytest.mark.parametrize("in_a_tensor", [False, True], ids=["number", "tensor"])
@EACH_CLASS
def test_a_schedule_of_torch_drives_every_optimizer(make: Kind, in_a_tensor: bool) -> None:
    check_that_a_schedule_drives(make, SCHEDULES["OneCycleLR"], in_a_tensor)


def check_that_a_schedule_drives(make: Kind, schedule: Schedule, in_a_tensor: bool) -> None:
    """SGD tells which learning rates the schedule asks for; these are set by hand."""
    scheduled, by_hand, model = parameters(), parameters(), parameters()

    def start() -> float | Tensor:
        return torch.tensor(0.08, dtype=torch.float64) if in_a_tensor else 0.08

    optimizer, other = make(scheduled, lr=start()), make(by_hand, lr=start())
    sgd = torch.optim.SGD(model, lr=start())
    schedulers = [schedule(optimizer), schedule(sgd)]
    seen = []
    for step in range(8):
        seen.append(float(sgd.param_groups[0]["lr"]))
        assert float(optimizer.param_groups[0]["lr"]) == seen[-1]
        other.param_groups[0]["lr"] = torch.tensor(seen[-1], dtype=torch.float64) if in_a_tensor else seen[-1]
        take_steps(optimizer, [step])
        take_steps(other, [step])
        assert same(scheduled, by_hand)
        sgd.step()
        for scheduler in schedulers:
            scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
    assert len(set(seen)) > 1


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.08, total_steps=9),
        lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.08, step_size_up=3),
    ],
    ids=["OneCycleLR", "CyclicLR"],
)
@EACH_CLASS
def test_a_schedule_that_cycles_momentum_needs_betas(make: Kind, schedule: Schedule) -> None:
    """As README.md says; otherwise it is to be told to leave momentum alone."""
    optimizer = make(params := parameters())
    if "betas" not in make.others:
        with pytest.raises(ValueError, match="momentum"):
            schedule(optimizer)
        return
    scheduler, seen = schedule(optimizer), set()
    for step in range(6):
        take_steps(optimizer, [step])
        seen.add(optimizer.param_groups[0]["betas"])
        scheduler.step()
    assert len({beta1 for beta1, _ in seen}) > 1
    assert len({beta2 for _, beta2 in seen}) == 1
    assert all(p.isfinite().all() for p in params)


@EACH_RULE
def test_gradients_clipped_before_the_step_are_those_that_count(make: Kind) -> None:
    clipped, by_hand = parameters(), parameters()
    optimizer, other = make(clipped), make(by_hand)
    for step in range(4):
        give_gradients(clipped, step)
        give_gradients(by_hand, step)
        total = nn.utils.clip_grad_norm_(clipped, max_norm=0.1 * 2**step)
        assert total > 1
        for p in by_hand:
            p.grad = p.grad * (0.1 * 2**step / (total + 1e-6))
        optimizer.step()
        other.step()
        assert_close(clipped, by_hand, 1e-6)


@EACH_RULE
def test_a_group_added_later_moves_with_its_own_learning_rate_and_its_own_start(make: Kind) -> None:
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
        for each_optimizer in (optimizer, one, other):
            each_optimizer.step()
    assert same(first, first_alone)
    assert same(second, second_alone)


@EACH_RULE
def test_parameter_groups_given_at_the_start_have_their_own_learning_rates(make: Kind) -> None:
    grouped, slow, fast = parameters(), parameters()[:1], parameters()[1:]
    optimizer = make([{"params": grouped[:1]}, {"params": grouped[1:], "lr": 0.1}], lr=0.01)
    for params in (grouped, [*slow, *fast]):
        give_gradients(params, 0)
    for each_optimizer in (optimizer, make(slow, lr=0.01), make(fast, lr=0.1)):
        each_optimizer.step()
    assert same(grouped, [*slow, *fast])


@EACH_RULE
def test_a_group_of_no_parameters_is_allowed_and_no_parameters_at_all_are_not(make: Kind) -> None:
    params, alone = parameters(), parameters()
    optimizer = make([{"params": []}, {"params": params}])
    take_steps(optimizer, range(2))
    take_steps(make(alone), range(2))
    assert same(params, alone)
    empty = make([{"params": []}])
    assert empty.step() is None
    empty.load_state_dict(by_file(empty.state_dict()))
    with pytest.raises(ValueError, match="empty parameter list"):
        make([])


# --- refusals --------------------------------------------------------------------------------------------------------


@EACH_CLASS
def test_a_sparse_gradient_is_refused_before_anything_moves(make: Kind) -> None:
    dense, first, p = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(4, 2))
    dense.grad, first.grad = torch.ones(2), torch.ones(2)
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (4, 2), check_invariants=True)
    optimizer = make([{"params": [first]}, {"params": [dense, p]}])
    with pytest.raises(RuntimeError, match=f"{type(optimizer).__name__}.*sparse"):
        optimizer.step()
    assert all(torch.equal(x, torch.ones_like(x)) for x in (first, dense, p))
    assert not optimizer.state_dict()["state"]


@each(kind for kind in ONE_OF_EACH_CLASS if not kind.supports_complex)
def test_a_complex_parameter_is_refused_before_anything_moves(make: Kind) -> None:
    real, p = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.complex64))
    real.grad, p.grad = torch.ones(2), torch.ones(2, dtype=torch.complex64)
    optimizer = make([real, p])
    with pytest.raises(RuntimeError, match=f"{type(optimizer).__name__}.*complex"):
        optimizer.step()
    assert all(torch.equal(x, torch.ones_like(x)) for x in (real, p))
    assert not optimizer.state_dict()["state"]


LR_INVALID = [-0.1, -1, NAN, INF, torch.tensor(-0.1), torch.tensor(NAN), torch.tensor([INF]), torch.tensor([0.1, 0.1])]
# Of each class: one check is that of all for lr, of both kinds of Madam, of Fromage and LARS. Who has it first is asked
# for every value, and the others whether they call it.
REFUSED = [
    (kind, key, value)
    for i, kind in enumerate(ONE_OF_EACH_CLASS)
    for key, invalid in {"lr": LR_INVALID, **kind.invalid}.items()
    for value in (invalid[:1] if any(key in {"lr", *other.invalid} for other in ONE_OF_EACH_CLASS[:i]) else invalid)
]


@pytest.mark.parametrize(
    ("make", "key", "value"), REFUSED, ids=[f"{kind.name}-{key}={value!r}" for kind, key, value in REFUSED]
)
def test_an_argument_outside_its_range_is_refused_with_its_name_value_and_range_and_its_group_not_added(
    make: Kind, key: str, value: Any
) -> None:
    params, more, alone = parameters(0), parameters(1), parameters(0)
    pattern = f"^{re.escape(f'{key}={value!r} ')}.*: .*(number|one of|integer|finite)"
    with pytest.raises(ValueError, match=pattern):
        make(params, **{key: value})
    with pytest.raises(ValueError, match=pattern):
        make([{"params": params[:1]}, {"params": params[1:], key: value}])
    optimizer = make(params)
    with pytest.raises(ValueError, match=pattern):
        optimizer.add_param_group({"params": more, key: value})
    assert len(optimizer.param_groups) == 1
    take_steps(optimizer, [0])
    take_steps(make(alone), [0])
    assert same(params, alone)
    optimizer.add_param_group({"params": more})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(
    "excluded", [{"foreach": True, "fused": True}, {"differentiable": True, "fused": True}], ids=str
)
@EACH_CLASS
def test_keywords_that_exclude_each_other_are_refused(make: Kind, excluded: dict[str, bool]) -> None:
    pattern = ".*".join(excluded)
    with pytest.raises(RuntimeError, match=pattern):
        make(parameters(), **excluded)
    optimizer = make(parameters())
    with pytest.raises(RuntimeError, match=pattern):
        optimizer.add_param_group({"params": parameters(1), **excluded})
    assert len(optimizer.param_groups) == 1


@EACH_CLASS
def test_a_parameter_may_not_be_in_two_groups(make: Kind) -> None:
    params = parameters()
    optimizer = make(params)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": params[:1]})
    assert len(optimizer.param_groups) == 1


@EACH_CLASS
def test_a_group_that_is_no_dict_is_refused_with_torchs_words(make: Kind) -> None:
    with pytest.raises(TypeError, match="param_group must be a dict"):
        make(parameters()).add_param_group(parameters())


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        (Fromage, {"lr": 0, "p_bound": 0}),
        (LARS, {"lr": 0.0, "p_bound": None}),
        (Madam, {"lr": 0.0, "p_scale": 1e-3, "g_bound": 1e-3, "beta": 0}),
        (Madam, {"g_bound": INF}),
        (IntegerMadam, {"lr": 0.0, "levels": 2, "base_lr": 1e-6, "beta": 0.0}),
        (IntegerMadam, {"levels": 65536, "init": "random"}),
        (NovoGrad, {"lr": 0.0, "betas": (0, 0), "eps": 0, "weight_decay": 0}),
        (SignSGD, {"lr": 0}),
    ],
)
def test_arguments_at_the_edge_of_their_ranges_are_allowed(
    optimizer: Callable[..., Optimizer], arguments: dict[str, Any]
) -> None:
    params = parameters()
    opt = optimizer(params, **arguments)
    assert {key: opt.param_groups[0][key] for key in arguments} == arguments
    take_steps(opt, range(3))
    assert all(p.isfinite().all() for p in params)


def test_the_defaults_are_those_of_the_papers() -> None:
    madam = {"lr": 0.01, "p_scale": 3.0, "g_bound": 10.0, "beta": 0.999}
    novograd = {"lr": 0.01, "betas": (0.95, 0.98), "eps": 1e-8, "weight_decay": 0.0, "grad_averaging": False}
    for optimizer, defaults in (
        (Fromage, {"lr": 0.01, "p_bound": None}),
        (LARS, {"lr": 0.01, "p_bound": None}),
        (Madam, madam),
        (IntegerMadam, {**madam, "base_lr": 0.001, "levels": 4096, "init": "quantize"}),
        (NovoGrad, novograd),
        (SignSGD, {"lr": 0.001}),
    ):
        arguments = inspect.signature(optimizer).parameters
        given = {key: a.default for key, a in arguments.items() if a.default is not inspect.Parameter.empty}
        assert given == defaults | SHARED


# --- the package -----------------------------------------------------------------------------------------------------


def test_importing_the_optimizers_imports_no_other_part_of_reltrust_and_none_of_its_dependencies() -> None:
    code = "import sys, reltrust.optim; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    modules = found.stdout.split()
    ours = {name for name in modules if name.split(".")[0] == "reltrust"}
    assert {"reltrust", "reltrust.optim", "reltrust.optim.fromage", "reltrust.optim.madam"} <= ours
    assert {name for name in ours if name != "reltrust" and not f"{name}.".startswith("reltrust.optim.")} == set()
    heavy = {"hydra", "omegaconf", "pydantic", "pandas", "matplotlib", "sklearn", "torchvision", "wandb", "mlxtend"}
    assert heavy & {name.split(".")[0] for name in modules} == set()
