"""Tensors as rows of matrices, which is how update rules see them: stacked, or as views where that costs nothing."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reltrust.optim._norms import norms


@dataclass(slots=True)
class Block:
    """A matrix of weights with a row for each tensor that has a norm of its own.

    That is tensors of one shape, dtype and device; or one tensor; or one parameter of a stacked group, with all of its.
    """

    params: list[Tensor]  # as their owner knows them
    weights: list[Tensor]  # of each parameter what this process holds, real
    w: Tensor  # [n, k]: their values
    w_is_view: bool  # whether writing to w writes to the weights
    g: Tensor  # [n, k]: the gradients; never written to
    states: list[dict[str, Tensor]]  # of each parameter; empty if there is none yet


@dataclass(slots=True)
class Rows:
    """All that a step moves on one device and in one dtype: N rows, in blocks."""

    blocks: list[Block]
    state: dict[str, Tensor]  # [N, 1] each: the state that is one number a tensor

    @property
    def params(self) -> list[Tensor]:
        """One a row, or in a stacked group one a block."""
        return [p for block in self.blocks for p in block.params]

    @property
    def dtype(self) -> torch.dtype:
        return self.blocks[0].w.dtype

    @property
    def device(self) -> torch.device:
        return self.blocks[0].w.device

    def w_norm(self) -> Tensor:
        """[N, 1]: Frobenius norms of the weights, of all shards together."""
        return norms([block.w for block in self.blocks], self.params)

    def g_norm(self) -> Tensor:
        """[N, 1]: Frobenius norms of the gradients, of all shards together."""
        return norms([block.g for block in self.blocks], self.params)

    def w_rms(self) -> Tensor:
        """[N, 1]: root mean squares of the weights, of all shards together."""
        norm = self.w_norm()
        counts = []
        for block in self.blocks:
            rows = len(block.w) // len(block.params)
            counts += [p.numel() // rows for p in block.params for _ in range(rows)]
        roots = torch.tensor([[max(1, count) ** 0.5] for count in counts], dtype=norm.dtype)
        return norm / roots.to(self.device, non_blocking=True)


def join(tensors: list[Tensor]) -> tuple[Tensor, bool]:
    """[n, k] from n tensors of k elements, and whether it is a view: writing to a view writes to the tensors."""
    first, n, k = tensors[0], len(tensors), tensors[0].numel()
    if n == 1:
        return first.reshape(1, k), first.is_contiguous()
    # Neither the compiler nor autograd knows what lies behind the first tensor.
    if not (torch.compiler.is_compiling() or torch.is_grad_enabled()) and _are_consecutive(tensors):
        return first.as_strided((n, k), (k, 1)), True
    return torch.stack(tensors).view(n, k), False


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
    if len(tensors) == 1:
        tensors[0].copy_(rows.view(tensors[0].shape))
    else:
        torch._foreach_copy_(tensors, list(rows.view(len(tensors), *tensors[0].shape).unbind()))


def not_conjugating(x: Tensor, param: Tensor) -> Tensor:
    """``x``, or its conjugate if the parameter is a view that conjugates: what is written there can be read there."""
    return x.conj() if param.is_conj() else x


def real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
