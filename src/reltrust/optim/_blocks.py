"""Tensors as matrices with a row for each: stacked, or as views where that costs nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reltrust.optim.shards import is_plain, is_sharded, local

# Tensors of at most the first number of elements are stacked with others of their shape, up to the second number in
# all; larger ones are updated by slices of the second number. A CPU's slices stay in its cache, temporaries included;
# an accelerator's are long enough to hide the launches. Measured with benchmarks/optimizers.py.
SIZES = {"cpu": (2**15, 2**19)}
OTHER_SIZES = (2**20, 2**22)


@dataclass(slots=True)
class Block:
    """A matrix of weights with a row for each tensor that has a norm of its own.

    That is tensors of one shape, dtype and device; or one tensor; or one parameter of a stacked group, with all of its.
    """

    places: list[int]  # of the parameters, in the order of those that are moved together
    params: list[Tensor]  # as their owner knows them
    weights: list[Tensor]  # of each parameter what this process holds, real
    w: Tensor  # [n, k]: their values
    w_is_view: bool  # whether writing to w writes to the weights
    g: Tensor  # [n, k]: the gradients; never written to
    states: list[dict[str, Tensor]]  # of each parameter; empty if there is none yet


def gather(
    pairs: list[tuple[Tensor, Tensor]], state: Mapping[Tensor, dict[str, Tensor]], *, stacked_dims: int, alone: bool
) -> list[Block]:
    """Blocks of (parameter, gradient) pairs of one device and dtype: small tensors of one shape together.

    Only tensors that all have state, or all have none, are stacked; none are if each is to be ``alone``.
    """
    first = pairs[0][0]
    alone = alone or stacked_dims > 0 or is_sharded(first) or torch.compiler.is_compiling()
    most_stacked, most = SIZES.get(first.device.type, OTHER_SIZES)
    chosen: list[list[tuple[int, Tensor, Tensor]]] = []
    filling: dict[Any, list[tuple[int, Tensor, Tensor]]] = {}
    for i, (p, g) in enumerate(pairs):
        if alone or (numel := p.numel()) > most_stacked:
            chosen.append([(i, p, g)])
            continue
        key = (p.shape, not state.get(p))
        if (members := filling.get(key)) is None or (len(members) + 1) * numel > most:
            filling[key] = members = []
            chosen.append(members)
        members.append((i, p, g))

    blocks = []
    for members in chosen:
        places, params, grads = (list(column) for column in zip(*members, strict=True))
        states = [own for p in params if (own := state.get(p))]
        weights = params
        if first.is_complex() or is_sharded(first):
            weights, grads = [_held(p, p) for p in params], [_held(g, p) for _, p, g in members]
        if stacked_dims:
            n = params[0].shape[:stacked_dims].numel()
            w, w_is_view, g = params[0].view(n, -1), True, grads[0].reshape(n, -1)
        else:
            (w, w_is_view), (g, _) = join(weights), join(grads)
        blocks.append(Block(places, params, weights, w, w_is_view, g, states))
    return blocks


def _held(x: Tensor, param: Tensor) -> Tensor:
    """What this process holds of a parameter or its gradient, as real numbers that can be written to."""
    x = local(x.conj() if param.is_conj() else x)  # of a parameter that is a conjugating view: what it is a view of
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def join(tensors: list[Tensor]) -> tuple[Tensor, bool]:
    """[n, k] from n tensors of k elements, and whether it is a view: writing to a view writes to the tensors."""
    first, n, k = tensors[0], len(tensors), tensors[0].numel()
    if n == 1:
        return first.contiguous().reshape(1, k), first.is_contiguous()
    # Autograd does not know what lies behind the first tensor.
    if is_plain(first) and not torch.is_grad_enabled() and _are_consecutive(tensors):
        return first.as_strided((n, k), (k, 1)), True
    return torch.stack(tensors).reshape(n, k), False  # of other memory formats, in the order of their elements


def _are_consecutive(tensors: list[Tensor]) -> bool:
    """Whether the tensors, of one shape, lie one after another in one storage."""
    first = tensors[0]
    address, size = first.data_ptr(), first.numel() * first.element_size()
    if not size or tensors[1].data_ptr() != address + size:
        return False
    for t in tensors:
        if t.data_ptr() != address or not t.is_contiguous():
            return False
        address += size
    # Storages do not overlap, so addresses within the first one's are of tensors in it.
    room = first.untyped_storage().nbytes() - first.storage_offset() * first.element_size()
    return len(tensors) * size <= room


def scatter(rows: Tensor, tensors: list[Tensor]) -> None:
    """Writes [n, k] to n tensors of k elements."""
    if len(tensors) == 1:
        tensors[0].copy_(rows.view(tensors[0].shape))
    else:
        torch._foreach_copy_(tensors, list(rows.view(len(tensors), *tensors[0].shape).unbind()))
