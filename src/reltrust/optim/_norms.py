"""Norms of the rows of matrices, right over the whole range of floating point and over all shards; and precision."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reltrust.optim.shards import is_plain, is_sharded

# Norms in float32 between these two bounds have lost nothing to the under- or overflow of squares.
_SAFE_NORMS = (1e-15, 1e15)
_LONG_ROW = 2**16


def wide_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 where the device has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def wide(x: Tensor) -> Tensor:
    """``x`` in the widest dtype of its device."""
    return x.to(wide_dtype(x.device))


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """What updates and moments of parameters of ``dtype`` are computed in: float32 for what is less precise."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def root_sum_square(a: Tensor, b: Tensor) -> Tensor:
    """The root of a^2 + b^2 for a, b >= 0, without overflow, to the same bit wherever an element stands.

    Each operation is rounded as IEEE 754 says. torch.hypot rounds what fills a vector register otherwise than the rest.
    """
    largest = torch.maximum(a, b)
    unit = torch.where((largest == 0) | largest.isinf(), 1.0, largest)
    return unit * ((a / unit).square() + (b / unit).square()).sqrt()


def norms(blocks: Sequence[Tensor], of: Sequence[Tensor]) -> Tensor:
    """The norm of each row of each block.

    Args:
        blocks: real matrices [n_i, k_i], on one device and of one floating dtype.
        of: the parameters that the N = sum of n_i rows belong to, in order. Where one is a ``DTensor``, its row is this
            process's part of it, and the norm is that of the whole.

    Returns:
        [N, 1] in float64 (float32 where the device has none).
    """
    first = blocks[0]
    if torch.is_grad_enabled() or not is_plain(first):
        here = torch.cat([_row_norms(block) for block in blocks])
    elif first.device.type == "cpu" and first.dtype == torch.float32:
        here = _quick_cpu_norms(blocks)
    else:  # single rows all at once: on CUDA in a few launches, however many they are
        single = [block for block in blocks if len(block) == 1]
        norms = iter(torch._foreach_norm(single, dtype=wide_dtype(first.device)) if single else ())
        here = torch.cat([next(norms).view(1) if len(block) == 1 else _row_norms(block) for block in blocks])
    return _over_shards(here, of).unsqueeze(1)


def _row_norms(block: Tensor) -> Tensor:
    row_norms: Tensor = torch.linalg.vector_norm(block, dim=1, dtype=wide_dtype(block.device))
    return row_norms


def _quick_cpu_norms(blocks: Sequence[Tensor]) -> Tensor:
    """In float32, which is much faster, and again in float64 those rows whose norm was not safe."""
    quick = torch.cat([_quick_cpu_row_norms(block) for block in blocks])
    low, high = _SAFE_NORMS
    clamped = quick.clamp(low, high)
    if clamped.equal(quick):
        return quick.double()
    # Zeros come here too: float32 cannot tell them from what is very small.
    unsafe, again, at = clamped.ne(quick), [], 0
    known = unsafe.tolist()
    for block, part in zip(blocks, quick.split([len(block) for block in blocks]), strict=True):
        again.append(_row_norms(block) if any(known[at : at + len(block)]) else part.double())
        at += len(block)
    return torch.where(unsafe, torch.cat(again), quick)


def _quick_cpu_row_norms(block: Tensor) -> Tensor:
    # By the length of the rows, never by their number: a row's norm is the same to the bit in whatever company.
    if block.shape[1] > _LONG_ROW:  # a BLAS dot product reads memory faster than a norm does
        return torch.stack([torch.dot(row, row) for row in block]).sqrt_()
    row_norms: Tensor = torch.linalg.vector_norm(block, dim=1)
    return row_norms


def _over_shards(here: Tensor, of: Sequence[Tensor]) -> Tensor:
    """[n]: the norms of the whole tensors from those of this process's parts; one collective call for each mesh."""
    meshes: dict[Any, list[int]] = {}
    for i, p in enumerate(of):
        if is_sharded(p):
            sharded: Any = p
            meshes.setdefault((sharded.device_mesh, sharded.placements), []).append(i)
    if not meshes:
        return here
    from torch.distributed.tensor import DTensor, Partial, Replicate

    everywhere = here.clone()
    for (mesh, placements), indices in meshes.items():
        partial = [Replicate() if p.is_replicate() else Partial("sum") for p in placements]
        squares = DTensor.from_local(here[indices].square(), mesh, partial, run_check=False)
        everywhere[indices] = squares.full_tensor().sqrt()
    return everywhere
