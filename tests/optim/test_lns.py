"""The logarithmic number system: between floats, levels, bits and files, and what integer Madam keeps in memory."""

import io
import math
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reltrust.optim import IntegerMadam, Madam, lns

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
NAMES = [str(dtype).removeprefix("torch.") for dtype in FLOATS]
BY_FLOAT = pytest.mark.parametrize("dtype", FLOATS, ids=NAMES)
BY_FLOAT_OF_WEIGHTS = pytest.mark.parametrize("weights", FLOATS, ids=NAMES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same_bits(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are equal, down to the signs of zeros."""
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    first, second = (z.detach().contiguous().flatten().view(torch.uint8) for z in (x, y))
    return torch.equal(first, second)


# --- between floats and levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "dtype", "bits"),
    [
        (2, torch.uint8, 1),
        (3, torch.uint8, 2),
        (256, torch.uint8, 8),
        (257, torch.int16, 9),
        (4096, torch.int16, 12),
        (32_768, torch.int16, 15),
        (32_769, torch.uint16, 16),
        (65_536, torch.uint16, 16),
    ],
)
def test_levels_are_kept_in_the_smallest_dtype_and_the_fewest_bits_that_hold_them(
    levels: int, dtype: torch.dtype, bits: int
) -> None:
    assert lns.level_dtype(levels) == dtype
    assert lns.bits(levels) == bits
    assert torch.iinfo(dtype).max >= levels - 1
    assert lns.quantize(normal(4), levels=levels, base_lr=0.01).level.dtype == dtype


@BY_FLOAT
@pytest.mark.parametrize(("levels", "base_lr"), [(2, 1.0), (256, 0.02), (4096, 0.001), (65_536, 1e-4)])
def test_each_weight_takes_the_nearest_level_in_log_magnitude(levels: int, base_lr: float, dtype: torch.dtype) -> None:
    w = normal(20, 10).to(dtype)
    sign, level, scale = lns.quantize(w, levels=levels, base_lr=base_lr)
    assert torch.equal(sign, w.sign().to(torch.int8))
    n = level.to(torch.float64)
    assert n.min() >= 0
    assert n.max() <= levels - 1
    distance = w.double().abs().log() - (scale.double().log() - base_lr * n)
    inside = w.double().abs().log() >= scale.double().log() - base_lr * (levels - 1)
    assert inside.any()
    assert distance[inside].abs().max() <= base_lr / 2 * (1 + 1e-9) + 1e-12
    assert torch.equal(n[~inside], torch.full_like(n[~inside], levels - 1))


@BY_FLOAT
def test_the_scale_is_by_default_the_largest_magnitude(dtype: torch.dtype) -> None:
    w = torch.tensor([0.5, -3.0, 1.0, 0.0], dtype=dtype)
    sign, level, scale = lns.quantize(w, levels=256, base_lr=0.1)
    assert scale.shape == ()
    assert scale.item() == 3.0
    assert sign.tolist() == [1, -1, 1, 0]
    assert level[:3].tolist() == [18, 0, 11]  # log(6) / 0.1 and log(3) / 0.1
    restored = lns.dequantize(sign, level, scale, levels=256, base_lr=0.1, dtype=dtype)
    assert restored[1].item() == -3.0
    assert restored[3].item() == 0.0


def test_weights_beyond_either_end_of_the_scale_take_its_last_level() -> None:
    w = torch.tensor([100.0, -100.0, 1e-30, -1e-30, 0.0, math.inf])
    sign, level, _ = lns.quantize(w, levels=16, base_lr=0.1, scale=1.0)
    assert sign.tolist() == [1, -1, 1, -1, 0, 1]
    assert level[[0, 1, 2, 3, 5]].tolist() == [0, 0, 15, 15, 0]


@BY_FLOAT
@pytest.mark.parametrize(("levels", "base_lr"), [(2, 0.5), (256, 0.03), (4096, 0.002)])
def test_what_has_been_dequantized_is_quantized_to_the_same_levels(
    levels: int, base_lr: float, dtype: torch.dtype
) -> None:
    resolution = torch.finfo(dtype).eps
    if base_lr < 2 * resolution:  # levels closer together than the numbers of the dtype cannot be told apart
        base_lr = 2 * resolution
        levels = min(levels, math.ceil(8 / base_lr))  # within 8 nats: normal numbers of float16
    sign, level, scale = lns.quantize(normal(500), levels=levels, base_lr=base_lr)
    w = lns.dequantize(sign, level, scale, levels=levels, base_lr=base_lr, dtype=dtype)
    assert w.dtype == dtype
    again = lns.quantize(w, levels=levels, base_lr=base_lr, scale=scale)
    assert torch.equal(again.sign, sign)
    assert torch.equal(again.level, level)


@BY_FLOAT
def test_magnitudes_too_small_for_the_dtype_keep_their_signs(dtype: torch.dtype) -> None:
    sign, level = torch.tensor([1, -1, 0, 1]), torch.tensor([4095, 4095, 4095, 0], dtype=torch.int16)
    w = lns.dequantize(sign, level, torch.tensor(2.0), levels=4096, base_lr=1.0, dtype=dtype)
    tiny = torch.finfo(dtype).tiny
    assert w.tolist() == [tiny, -tiny, 0.0, 2.0]


def test_a_tensor_of_zeros_or_of_nothing_is_restored() -> None:
    for w in (torch.zeros(3, 2), torch.zeros(()), torch.zeros(0, 4)):
        held = lns.quantize(w, levels=256, base_lr=0.01)
        assert not held.sign.any()
        assert same_bits(lns.dequantize(*held, levels=256, base_lr=0.01), w)


def test_scales_of_several_rows_are_broadcast() -> None:
    w = normal(3, 50)
    scale = w.abs().amax(1, keepdim=True)
    held = lns.quantize(w, levels=4096, base_lr=0.002, scale=scale)
    for i in range(3):
        row = lns.quantize(w[i], levels=4096, base_lr=0.002)
        assert torch.equal(held.level[i], row.level)
    restored = lns.dequantize(*held, levels=4096, base_lr=0.002, dtype=torch.float64)
    torch.testing.assert_close(restored, w, rtol=1.01e-3, atol=math.exp(-8) * float(scale.max()))


@pytest.mark.parametrize("levels", [1, 0, -5, 65_537, 4096.0, True, "256", None])
def test_levels_that_are_not_an_integer_between_2_and_65536_are_refused(levels: Any) -> None:
    expected = pytest.raises(ValueError, match=re.escape(f"levels={levels!r} "))
    with expected:
        lns.level_dtype(levels)
    with expected:
        lns.quantize(normal(3), levels=levels, base_lr=0.01)
    with expected:
        lns.pack(torch.ones(3), torch.zeros(3), levels=levels)
    with expected:
        lns.unpack(torch.zeros(2, dtype=torch.uint8), (3,), levels=levels)


@pytest.mark.parametrize("base_lr", [0.0, -0.1, math.inf, math.nan])
def test_a_base_learning_rate_that_is_not_positive_is_refused(base_lr: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"base_lr={base_lr!r} ")):
        lns.quantize(normal(3), levels=256, base_lr=base_lr)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_not_real_floats_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=re.escape(f"weight.dtype={dtype} ")):
        lns.quantize(torch.ones(3, dtype=dtype), levels=256, base_lr=0.01)


# --- between levels and bits -----------------------------------------------------------------------------------------


def random_codes(count: int, levels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sign = (1 - 2 * torch.randint(2, (count,), generator=generator)).to(torch.int8)
    level = torch.randint(levels, (count,), generator=generator).to(lns.level_dtype(levels))
    return sign, level


def packed_by_hand(sign: Tensor, level: Tensor, bits: int) -> bytes:
    """All codes as one long number: the level in the lower bits of each, above it a bit that is set for minus."""
    number = 0
    for i, (s, n) in enumerate(zip(sign.tolist(), level.tolist(), strict=True)):
        number |= (n | (s < 0) << bits) << i * (bits + 1)
    return number.to_bytes(-(-len(sign) * (bits + 1) // 8), "little")


@pytest.mark.parametrize("bits", range(1, 17))
def test_signs_and_levels_go_through_their_bits_unchanged(bits: int) -> None:
    levels = 2**bits
    for count in [0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 1000]:
        sign, level = random_codes(count, levels, seed=count)
        packed = lns.pack(sign, level, levels=levels)
        assert packed.dtype == torch.uint8
        assert packed.shape == (math.ceil((bits + 1) * count / 8),)
        assert bytes(packed.tolist()) == packed_by_hand(sign, level, bits)
        sign_again, level_again = lns.unpack(packed, (count,), levels=levels)
        assert same_bits(sign_again, sign)
        assert same_bits(level_again, level)


@pytest.mark.parametrize("levels", [2, 1024, 65_536])
def test_more_weights_than_a_block_go_through_their_bits_unchanged(levels: int) -> None:
    count = 2**20 + 13
    sign, level = random_codes(count, levels)
    packed = lns.pack(sign, level, levels=levels)
    assert packed.numel() == -(-count * (lns.bits(levels) + 1) // 8)
    sign_again, level_again = lns.unpack(packed, (count,), levels=levels)
    assert same_bits(sign_again, sign)
    assert same_bits(level_again, level)
    tail, end = slice(2**20 - 8, None), (lns.bits(levels) + 1) * (2**20 - 8) // 8
    assert bytes(packed[end:].tolist()) == packed_by_hand(sign[tail], level[tail], lns.bits(levels))


@pytest.mark.parametrize("levels", [3, 257, 1000, 40_000])
def test_levels_that_are_no_power_of_two_take_the_bits_of_the_next(levels: int) -> None:
    sign, level = random_codes(100, levels)
    level[0] = levels - 1
    packed = lns.pack(sign, level, levels=levels)
    assert packed.numel() == math.ceil((lns.bits(levels) + 1) * 100 / 8)
    assert torch.equal(lns.unpack(packed, (100,), levels=levels)[1].to(torch.int32), level.to(torch.int32))


def test_the_shape_is_given_back() -> None:
    sign, level = (x.view(2, 3, 4) for x in random_codes(24, 256))
    for shape in [(2, 3, 4), torch.Size((2, 3, 4))]:
        sign_again, level_again = lns.unpack(lns.pack(sign, level, levels=256), shape, levels=256)
        assert torch.equal(sign_again, sign)
        assert torch.equal(level_again, level)
    scalar = lns.unpack(lns.pack(sign[0, 0, 0], level[0, 0, 0], levels=256), (), levels=256)
    assert scalar[1].item() == level[0, 0, 0].item()


@pytest.mark.parametrize("wrong", [0, 2, -2])
def test_a_sign_that_is_not_plus_or_minus_one_is_refused(wrong: int) -> None:
    sign, level = random_codes(9, 256)
    sign[5] = wrong
    with pytest.raises(ValueError, match="sign"):
        lns.pack(sign, level, levels=256)


@pytest.mark.parametrize("wrong", [-1, 200, 30_000])
def test_a_level_outside_the_scale_is_refused(wrong: int) -> None:
    sign, level = random_codes(9, 200)
    level = level.to(torch.int16)
    level[5] = wrong
    with pytest.raises(ValueError, match=re.escape("level is not allowed to be outside 0..199")):
        lns.pack(sign, level, levels=200)


@pytest.mark.parametrize("length", [0, 11, 13])
def test_bits_of_another_length_are_refused(length: int) -> None:
    assert lns.pack(*random_codes(10, 256), levels=256).numel() == 12
    with pytest.raises(ValueError, match=f"packed has {length} elements.*12"):
        lns.unpack(torch.zeros(length, dtype=torch.uint8), (10,), levels=256)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.float32])
def test_bits_in_another_dtype_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=re.escape(str(dtype))):
        lns.unpack(torch.zeros(12, dtype=dtype), (10,), levels=256)


def test_bits_that_mean_a_level_outside_the_scale_are_refused() -> None:
    packed = lns.pack(*random_codes(20, 256), levels=256)
    with pytest.raises(ValueError, match="beyond 199"):
        lns.unpack(packed, (20,), levels=200)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["quantize", "random"])
@pytest.mark.parametrize(("levels", "dtype"), [(256, torch.uint8), (4096, torch.int16), (65_536, torch.uint16)])
@BY_FLOAT_OF_WEIGHTS
def test_integer_madam_keeps_an_integer_and_one_moment_for_each_weight_and_two_numbers_for_each_tensor(
    weights: torch.dtype, levels: int, dtype: torch.dtype, init: str
) -> None:
    params = [normal(*shape).to(weights).requires_grad_() for shape in [(30, 20), (30, 20), (50,), (2, 3, 4, 5)]]
    optimizer = IntegerMadam(params, levels=levels, base_lr=8 / levels, init=init)
    for _ in range(3):
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()
    moment = torch.float64 if weights == torch.float64 else torch.float32
    for p in params:
        state: dict[str, Tensor] = optimizer.state[p]
        kept = {key: (value.dtype, value.shape) for key, value in state.items() if value.numel() > 1}
        assert kept == {"level": (dtype, p.shape), "exp_avg_rms": (moment, p.shape)}
        assert sorted(state.keys() - kept.keys()) == ["init_rms", "step"]
    held = {v.untyped_storage().data_ptr(): v.untyped_storage() for p in params for v in optimizer.state[p].values()}
    numel = sum(p.numel() for p in params)
    assert sum(storage.nbytes() for storage in held.values()) == numel * (dtype.itemsize + moment.itemsize) + 2 * 8 * 4


# --- a trained model in a file ---------------------------------------------------------------------------------------


def network() -> nn.Module:
    """A convolutional one, with normalisation, a bias that is all zero, and some weights that are zero."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 10)
    )
    with torch.no_grad():
        model[0].bias.zero_()
        model[5].weight[:, ::7] = 0.0
    return model


def trained(model: nn.Module, steps: int = 5, **arguments: Any) -> IntegerMadam:
    optimizer = IntegerMadam(model.parameters(), **arguments)
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(16, 3, 8, 8, generator=generator).to(dtype)
        y = torch.randint(10, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x).float(), y).backward()
        optimizer.step()
    return optimizer


def assert_same_states(found: dict[str, Tensor], model: nn.Module) -> None:
    expected = model.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert same_bits(found[name], value), name


SCALES = [{"levels": 4096, "base_lr": 0.001}, {"levels": 1024, "base_lr": 0.005}, {"levels": 256, "base_lr": 0.01}]
BY_SCALE = pytest.mark.parametrize("scale", SCALES, ids=["12 bits", "10 bits", "8 bits"])


@BY_FLOAT_OF_WEIGHTS
@BY_SCALE
def test_a_trained_network_comes_back_to_the_bit(scale: dict[str, Any], weights: torch.dtype, tmp_path: Path) -> None:
    model = network().to(weights)
    optimizer = trained(model, **scale)
    path = tmp_path / "model.lns"
    size = lns.save(path, model, optimizer)
    assert size == path.stat().st_size
    assert list(tmp_path.iterdir()) == [path]
    assert_same_states(lns.load(path), model)

    fresh = network().to(weights)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)).to(weights)
    assert not torch.equal(fresh.eval()(x), model.eval()(x))
    fresh.load_state_dict(lns.load(str(path)))
    assert torch.equal(fresh(x), model(x))


def test_a_saved_network_has_the_zeros_and_the_buffers_it_had(tmp_path: Path) -> None:
    model = network()
    lns.save(tmp_path / "model", model, trained(model))
    loaded = lns.load(tmp_path / "model")
    assert not loaded["0.bias"].any()
    assert not loaded["5.weight"][:, ::7].any()
    assert loaded["5.weight"][:, 1::7].all()
    assert loaded["1.num_batches_tracked"].item() == 5
    assert loaded["1.running_mean"].any()


def test_the_optimizer_tells_the_levels_that_mean_each_weight() -> None:
    model = network()
    optimizer = trained(model)
    for name, p in model.named_parameters():
        held = optimizer.quantized(p)
        assert held is not None, name
        (sign, level, scale), levels, base_lr = held
        assert (levels, base_lr) == (4096, 0.001)
        assert level.dtype == torch.int16
        assert same_bits(lns.dequantize(sign, level, scale, levels=levels, base_lr=base_lr), p)


@pytest.mark.parametrize(("levels", "base_lr", "bits"), [(4096, 0.001, 13), (1024, 0.005, 11), (256, 0.01, 9)])
def test_a_model_of_a_million_weights_takes_its_bits_and_one_percent_at_most(
    levels: int, base_lr: float, bits: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 100), nn.BatchNorm1d(100))
    optimizer = IntegerMadam(model.parameters(), levels=levels, base_lr=base_lr)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    numel = sum(p.numel() for p in model.parameters())
    assert numel >= 10**6
    size = lns.save(tmp_path / "model", model, optimizer)
    in_float32 = 4 * numel
    assert in_float32 * bits / 32 <= size <= 1.01 * in_float32 * bits / 32
    assert_same_states(lns.load(tmp_path / "model"), model)


def by_a_factor(p: Tensor) -> None:
    p.mul_(1.5)


def in_one_place(p: Tensor) -> None:
    p.view(-1)[3] += 0.125


def by_turning_a_zero_around(p: Tensor) -> None:
    p.neg_()


def by_a_nan(p: Tensor) -> None:
    p.view(-1)[3] = math.nan


@pytest.mark.parametrize("change", [by_a_factor, in_one_place, by_turning_a_zero_around, by_a_nan])
def test_a_parameter_that_was_changed_by_hand_is_saved_to_the_bit(
    change: Callable[[Tensor], None], tmp_path: Path
) -> None:
    model = network()
    optimizer = trained(model)
    with torch.no_grad():
        change(model[5].weight)
    lns.save(tmp_path / "model", model, optimizer)
    assert_same_states(lns.load(tmp_path / "model"), model)


@pytest.mark.parametrize(
    "change", [{"base_lr": 0.002}, {"p_scale": 2.0}, {"levels": 1024}, {"levels": 256}, {"levels": 65_536}]
)
def test_settings_that_were_changed_after_the_last_step_do_not_change_what_is_saved(
    change: dict[str, Any], tmp_path: Path
) -> None:
    model = network()
    optimizer = trained(model)
    optimizer.param_groups[0].update(change)
    lns.save(tmp_path / "model", model, optimizer)
    assert_same_states(lns.load(tmp_path / "model"), model)


def test_parameters_that_the_optimizer_does_not_hold_are_saved_as_they_are(tmp_path: Path) -> None:
    model = network()
    optimizer = IntegerMadam(model[0].parameters())
    assert optimizer.quantized(model[0].weight) is None  # it has not taken a step
    lns.save(tmp_path / "before", model, optimizer)
    assert_same_states(lns.load(tmp_path / "before"), model)
    model(torch.ones(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    Madam(model[3:].parameters()).step()
    assert optimizer.quantized(model[0].weight) is not None
    assert optimizer.quantized(model[3].weight) is None
    lns.save(tmp_path / "after", model, optimizer)
    assert_same_states(lns.load(tmp_path / "after"), model)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 6)
        self.out = nn.Linear(6, 12)
        self.out.weight = self.embed.weight


def test_weights_that_are_shared_or_laid_out_otherwise_come_back_to_the_bit(tmp_path: Path) -> None:
    tied = Tied()
    optimizer = IntegerMadam(tied.parameters())
    tied.out(tied.embed(torch.arange(12))).square().sum().backward()
    optimizer.step()
    lns.save(tmp_path / "tied", tied, optimizer)
    assert_same_states(lns.load(tmp_path / "tied"), tied)

    model: nn.Module = network().to(memory_format=torch.channels_last)
    assert not model[0].weight.is_contiguous()
    lns.save(tmp_path / "channels_last", model, trained(model))
    assert_same_states(lns.load(tmp_path / "channels_last"), model)


def test_a_parameter_without_a_single_weight_comes_back(tmp_path: Path) -> None:
    model = nn.ParameterDict({"none": torch.empty(0, 3), "some": torch.ones(2, 3)})
    optimizer = IntegerMadam(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    lns.save(tmp_path / "model", model, optimizer)
    assert_same_states(lns.load(tmp_path / "model"), model)


class WithExtraState(nn.Linear):
    extra: Any = None

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


def with_extra_state(extra: Any) -> tuple[nn.Module, IntegerMadam]:
    """A layer that holds this beside its weights, after one step."""
    torch.manual_seed(0)
    model = WithExtraState(20, 10)
    model.extra = extra
    optimizer = IntegerMadam(model.parameters())
    model(torch.randn(5, 20)).square().sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("extra", [{"shape": [1], "levels": 3}, {}, [1, "two", None], {"levels": {}}, "a word"])
def test_extra_state_comes_back_as_it_was(extra: Any, tmp_path: Path) -> None:
    # Regression: a dictionary was taken for levels, and the file could not be read.
    model, optimizer = with_extra_state(extra)
    lns.save(tmp_path / "model", model, optimizer)
    loaded = lns.load(tmp_path / "model")
    assert torch.equal(loaded["weight"], model.weight)
    assert type(loaded["_extra_state"]) is type(extra)
    assert loaded["_extra_state"] == extra


def test_extra_state_that_could_not_be_read_again_is_refused_and_nothing_written(tmp_path: Path) -> None:
    model, optimizer = with_extra_state({"where": Path("somewhere")})
    with pytest.raises(ValueError, match=r"_extra_state is not allowed to hold what torch\.load"):
        lns.save(tmp_path / "model", model, optimizer)
    assert list(tmp_path.iterdir()) == []


def test_an_optimizer_without_levels_is_refused_by_name(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="optimizer=SGD is not allowed: must be an IntegerMadam"):
        lns.save(tmp_path / "model", model, torch.optim.SGD(model.parameters()))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, IntegerMadam]:
    torch.manual_seed(0)
    model = nn.Linear(20, 10)
    optimizer = IntegerMadam(model.parameters())
    model(torch.randn(5, 20)).square().sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def content(small: tuple[nn.Module, IntegerMadam], tmp_path: Path) -> bytes:
    """What a whole file has in it."""
    lns.save(tmp_path / "whole", *small)
    return (tmp_path / "whole").read_bytes()


def assert_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        lns.load(path)


def test_a_truncated_file_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    for length in [0, 1, 14, 15, 16, 30, 46, 47, 48, 100, len(content) // 2, len(content) - 1]:
        assert_refused(tmp_path / "damaged", content[:length])


def test_a_file_with_a_changed_byte_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    for at in [*range(64), *range(64, len(content), max(1, len(content) // 150)), len(content) - 1]:
        for change in (0x01, 0x80):
            damaged = bytearray(content)
            damaged[at] ^= change
            assert_refused(tmp_path / "damaged", bytes(damaged))


def test_a_file_with_bytes_added_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    assert_refused(tmp_path / "damaged", content + b"\0")
    assert_refused(tmp_path / "damaged", b"\0" + content)


def test_a_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save(nn.Linear(3, 2).state_dict(), file)
    for data in [file.getvalue(), b"hello\n", np.zeros(100).tobytes()]:
        assert_refused(tmp_path / "foreign", data)


def test_a_file_that_is_not_there_is_said_not_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        lns.load(tmp_path / "nothing")


def test_saving_again_replaces_the_file(small: tuple[nn.Module, IntegerMadam], tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"what was there before")
    lns.save(path, *small)
    assert_same_states(lns.load(path), small[0])
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_before_the_file_is_written_leaves_the_old_one_alone(
    small: tuple[nn.Module, IntegerMadam], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no")

    path = tmp_path / "model"
    path.write_bytes(b"what was there before")
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no"):
        lns.save(path, *small)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_the_file_is_written_leaves_the_old_one_alone_and_no_other(
    small: tuple[nn.Module, IntegerMadam], tmp_path: Path
) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"what was there before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as if the disk were full
    try:
        with pytest.raises(OSError, match="File too large"):
            lns.save(path, *small)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_to_move_the_file_into_place_leaves_no_other(
    small: tuple[nn.Module, IntegerMadam], tmp_path: Path
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        lns.save(path, *small)
    assert list(tmp_path.iterdir()) == [path]
    assert not list(path.iterdir())


def test_the_levels_of_stacked_tensors_are_not_those_of_one() -> None:
    # Regression: their scales were multiplied with the wrong axis.
    p = nn.Parameter(normal(3, 5, 4))
    optimizer = IntegerMadam([{"params": [p], "stacked_dims": 1}], lr=0.01)
    p.grad = normal(3, 5, 4, seed=1)
    optimizer.step()
    with pytest.raises(RuntimeError, match="stacked_dims=1: each of the stacked tensors has levels of its own"):
        optimizer.quantized(p)
