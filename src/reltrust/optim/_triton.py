"""Triton kernels that update any number of CUDA tensors in one launch. Imported only where ``fused=True`` asks for it.

Each kernel does what the rule of the same name does. The tensors are cut into pieces of ``_PIECE`` elements; a program
of the grid looks up which tensor its piece belongs to, and where that tensor and its companions lie in memory.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIECE = 4096
_WARPS = 8

_DTYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


def relative_update(weights: list[Tensor], grads: list[Tensor], *, shrink: float | Tensor, size: Tensor) -> None:
    """:func:`reltrust.optim.fromage.relative_update` of n tensors, [1, k_i] each and contiguous; ``size`` is [n, 1]."""
    shrinks = _each(shrink, size)
    pieces, offsets = _pieces(tuple(w.numel() for w in weights), weights[0].device)
    _relative_kernel[(len(pieces),)](
        _addresses(weights, grads),
        pieces,
        offsets,
        shrinks,
        size,
        W=_DTYPES[weights[0].dtype],
        G=_DTYPES[grads[0].dtype],
        COMPUTE=_DTYPES[size.dtype],
        PIECE=_PIECE,
        num_warps=_WARPS,
    )


def madam_update(
    weights: list[Tensor],
    grads: list[Tensor],
    exp_avg_rms: list[Tensor],
    *,
    w_max: Tensor,
    correction: Tensor,
    lr: float | Tensor,
    g_bound: float,
    sqrt_beta: float,
    gain: float,
) -> None:
    """:func:`reltrust.optim.madam.madam_update` of n tensors, [1, k_i] each, contiguous; row settings are [n, 1]."""
    pieces, offsets = _pieces(tuple(w.numel() for w in weights), weights[0].device)
    _madam_kernel[(len(pieces),)](
        _addresses(weights, grads, exp_avg_rms),
        pieces,
        offsets,
        w_max,
        correction,
        _each(lr, w_max),
        G_BOUND=g_bound,
        SQRT_BETA=sqrt_beta,
        GAIN=gain,
        TINY=torch.finfo(w_max.dtype).tiny,
        W=_DTYPES[weights[0].dtype],
        G=_DTYPES[grads[0].dtype],
        COMPUTE=_DTYPES[w_max.dtype],
        PIECE=_PIECE,
        num_warps=_WARPS,
    )


def _each(setting: float | Tensor, like: Tensor) -> Tensor:
    """One setting for each row, in the dtype of ``like``, without a look at the device."""
    if isinstance(setting, Tensor):
        return setting.to(like.device, like.dtype, non_blocking=True).expand_as(like).contiguous()
    return torch.full_like(like, setting)


@lru_cache(maxsize=64)
def _pieces(numels: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """For each piece (its tensor, elements that this has left), int64 [pieces, 2], and where it starts, [pieces]."""
    table = [(i, n - start, start) for i, n in enumerate(numels) for start in range(0, n, _PIECE)]
    whole = torch.tensor(table, dtype=torch.int64).reshape(-1, 3).to(device)
    return whole[:, :2].contiguous(), whole[:, 2].contiguous()


# Tables of addresses that a CUDA graph replays must stay where they are.
_captured: list[tuple[Tensor, Tensor]] = []


def _addresses(*lists: list[Tensor]) -> Tensor:
    """int64 [n, len(lists)]: where the tensors begin."""
    device = lists[0][0].device
    table = tuple(t.data_ptr() for tensors in zip(*lists, strict=True) for t in tensors)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _upload(table, device, captured=True)
    return _known_addresses(table, device)


@lru_cache(maxsize=16)
def _known_addresses(table: tuple[int, ...], device: torch.device) -> Tensor:
    return _upload(table, device, captured=False)  # gradients mostly come back to the same places


def _upload(table: tuple[int, ...], device: torch.device, *, captured: bool) -> Tensor:
    here = torch.tensor(table, dtype=torch.int64, pin_memory=device.type == "cuda")
    there = here.to(device, non_blocking=True)
    if captured:
        _captured.append((here, there))
    return there


@triton.jit
def _place(pieces, offsets, PIECE: tl.constexpr):
    """Of this program: its tensor, the elements of it that are its own, and which of them the tensor has."""
    piece = tl.program_id(0)
    lane = tl.arange(0, PIECE)
    return tl.load(pieces + 2 * piece), tl.load(offsets + piece) + lane, lane < tl.load(pieces + 2 * piece + 1)


@triton.jit
def _relative_kernel(
    addresses,  # int64 [n, 2]
    pieces,  # int64 [pieces, 2]
    offsets,  # int64 [pieces]
    shrinks,  # [n]
    sizes,  # [n]
    W: tl.constexpr,
    G: tl.constexpr,
    COMPUTE: tl.constexpr,
    PIECE: tl.constexpr,
):
    row, where, mask = _place(pieces, offsets, PIECE)
    w_at = tl.load(addresses + 2 * row).to(tl.pointer_type(W)) + where
    g_at = tl.load(addresses + 2 * row + 1).to(tl.pointer_type(G)) + where
    w = tl.load(w_at, mask=mask, other=0).to(COMPUTE)
    g = tl.load(g_at, mask=mask, other=0).to(COMPUTE)
    w = w * tl.load(shrinks + row) - g * tl.load(sizes + row)
    tl.store(w_at, w.to(W), mask=mask)


@triton.jit
def _madam_kernel(
    addresses,  # int64 [n, 3]
    pieces,  # int64 [pieces, 2]
    offsets,  # int64 [pieces]
    w_maxes,  # [n]
    corrections,  # [n]
    lrs,  # [n]
    G_BOUND: tl.constexpr,
    SQRT_BETA: tl.constexpr,
    GAIN: tl.constexpr,
    TINY: tl.constexpr,
    W: tl.constexpr,
    G: tl.constexpr,
    COMPUTE: tl.constexpr,
    PIECE: tl.constexpr,
):
    row, where, mask = _place(pieces, offsets, PIECE)
    w_at = tl.load(addresses + 3 * row).to(tl.pointer_type(W)) + where
    g_at = tl.load(addresses + 3 * row + 1).to(tl.pointer_type(G)) + where
    rms_at = tl.load(addresses + 3 * row + 2).to(tl.pointer_type(COMPUTE)) + where
    w = tl.load(w_at, mask=mask, other=0).to(COMPUTE)
    g = tl.load(g_at, mask=mask, other=0).to(COMPUTE)
    rms = tl.load(rms_at, mask=mask, other=0)

    # sqrt(a^2 + b^2) without squares that under- or overflow
    a = rms * SQRT_BETA
    b = tl.abs(g) * GAIN
    larger = tl.maximum(a, b)
    ratio = tl.minimum(a, b) / tl.maximum(larger, TINY)
    rms = larger * tl.sqrt(1 + ratio * ratio)
    # Triton's maximum and minimum pass over a NaN; it must show.
    rms = tl.where(g != g, g, rms)
    rms = tl.where(a != a, a, rms)

    normalised = g / tl.where(rms < TINY, TINY, rms) * tl.load(corrections + row)
    normalised = tl.where(normalised > G_BOUND, G_BOUND, normalised)
    normalised = tl.where(normalised < -G_BOUND, -G_BOUND, normalised)
    sign = tl.where(w > 0, 1.0, tl.where(w < 0, -1.0, 0.0))
    w = w * tl.exp(-tl.load(lrs + row) * normalised * sign)
    w_max = tl.load(w_maxes + row)
    w = tl.where(w > w_max, w_max, w)
    w = tl.where(w < -w_max, -w_max, w)
    tl.store(w_at, w.to(W), mask=mask)
    tl.store(rms_at, rms, mask=mask)
