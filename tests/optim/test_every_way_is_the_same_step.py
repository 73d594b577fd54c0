"""However a step is carried out, it is the same step: stacked, sliced, compiled, differentiated, in every dtype."""

import copy
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from reltrust.optim import IntegerMadam, Madam, SignSGD
from reltrust.optim.compiling import compiler_options

from .internals import forget_compiled, forget_levels, use_sizes
from .kinds import (
    EACH,
    EACH_RULE,
    KINDS,
    Kind,
    assert_close,
    by_file,
    copies,
    draw,
    each,
    give_gradients,
    learn,
    parameters,
    same,
    take_steps,
    tensors_of_state,
    values,
)

EACH_COMPLEX = each(kind for kind in KINDS if kind.supports_complex)
DIFFERENTIABLE = ("fromage", "fromage_p_bound", "madam", "novograd_averaging", "signsgd")  # one of each rule
EACH_DIFFERENTIABLE = each(kind for kind in KINDS if kind.name in DIFFERENTIABLE)
LOW_PRECISION = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
COMPILES = pytest.mark.xdist_group("compile")  # in one process, as each would load the compiler


# --- stacked and sliced ----------------------------------------------------------------------------------------------

MANY_ALIKE: list[tuple[int, ...]] = [(4, 3), (3,), (), (4, 3), (0, 2), (3,), (4, 3), (), (0, 2), (3,), (7,), (1, 3)]


@pytest.mark.parametrize(
    ("dtype", "tolerance", "in_one_buffer"),
    [(torch.float32, 1e-6, False), (torch.float32, 1e-6, True), (torch.float64, 1e-13, False)],
    ids=str,
)
@EACH_RULE
def test_tensors_of_one_shape_updated_together_move_as_each_alone(
    make: Kind, dtype: torch.dtype, tolerance: float, in_one_buffer: bool
) -> None:
    stacked, alone = (parameters(dtype=dtype, shapes=MANY_ALIKE) for _ in range(2))
    if in_one_buffer:
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(stacked).detach(), stacked)
    together, each_alone = make(stacked, foreach=True), make(alone, foreach=False)
    for step in range(8):
        for params in (stacked, alone):
            give_gradients(params, step)
            for i, p in enumerate(params):
                if (i + step) % 4 == 0:  # now one of a shape, now several, now the first of them, now the last
                    p.grad = None
        together.step()
        each_alone.step()
        assert_close(stacked, alone, tolerance)
    found, expected = tensors_of_state(together), tensors_of_state(each_alone)
    assert found.keys() == expected.keys()
    assert_close([x.double() for x in found.values()], [expected[key].double() for key in found], tolerance)


@EACH_RULE
def test_foreach_may_be_switched_on_and_off_between_steps(make: Kind) -> None:
    switched, alone = parameters(shapes=MANY_ALIKE), parameters(shapes=MANY_ALIKE)
    optimizer, other = make(switched), make(alone, foreach=False)
    for step, foreach in enumerate([None, False, True, False, False, True]):
        optimizer.param_groups[0]["foreach"] = foreach
        take_steps(optimizer, [step])
        take_steps(other, [step])
        assert_close(switched, alone, 1e-6)


@pytest.mark.parametrize("foreach", [True, False])
@EACH_RULE
def test_a_state_saved_with_foreach_continues_without_it_and_the_other_way_round(make: Kind, foreach: bool) -> None:
    params = parameters()
    optimizer = make(params, foreach=foreach)
    take_steps(optimizer, range(3))
    state = by_file(optimizer.state_dict())
    state["param_groups"][0]["foreach"] = not foreach
    switched, restored = copies(params), copies(params)
    before, after = copy.deepcopy((params, optimizer)), make(restored)
    after.load_state_dict(state)
    before[1].param_groups[0]["foreach"] = not foreach
    switched = before[0]
    for step in range(3, 6):
        take_steps(optimizer, [step])
        take_steps(before[1], [step])
        take_steps(after, [step])
        assert same(restored, switched)  # bit for bit as without saving
        assert_close(restored, params, 1e-6)


@EACH_RULE
def test_a_tensor_updated_in_slices_moves_as_in_one_piece(make: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(20, 15), (20, 15), (7,), (), (300,)]
    sliced, whole = (parameters(dtype=torch.float64, shapes=shapes) for _ in range(2))
    sliced[1], whole[1] = (nn.Parameter(params[1].detach().t()) for params in (sliced, whole))  # not contiguous
    optimizer, other = make(sliced), make(whole)
    for step in range(3):
        with monkeypatch.context() as patch:
            use_sizes(patch, 10, 37)
            take_steps(optimizer, [step])
        take_steps(other, [step])
        assert_close(sliced, whole, 1e-13)


@pytest.mark.parametrize("path", ["one by one", "fused", "compiled", "a group each"])
@pytest.mark.parametrize("levels", [256, 65536])
def test_random_levels_are_drawn_in_the_order_of_the_parameters_whatever_carries_out_the_step(
    levels: int, path: str, compiler: Callable[[str], None]
) -> None:
    compiler("eager")

    def drawn(groups: Any, **arguments: Any) -> list[Tensor]:
        torch.manual_seed(0)
        optimizer = IntegerMadam(groups, init="random", levels=levels, **arguments)
        give_gradients(params := [p for group in optimizer.param_groups for p in group["params"]], 0)
        (torch.compile(optimizer.step) if path == "compiled" and arguments else optimizer.step)()
        return [optimizer.state[p]["level"].to(torch.int32) for p in params]

    expected = drawn(parameters(shapes=MANY_ALIKE))
    groups = [{"params": [p]} for p in parameters(shapes=MANY_ALIKE)]
    own = {"one by one": {"foreach": False}, "fused": {"fused": True}, "compiled": {"capturable": True}}
    found = drawn(groups if path == "a group each" else parameters(shapes=MANY_ALIKE), **own.get(path, {}))
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


# --- without numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [{}, {"foreach": False}, {"fused": True}], ids=str)
@EACH_RULE
def test_a_step_of_tensors_that_have_no_numbers_has_the_right_shapes_and_leaves_no_trace(
    make: Kind, path: dict[str, bool]
) -> None:
    plain, after = parameters(), parameters()
    take_steps(make(plain), range(2))
    forget_levels()
    with FakeTensorMode():
        fake = [nn.Parameter(torch.empty(p.shape)) for p in plain]
        optimizer = make(fake, **path)
        for _ in range(2):
            for p in fake:
                p.grad = torch.empty_like(p)
            optimizer.step()
        shapes = {key: (x.shape, x.dtype) for key, x in tensors_of_state(optimizer).items()}
    optimizer = make(after)
    take_steps(optimizer, range(2))  # a table of levels without numbers once stayed for steps that need them
    assert same(plain, after)
    assert shapes == {key: (x.shape, x.dtype) for key, x in tensors_of_state(optimizer).items()}


@EACH_RULE
def test_a_default_device_does_not_reach_into_a_step(make: Kind) -> None:
    params, others = parameters(), parameters()
    optimizer, other = make(params), make(others)
    for step in range(3):
        for each_optimizer in (optimizer, other):
            give_gradients(each_optimizer.param_groups[0]["params"], step)
        forget_levels()
        with torch.device("meta"):
            optimizer.step()
        other.step()
        assert same(params, others)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def only_new_objects() -> None:
    """Hides from the garbage collector, and so from ``live_tensors``, what was there before; it would take its time."""
    gc.freeze()


def live_tensors() -> tuple[int, int]:
    """How many new tensors there are, and the bytes of their storages."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return len(tensors), sum(storages.values())


@pytest.mark.usefixtures("only_new_objects")
@EACH
def test_memory_does_not_grow_with_the_number_of_steps(make: Kind) -> None:
    params = parameters(shapes=[(4, 3), (3,), (3,), ()])
    lr = torch.tensor(0.01)
    optimizer = make(params, lr=lr)

    def steps(numbers: range) -> None:
        for step in numbers:
            lr.fill_(0.01 + 0.001 * (step % 7))
            take_steps(optimizer, [step])

    steps(range(3))
    count, size = live_tensors()
    assert count >= 2 * len(params) + 1  # the parameters, their gradients and lr
    steps(range(3, 53))
    assert live_tensors() == (count, size)


@EACH_RULE
def test_a_step_leaves_nothing_to_the_garbage_collector(make: Kind) -> None:
    """A cycle of references kept each step's stacks in memory until the collector came."""
    params = parameters(shapes=MANY_ALIKE)
    optimizer = make(params)
    take_steps(optimizer, range(2))
    give_gradients(params, 2)
    gc.collect()
    gc.disable()
    try:
        optimizer.step()
        assert gc.collect() == 0
    finally:
        gc.enable()


# --- float16 and bfloat16 --------------------------------------------------------------------------------------------

HARD_GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "whose_squares_overflow": lambda x: 400 * x.sign() + 100 * x,
    "whose_squares_underflow": lambda x: 1e-6 * x,
    "of_usual_size": lambda x: x,
}


@LOW_PRECISION
@pytest.mark.parametrize("gradient", HARD_GRADIENTS.values(), ids=HARD_GRADIENTS.keys())
@EACH_RULE
def test_low_precision_weights_move_by_norms_and_moments_in_float32(
    make: Kind, gradient: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    """Beside a twin in float32 whose weights are, after every step, those that the low precision has kept."""
    rough = parameters(dtype=dtype, shapes=[(30, 20), (30, 20), (5,), ()])
    precise = [nn.Parameter(p.detach().float()) for p in rough]
    optimizer, other = make(rough), make(precise)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for p, q in zip(rough, precise, strict=True):
            p.grad = gradient(draw(p.shape, generator, torch.float32)).to(dtype)
            q.grad = p.grad.float()
        optimizer.step()
        other.step()
        for p, q in zip(rough, precise, strict=True):
            bounds = 2 if "bound" in make.name else 1  # the bound is a second rounding
            torch.testing.assert_close(p.float(), q, rtol=bounds * torch.finfo(dtype).eps, atol=1e-7)
            with torch.no_grad():
                q.copy_(p)
    found, expected = tensors_of_state(optimizer), tensors_of_state(other)
    assert_close([x.double() for x in found.values()], [x.double() for x in expected.values()], 1e-6)


@LOW_PRECISION
@EACH_RULE
def test_norms_of_many_small_low_precision_numbers_are_exact(make: Kind, dtype: torch.dtype) -> None:
    """Sums of squares in the dtype itself would come to a halt long before the end."""
    many = nn.Parameter(torch.full((2**16,), 2.0**-10, dtype=dtype))
    precise = nn.Parameter(many.detach().float())
    for p in (many, precise):
        p.grad = torch.full_like(p, 2.0**-9)
        make([p], lr=0.1).step()
    torch.testing.assert_close(many.float(), precise, rtol=2 * torch.finfo(dtype).eps, atol=0)


@LOW_PRECISION
@each([kind for kind in KINDS if kind.name == "fromage_p_bound"])
def test_the_bound_on_the_norm_holds_in_low_precision_up_to_its_rounding(make: Kind, dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype, shapes=[(40, 30), (40, 30), (7,)])
    bounds = [float(0.9 * p.detach().double().norm()) for p in params]
    optimizer = make(params)
    for _ in range(50):
        for p in params:
            p.grad = -p.detach()
        optimizer.step()
        norms = [float(p.detach().double().norm()) for p in params]
        assert all(norm <= bound * (1 + torch.finfo(dtype).eps) for norm, bound in zip(norms, bounds, strict=True))


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    for layer in (net[0], net[2]):
        nn.init.normal_(layer.bias, std=0.1)  # zeros would stay zero under Madam
    return net


def loss_of(net: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(128, 6, generator=generator)
    return nn.functional.mse_loss(net(x).float(), x[:, :1] * x[:, 1:2] + x[:, 2:3])


@EACH_RULE
def test_a_small_net_learns_under_autocast(make: Kind) -> None:
    net = small_net()

    @torch.autocast("cpu", dtype=torch.bfloat16)
    def loss() -> Tensor:
        return loss_of(net)

    first, last = learn(make(net.parameters(), **make.training), loss, steps=60)
    assert last < 0.7 * first


@EACH_RULE
def test_autocast_does_not_reach_into_a_step(make: Kind) -> None:
    inside, outside = parameters(), parameters()
    optimizer, other = make(inside), make(outside)
    for step in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            take_steps(optimizer, [step])
        take_steps(other, [step])
    assert same(inside, outside)


@EACH_RULE
def test_steps_with_scaled_losses_equal_those_without_and_an_infinite_gradient_skips_one(make: Kind) -> None:
    scaled, plain = small_net(), small_net()
    optimizer, other = make(scaled.parameters()), make(plain.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for step in range(6):
        skipped = step == 3
        optimizer.zero_grad()
        scaler.scale(loss_of(scaled)).backward()
        if skipped:
            scaled[0].weight.grad[0, 0] = float("inf")
        scale, before = scaler.get_scale(), values(scaled.parameters())
        state = {key: value.clone() for key, value in tensors_of_state(optimizer).items()}
        scaler.step(optimizer)
        scaler.update()
        if skipped:
            assert same(scaled.parameters(), before)
            assert same(tensors_of_state(optimizer).values(), state.values())
            assert scaler.get_scale() == scale / 2
            continue
        other.zero_grad()
        loss_of(plain).backward()
        other.step()
        assert same(scaled.parameters(), plain.parameters())  # the scales are powers of two


# --- complex parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex64, 1e-6), (torch.complex128, 1e-13)], ids=str)
@EACH_COMPLEX
def test_complex_parameters_move_like_their_real_and_imaginary_parts(
    make: Kind, dtype: torch.dtype, tolerance: float, foreach: bool
) -> None:
    params = parameters(dtype=dtype)
    parts = [nn.Parameter(torch.view_as_real(p.detach()).clone()) for p in params]
    optimizer, other = make(params, foreach=foreach), make(parts, foreach=foreach)
    for step in range(4):
        give_gradients(params, step)
        for p, q in zip(params, parts, strict=True):
            q.grad = torch.view_as_real(p.grad).clone()
            if step % 2:
                p.grad = p.grad.conj().resolve_conj().conj()  # the same numbers, as a view that conjugates
                assert p.grad.is_conj()
        optimizer.step()
        other.step()
        assert_close([torch.view_as_real(p) for p in params], parts, tolerance)


@EACH_COMPLEX
def test_a_parameter_that_is_a_conjugating_view_moves_like_its_copy(make: Kind) -> None:
    (plain,) = parameters(dtype=torch.complex128, shapes=[(4, 3)])
    view = nn.Parameter(plain.detach().conj().resolve_conj().conj())
    assert view.is_conj()
    give_gradients([plain], 0)
    give_gradients([view], 0)
    make([plain]).step()
    make([view]).step()
    assert_close([view.resolve_conj()], [plain], 1e-13)


# --- differentiable --------------------------------------------------------------------------------------------------

Shapes = list[tuple[int, ...]]


def weights_after(make: Kind, lr: Tensor, starts: list[Tensor], gradients: list[Tensor], **arguments: Any) -> Any:
    """The weights after as many steps as there are gradients for each of ``starts``."""
    params = [start.clone() for start in starts]
    optimizer = make(params, lr=lr, differentiable=True, **arguments)
    for first in range(0, len(gradients), len(params)):
        for p, g in zip(params, gradients[first:], strict=False):
            p.grad = g
        optimizer.step()
    return tuple(params)


def inputs(shapes: Shapes, steps: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    starts = [p.detach().requires_grad_() for p in parameters(dtype=torch.float64, shapes=shapes)]
    gradients = [p.detach().requires_grad_() for p in parameters(1, torch.float64, shapes * steps)]
    return lr, starts, gradients


@pytest.mark.parametrize("shapes", [[(2, 2)], [(3,), (2,), (3,), ()]], ids=["one_tensor", "several"])
@EACH_DIFFERENTIABLE
def test_gradients_flow_through_two_steps_to_weights_gradients_and_lr(make: Kind, shapes: Shapes) -> None:
    lr, starts, gradients = inputs(shapes, steps=2)
    tight = {"p_scale": 0.9, "beta": 0.9} if make.optimizer is Madam else {}  # so that the clip takes part

    def after(lr: Tensor, *tensors: Tensor) -> Any:
        return weights_after(make, lr, list(tensors[: len(shapes)]), list(tensors[len(shapes) :]), **tight)

    assert torch.autograd.gradcheck(after, (lr, *starts, *gradients))


@EACH_DIFFERENTIABLE
def test_a_learning_rate_of_zero_has_a_gradient_too(make: Kind) -> None:
    _, starts, gradients = inputs([(3,)], steps=1)
    lr = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    (after,) = weights_after(make, lr, starts, gradients)
    (slope,) = torch.autograd.grad(after.sum(), lr)
    assert slope.isfinite()
    assert slope != 0


@EACH_DIFFERENTIABLE
def test_a_learning_rate_can_be_learned_through_steps(make: Kind) -> None:
    lr, starts, gradients = inputs([(3,), (3,)], steps=3)
    torch.stack([p.sum() for p in weights_after(make, lr, starts, gradients)]).sum().backward()
    assert lr.grad is not None
    assert lr.grad.isfinite()
    assert lr.grad != 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in starts)


@EACH_DIFFERENTIABLE
def test_differentiable_steps_have_the_same_numbers(make: Kind) -> None:
    shapes: Shapes = [(3,), (2, 2), (3,), (0,), ()]
    lr, starts, gradients = inputs(shapes, steps=3)
    plain = [nn.Parameter(start.detach().clone()) for start in starts]
    optimizer = make(plain, lr=0.1)
    for first in range(0, len(gradients), len(shapes)):
        for p, g in zip(plain, gradients[first:], strict=False):
            p.grad = g.detach().clone()
        optimizer.step()
    found = weights_after(make, lr, starts, gradients)
    assert all(p.requires_grad for p in found)
    assert_close(found, plain, 1e-13)


@each(kind for kind in KINDS if kind.name == "integer_madam_12bit")
def test_integer_madam_refuses_to_be_differentiable(make: Kind) -> None:
    with pytest.raises(RuntimeError, match=r"IntegerMadam.*differentiable"):
        make(parameters(), differentiable=True)
    optimizer = make(parameters())
    with pytest.raises(RuntimeError, match=r"IntegerMadam.*differentiable"):
        optimizer.add_param_group({"params": parameters(1), "differentiable": True})
    assert len(optimizer.param_groups) == 1


# --- capturable ------------------------------------------------------------------------------------------------------


@EACH_RULE
def test_capturable_steps_have_the_same_numbers(make: Kind) -> None:
    capturable, plain = parameters(), parameters()
    rates = [torch.tensor(0.02), torch.tensor(0.02)]
    optimizers = [make(capturable, lr=rates[0], capturable=True), make(plain, lr=rates[1])]
    for step in range(5):
        for rate, optimizer in zip(rates, optimizers, strict=True):
            rate.fill_(0.02 / (step + 1))
            take_steps(optimizer, [step])
        assert same(capturable, plain)
    restored = make(copies(capturable), capturable=True)
    restored.load_state_dict(by_file(optimizers[0].state_dict()))
    take_steps(optimizers[1], [5])
    take_steps(restored, [5])
    assert same(restored.param_groups[0]["params"], plain)


# --- compiled --------------------------------------------------------------------------------------------------------


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Forgets what is compiled; called with a backend, lets ``torch.compile`` use it everywhere."""

    def forget() -> None:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        forget_compiled()

    def use(backend: str) -> None:
        original = torch.compile
        monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: original(*args, **{**kwargs, "backend": backend}))

    forget()
    yield use
    monkeypatch.undo()
    forget()


def compiled_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def copy_gradients(params: list[nn.Parameter], step: int) -> None:
    """Into the tensors that hold the gradients already."""
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        g = draw(p.shape, generator, p.dtype)
        p.grad = g if p.grad is None else p.grad.copy_(g)


def check_a_compiled_step(make: Kind, in_a_tensor: bool, steps: range) -> None:
    """Beside an optimizer that is not compiled, at a learning rate that is another one at each step."""
    compiled, eager = parameters(shapes=[(4, 3), (3,)]), parameters(shapes=[(4, 3), (3,)])
    optimizer, other = make(compiled, lr=torch.tensor(0.01) if in_a_tensor else 0.01), make(eager)
    take_steps(optimizer, range(steps.start))
    take_steps(other, range(steps.start))
    step_compiled = torch.compile(optimizer.step, options=compiler_options())
    graphs = 0
    for step in steps:
        lr = 0.01 * (1 + 0.37 * step)
        if in_a_tensor:
            optimizer.param_groups[0]["lr"].fill_(lr)
        else:
            optimizer.param_groups[0]["lr"] = lr
        other.param_groups[0]["lr"] = lr
        copy_gradients(compiled, step)
        copy_gradients(eager, step)
        step_compiled()
        other.step()
        assert_close(compiled, eager, 1e-5)
        if step == 2:  # with and without state, and with an lr that varies
            graphs = compiled_graphs()
            assert graphs > 0
    assert compiled_graphs() == graphs


@COMPILES
@EACH_RULE
def test_a_compiled_step_has_the_same_numbers_and_is_not_compiled_anew_for_another_lr(
    make: Kind, compiler: Callable[[str], None]
) -> None:
    compiler("eager")
    check_a_compiled_step(make, in_a_tensor=False, steps=range(7))


@COMPILES
@pytest.mark.capability
@pytest.mark.skipif(not compiler_options(), reason="vectors of one length")
def test_what_is_compiled_for_vectors_of_one_length_is_not_run_with_another(
    compiler: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the compiler finds on disk, of a process with other vectors, left some weights unmoved."""
    for capability in [None, "default"]:
        if capability is not None:
            monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", capability.upper)
        forget_compiled()
        torch._dynamo.reset()
        p = nn.Parameter(torch.zeros(43, 3))
        p.grad = torch.ones_like(p)
        SignSGD([p], lr=1.0, fused=True).step()
        assert torch.equal(p, -p.grad), capability


@COMPILES
@each(kind for kind in KINDS if kind.name == "madam")
def test_a_step_compiled_to_machine_code_follows_a_tensor_lr(make: Kind, compiler: Callable[[str], None]) -> None:
    check_a_compiled_step(make, in_a_tensor=True, steps=range(1, 6))


@COMPILES
@EACH_RULE
def test_fused_steps_have_the_same_numbers_and_are_not_compiled_anew_for_other_hyperparameters(
    make: Kind, compiler: Callable[[str], None]
) -> None:
    compiler("eager")
    fused, plain = parameters(), parameters()
    optimizer, other = make(fused, fused=True), make(plain)
    graphs = 0
    changed = [
        key for key, other_value in make.others.items() if isinstance(other_value, float) and key != "weight_decay"
    ]
    for step in range(8):
        for key in changed:
            for group in (optimizer.param_groups[0], other.param_groups[0]):
                group[key] = make.others[key] * (1 + 0.1 * step) if key != "beta" else 0.9 - 0.1 * step
        take_steps(optimizer, [step])
        take_steps(other, [step])
        assert_close(fused, plain, 1e-6)
        if step == 3:
            graphs = compiled_graphs()
            assert graphs > 0
    assert compiled_graphs() == graphs


@COMPILES
def test_fused_optimizers_of_every_kind_shape_dtype_and_sort_of_lr_work_in_one_process(
    compiler: Callable[[str], None],
) -> None:
    """The compiler keeps few versions of a function, and what it finds one too many it may refuse."""
    compiler("eager")
    shapes = [(4, 3), (4, 3), (3,), (1,), (1, 5), (0,)]
    sorts = [(torch.float32, 0.01), (torch.float32, torch.tensor(0.01)), (torch.bfloat16, 0.01)]
    for kind in KINDS:
        for dtype, lr in sorts if kind.optimizer is not IntegerMadam else sorts[:2]:
            fused, plain = parameters(dtype=dtype, shapes=shapes), parameters(dtype=dtype, shapes=shapes)
            take_steps(kind(fused, lr=lr, fused=True), [0])
            take_steps(kind(plain, lr=lr), [0])
            assert_close(fused, plain, 2 * torch.finfo(dtype).eps + 1e-6)


@COMPILES
@pytest.mark.parametrize("size", [1e-30, 1e25])
@each(kind for kind in KINDS if kind.name in ("madam", "integer_madam_12bit"))
def test_fused_steps_follow_gradients_whose_squares_are_no_float32(
    make: Kind, size: float, compiler: Callable[[str], None]
) -> None:
    """One kernel takes the root of squares, which underflow or overflow unless they are taken in float64."""
    compiler("eager")
    fused, plain = parameters(), parameters()
    optimizer, other = make(fused, fused=True), make(plain)
    for step in range(3):
        for each_optimizer, params in ((optimizer, fused), (other, plain)):
            give_gradients(params, step)
            for p in params:
                p.grad = size * p.grad  # type: ignore[operator]
            each_optimizer.step()
        assert_close(fused, plain, 1e-6)


@COMPILES
@each(kind for kind in KINDS if kind.name in (*DIFFERENTIABLE, "integer_madam_16bit"))
def test_fused_steps_continue_a_state_and_hand_it_on(make: Kind, compiler: Callable[[str], None]) -> None:
    compiler("eager")
    params, plain = parameters(shapes=[(5, 4)]), parameters(shapes=[(5, 4)])
    optimizer, other = make(params, fused=True), make(plain)
    for steps, fused in ((range(3), True), (range(3, 5), False), (range(5, 7), True)):
        if steps.start:
            state = by_file(optimizer.state_dict())
            state["param_groups"][0]["fused"] = fused
            optimizer = make(params)
            optimizer.load_state_dict(state)
        take_steps(optimizer, steps)
        take_steps(other, steps)
        assert_close(params, plain, 1e-6)


# --- on an accelerator -----------------------------------------------------------------------------------------------


def cuda_parameters(seed: int = 0) -> list[nn.Parameter]:
    return [nn.Parameter(p.detach().cuda()) for p in parameters(seed, shapes=[(40, 30), (40, 30), (30,), ()])]


def give_cuda_gradients(params: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        g = draw(p.shape, generator, p.dtype)
        p.grad = g.cuda() if p.grad is None else p.grad.copy_(g)


CUDA_PATHS = pytest.mark.parametrize("path", [{}, {"foreach": False}, {"fused": True}], ids=str)


@pytest.mark.gpu
@COMPILES
@CUDA_PATHS
@pytest.mark.parametrize("in_a_tensor", [False, True], ids=["number", "tensor"])
@EACH_RULE
def test_a_step_never_waits_for_the_device(make: Kind, in_a_tensor: bool, path: dict[str, bool]) -> None:
    params = cuda_parameters()
    optimizer = make(params, lr=torch.tensor(0.01, device="cuda") if in_a_tensor else 0.01, **path)
    for step in range(3):
        give_cuda_gradients(params, step)
        optimizer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(p.isfinite().all() for p in params)


@pytest.mark.gpu
@COMPILES
@CUDA_PATHS
@EACH_RULE
def test_a_step_in_a_cuda_graph_follows_gradients_and_lr(make: Kind, path: dict[str, bool]) -> None:
    captured, eager = cuda_parameters(), cuda_parameters()
    rates = [torch.tensor(0.01, device="cuda"), torch.tensor(0.01, device="cuda")]
    optimizer, other = make(captured, lr=rates[0], capturable=True, **path), make(eager, lr=rates[1])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for step in range(3):
            give_cuda_gradients(captured, step)
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    for step in range(3):
        give_cuda_gradients(eager, step)
        other.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    assert_close(captured, eager, 1e-5)  # nothing runs while it is captured
    for step in range(3, 8):
        for rate in rates:
            rate.fill_(0.01 * step)
        give_cuda_gradients(captured, step)
        give_cuda_gradients(eager, step)
        graph.replay()
        other.step()
        assert_close(captured, eager, 1e-5)
