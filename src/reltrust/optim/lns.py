"""The logarithmic number system of integer Madam: a weight is a sign and an integer level.

.. math:: W = \\mathrm{sign} \\cdot \\mathrm{scale} \\cdot e^{-b n}, \\quad n \\in \\{0, \\dots, K - 1\\}

with :math:`b` = ``base_lr`` and :math:`K` = ``levels``. Level 0 is the largest weight, ``scale``; a sign of 0 is the
weight 0. With :math:`K = 2^B`, sign and level take B + 1 bits.

Source: arXiv 2006.14560, section 4 (B-bit Madam).
"""

import hashlib
import io
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from reltrust.optim._norms import computing_dtype, wide
from reltrust.optim._require import require
from reltrust.optim.shards import is_plain, whole

MAX_LEVELS = 2**16

_MAGIC = b"reltrust-lns 2\n"
_DIGEST_BYTES = hashlib.sha256().digest_size


class Quantized(NamedTuple):
    """A tensor as signs and levels."""

    sign: Tensor  # int8: -1, 0 or 1
    level: Tensor  # 0..levels-1, in ``level_dtype(levels)``
    scale: Tensor  # 0-d (or broadcastable to the weights): the magnitude of level 0


# --- between floats and levels ---------------------------------------------------------------------------------------


def level_dtype(levels: int) -> torch.dtype:
    """The smallest dtype that holds the levels 0..levels-1.

    Raises:
        ValueError: ``levels`` is not an integer in 2..65536.
    """
    require("levels", levels, type(levels) is int and 2 <= levels <= MAX_LEVELS, f"an integer in 2..{MAX_LEVELS}")
    return torch.uint8 if levels <= 2**8 else torch.int16 if levels <= 2**15 else torch.uint16


def check_base_lr(base_lr: float) -> None:
    """Raises ValueError unless ``base_lr`` is a finite number > 0."""
    require("base_lr", base_lr, 0 < base_lr < float("inf"), "a finite number > 0")


def quantize(weight: Tensor, *, levels: int, base_lr: float, scale: Tensor | float | None = None) -> Quantized:
    """The nearest level, in log |W|, of each weight.

    Args:
        weight: any shape, float16 to float64.
        levels: K, in 2..65536.
        base_lr: b > 0, the distance of two levels in log |W|.
        scale: the magnitude of level 0, > 0 where a weight is not 0; by default the largest magnitude in ``weight``.
            Weights beyond it become level 0, weights below exp(-b (K-1)) of it become level K-1, zeros keep sign 0.

    Raises:
        ValueError: ``levels`` or ``base_lr`` is outside its range, or ``weight`` is not real and floating.
    """
    dtype = level_dtype(levels)
    check_base_lr(base_lr)
    require("weight.dtype", weight.dtype, weight.is_floating_point(), "a real floating-point dtype")
    if scale is None:
        scale = weight.abs().amax() if weight.numel() else weight.new_ones(())
    scale = torch.as_tensor(scale, dtype=computing_dtype(weight.dtype), device=weight.device)
    level = ((wide(scale).log() - wide(weight.abs()).log()) / base_lr).round_().clamp_(0, levels - 1)
    level = torch.where(weight == 0, levels - 1, level)  # 0/0 where the scale is 0 too
    return Quantized(weight.sign().to(torch.int8), level.to(torch.int32).to(dtype), scale)


def dequantize(
    sign: Tensor, level: Tensor, scale: Tensor, *, levels: int, base_lr: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The weights of signs and levels, to the bit those that :class:`~reltrust.optim.IntegerMadam` trains with.

    Magnitudes that would be zero in ``dtype`` become its smallest normal number, so that no sign is lost.

    Args:
        sign: any shape and dtype, -1, 0 or 1.
        level: integers 0..levels-1, of the same shape.
        scale: 0-d, or broadcastable to the shape.
        levels, base_lr: K and b, as in ``quantize``.
        dtype: of the result.
    """
    return weights_of(sign, level, scale, relative_magnitudes(levels, base_lr, level, dtype), dtype)


def relative_magnitudes(levels: int, base_lr: float, beside: Tensor, dtype: torch.dtype) -> Tensor:
    """exp(-b n) for n = 0..K-1, [levels], for weights of ``dtype`` that are computed from the tensor ``beside``.

    One table in float64, rounded once: so every device and every way to carry out a step has the same numbers.
    """
    # What is made while tensors only stand for others, in a trace or under FakeTensorMode, has no place in a cache.
    make = _magnitudes if is_plain(beside) else _magnitudes.__wrapped__
    return make(levels, base_lr, beside.device, computing_dtype(dtype))


@cache  # for ever: a captured CUDA graph reads a table from where it lies
def _magnitudes(levels: int, base_lr: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    exponents = -base_lr * torch.arange(levels, dtype=torch.float64, device="cpu")
    return exponents.exp().to(dtype).to(device, non_blocking=True)


def weights_of(sign: Tensor, level: Tensor, scale: Tensor, magnitudes: Tensor, dtype: torch.dtype) -> Tensor:
    """What ``dequantize`` returns, from the table of ``relative_magnitudes``."""
    magnitude = magnitudes.index_select(0, level.to(torch.int32).flatten()).view(level.shape)
    magnitude = (magnitude * scale.to(magnitude.dtype)).clamp_min(torch.finfo(dtype).tiny)
    return (magnitude * sign).to(dtype)


# --- between levels and bits -----------------------------------------------------------------------------------------


def bits(levels: int) -> int:
    """B, the bits of a level: the smallest B with 2^B >= levels. A weight takes B + 1."""
    level_dtype(levels)
    return (levels - 1).bit_length()


def pack(sign: Tensor, level: Tensor, *, levels: int) -> Tensor:
    """Signs and levels in B + 1 bits a weight: uint8 [ceil((B + 1) numel / 8)] on the CPU, least significant bit first.

    Raises:
        ValueError: a sign is not -1 or 1 (one bit has no room for zeros), or a level is not in 0..levels-1.
    """
    width = bits(levels) + 1
    sign, level = sign.flatten().cpu(), level.flatten().to("cpu", torch.int32)
    if not ((sign == 1) | (sign == -1)).all():
        raise ValueError("sign is not allowed to be other than -1 or 1: keep zeros apart")
    if level.numel() and not ((level >= 0) & (level < levels)).all():
        raise ValueError(f"level is not allowed to be outside 0..{levels - 1}")
    # Eight weights fill `width` bytes exactly, so blocks of eight times some number can be packed one after another.
    packed = [_pack_bits((s < 0).to(torch.int32) << (width - 1) | n, width) for s, n in _blocks(sign, level)]
    return torch.cat(packed) if packed else torch.empty(0, dtype=torch.uint8)


def unpack(packed: Tensor, shape: torch.Size | tuple[int, ...], *, levels: int) -> tuple[Tensor, Tensor]:
    """The (sign, level) that ``pack`` packed: int8 and ``level_dtype(levels)``, both of ``shape``, on the CPU.

    Raises:
        ValueError: ``packed`` is not as long as ``shape`` and ``levels`` ask for, or holds a level beyond ``levels``.
    """
    width, numel = bits(levels) + 1, torch.Size(shape).numel()
    if packed.dtype != torch.uint8 or packed.numel() != -(-numel * width // 8):
        raise ValueError(
            f"packed has {packed.numel()} elements of {packed.dtype}: "
            f"{numel} weights of {width} bits are {-(-numel * width // 8)} of torch.uint8"
        )
    sign = torch.empty(numel, dtype=torch.int8)
    level = torch.empty(numel, dtype=level_dtype(levels))
    start = 0
    for s, n in _blocks(sign, level):
        size = -(-s.numel() * width // 8)
        code = _unpack_bits(packed[start : start + size].cpu(), s.numel(), width)
        s.copy_(1 - 2 * (code >> (width - 1)))
        n.copy_(code & (1 << (width - 1)) - 1)
        start += size
        if n.numel() and int(n.to(torch.int32).max()) >= levels:
            raise ValueError(f"packed holds a level beyond {levels - 1}")
    return sign.view(shape), level.view(shape)


def _blocks(*flat: Tensor, size: int = 2**20) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(x.split(size) for x in flat), strict=True) if flat[0].numel() else iter(())


def _pack_bits(code: Tensor, width: int) -> Tensor:
    each = (code.unsqueeze(1) >> torch.arange(width, dtype=torch.int32)).bitwise_and_(1).to(torch.uint8).flatten()
    each = nn.functional.pad(each, (0, -len(each) % 8)).view(-1, 8)
    return (each << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def _unpack_bits(packed: Tensor, count: int, width: int) -> Tensor:
    each = (packed.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)).bitwise_and_(1).flatten()[: count * width]
    return (each.view(count, width).to(torch.int32) << torch.arange(width, dtype=torch.int32)).sum(1, dtype=torch.int32)


# --- a trained model in a file ---------------------------------------------------------------------------------------


@runtime_checkable
class HoldsLevels(Protocol):
    """An optimizer that can tell the signs and levels of a parameter: IntegerMadam."""

    def quantized(self, param: Tensor) -> tuple[Quantized, int, float] | None:
        """(signs, levels and scale; K; b), or None if the parameter has not been quantized."""


def save(path: str | Path, model: nn.Module, optimizer: HoldsLevels) -> int:
    """Writes ``to_bytes(model, optimizer)``.

    The file is complete or not there: it is written beside ``path`` and moved into place. Of a sharded model every
    process makes the call, each with a path of its own.

    Returns:
        the size of the file in bytes.
    """
    data = to_bytes(model, optimizer)
    path = Path(path)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return len(data)


def to_bytes(model: nn.Module, optimizer: HoldsLevels) -> bytes:
    """``model.state_dict()`` with (B + 1) bits for each weight that the optimizer keeps as a level.

    Everything else (buffers, parameters of other optimizers) is kept as it is. A tensor with some weights that are zero
    takes one more bit for each of its weights, one whose weights are all zero takes none. Of a sharded model (FSDP2)
    this is a collective call, which returns the whole on every process.

    Raises:
        TypeError: the optimizer keeps no levels.
        ValueError: the model's extra state holds objects, which ``load`` does not read.
    """
    if not isinstance(optimizer, HoldsLevels):
        raise TypeError(
            f"optimizer={type(optimizer).__name__} is not allowed: must be an IntegerMadam, which keeps levels"
        )
    state = model.state_dict()  # first: FSDP2 takes the parameters back that a forward has put together
    params = dict(model.named_parameters(remove_duplicate=False))
    entries: dict[str, Any] = {}
    for name, value in state.items():
        held = optimizer.quantized(params[name]) if name in params else None
        if held is not None:
            entries[name] = {"levels": _to_entry(value, *held)}
        else:
            entries[name] = {"value": whole(value.detach()).cpu() if isinstance(value, Tensor) else value}
            if type(entries[name]["value"]) is not Tensor:
                _check_loadable(name, value)
    blob = io.BytesIO()
    torch.save(entries, blob)
    content = blob.getvalue()
    return _MAGIC + hashlib.sha256(content).digest() + content


def load(path: str | Path) -> dict[str, Any]:
    """The state dict that ``save`` wrote, to the bit, on the CPU.

    Raises:
        ValueError: the file is not one of ``save``, or it is truncated or changed.
    """
    return from_bytes(Path(path).read_bytes(), str(path))


def from_bytes(data: bytes, name: str = "these bytes") -> dict[str, Any]:
    """What ``load`` reads, from what ``to_bytes`` returned; errors call it by ``name``."""
    if not data.startswith(_MAGIC):
        raise ValueError(f"{name}: not of reltrust.optim.lns.save, or its beginning is damaged")
    digest, content = data[len(_MAGIC) :][:_DIGEST_BYTES], data[len(_MAGIC) + _DIGEST_BYTES :]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(f"{name}: truncated or changed since it was written (its checksum does not match)")
    entries = torch.load(io.BytesIO(content), weights_only=True)
    return {
        name: _from_entry(entry["levels"]) if "levels" in entry else entry["value"] for name, entry in entries.items()
    }


def _check_loadable(name: str, value: object) -> None:
    blob = io.BytesIO()
    try:
        torch.save(value, blob)
        blob.seek(0)
        torch.load(blob, weights_only=True)
    except Exception as error:  # whatever pickling and unpickling raise
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{name} is not allowed to hold what torch.load(weights_only=True) refuses: {reason}"
        ) from None


def _to_entry(weight: Tensor, held: Quantized, levels: int, base_lr: float) -> dict[str, Any]:
    nonzero = held.sign.cpu() != 0
    some_zeros = not nonzero.all()
    entry = {
        "shape": list(weight.shape),
        "dtype": weight.dtype,
        "levels": levels,
        "base_lr": base_lr,
        "scale": held.scale.detach().cpu(),
        "packed": pack(held.sign.cpu()[nonzero], held.level.cpu()[nonzero], levels=levels),
    }
    if some_zeros:
        entry["nonzero"] = _pack_bits(nonzero.flatten().to(torch.int32), 1) if nonzero.any() else None
    return entry


def _from_entry(entry: dict[str, Any]) -> Tensor:
    shape, levels, dtype = torch.Size(entry["shape"]), entry["levels"], entry["dtype"]
    nonzero = torch.ones(shape, dtype=torch.bool)
    if "nonzero" in entry:
        kept = entry["nonzero"]
        nonzero = _unpack_bits(kept, shape.numel(), 1).view(shape).bool() if kept is not None else ~nonzero
    sign, level = unpack(entry["packed"], (int(nonzero.sum()),), levels=levels)
    weight = torch.zeros(shape, dtype=dtype)
    weight[nonzero] = dequantize(sign, level, entry["scale"], levels=levels, base_lr=entry["base_lr"], dtype=dtype)
    return weight
