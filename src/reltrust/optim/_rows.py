"""What an update is stated for: tensors as rows, with their norms and their state."""

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reltrust.optim._apply import Rule, apply, is_by_row
from reltrust.optim._blocks import Block, join, scatter
from reltrust.optim._norms import computing_dtype, norms, wide_dtype
from reltrust.optim._stacked import Group
from reltrust.optim.shards import like_shards, local


class Rows:
    """All that a step moves of one group, on one device and in one dtype: N rows, in blocks.

    ``group`` has the hyperparameters, (K,) for the K members of a stack. ``moments`` names the elementwise state.
    """

    def __init__(self, blocks: list[Block], group: Group, moments: tuple[str, ...], *, by_kernel: bool = False) -> None:
        self.blocks = blocks
        self.group = group
        self.moments = moments
        self.by_kernel = by_kernel  # whether one kernel of _triton.py updates all tensors at once
        self.differentiable: bool = group["differentiable"]
        self.state: dict[str, Tensor] = {}  # [N, 1] each: the state that is one number a tensor
        self._read: dict[str, tuple[Tensor, bool]] = {}  # the same before the step, and whether it is a view

    @property
    def params(self) -> list[Tensor]:
        """One a row, or in a stacked group one a block."""
        return [p for block in self.blocks for p in block.params]

    @property
    def states(self) -> list[dict[str, Tensor]]:
        """That of each parameter, if they have any."""
        return [state for block in self.blocks for state in block.states]

    @property
    def dtype(self) -> torch.dtype:
        return self.blocks[0].w.dtype

    @property
    def device(self) -> torch.device:
        return self.blocks[0].w.device

    def split(self, x: Tensor) -> Sequence[Tensor]:
        """[N, 1] by block, [n, 1] each."""
        parts: Sequence[Tensor] = x.split([len(block.w) for block in self.blocks])
        return parts

    # --- norms -------------------------------------------------------------------------------------------------------

    def w_norm(self) -> Tensor:
        """[N, 1]: Frobenius norms of the weights, of all shards together."""
        return norms([block.w for block in self.blocks], self.params)

    def g_norm(self) -> Tensor:
        """[N, 1]: Frobenius norms of the gradients, of all shards together."""
        return norms([block.g for block in self.blocks], self.params)

    def w_rms(self) -> Tensor:
        """[N, 1]: root mean squares of the weights, of all shards together."""
        norm, counts = self.w_norm(), []
        for block in self.blocks:
            rows = len(block.w) // len(block.params)
            counts += [p.numel() // rows for p in block.params for _ in range(rows)]
        roots = torch.tensor([[max(1, count) ** 0.5] for count in counts], dtype=norm.dtype, device="cpu")
        return norm / roots.to(self.device, non_blocking=True)

    # --- what an update does -----------------------------------------------------------------------------------------

    def apply(self, rule: Rule, **settings: Any) -> None:
        """Carries out ``rule(w, g, *moments, **settings)``: it overwrites ``w`` and the moments.

        The rule sees [n, k] weights and gradients, in float32 where they are less precise, and [n, k] moments: of one
        tensor, a stack of small ones or a slice of a large one. Settings that are [N, 1] are handed to their rows, in
        the dtype that is computed in; others are the same for all rows.
        """
        dtype = computing_dtype(self.dtype)
        settings = {key: v.to(dtype) if is_by_row(v) else v for key, v in settings.items()}
        if self.by_kernel:
            self._apply_by_kernel(rule, settings)
            return
        by_block = {key: self.split(v) for key, v in settings.items() if is_by_row(v)}
        for i, block in enumerate(self.blocks):
            if block.w.numel():
                self._apply_to(block, rule, settings | {key: values[i] for key, values in by_block.items()})

    def scale_weights(self, factor: Tensor) -> None:
        """Multiplies the updated weights of each row by its ``factor``, [N, 1]."""
        for block, f in zip(self.blocks, self.split(factor.to(self.dtype)), strict=True):
            block.w = block.w * f if self.differentiable else block.w.mul_(f)

    def _apply_to(self, block: Block, rule: Rule, settings: dict[str, Any]) -> None:
        w, g = block.w, block.g
        states = [[local(state[key]) for state in block.states] for key in self.moments]
        joined = [join(tensors) for tensors in states]
        moments = [value.view(w.shape) for value, _ in joined]
        if self.differentiable:
            # Autograd keeps what norms were taken of.
            w, moments = w.clone(), [moment.clone() for moment in moments]
            apply(rule, w, g, moments, settings, whole=True)
            block.w = w
            for key, moment in zip(self.moments, moments, strict=True):
                self._put(block, key, moment)
            return

        apply(rule, w, g, moments, settings, fused=bool(self.group["fused"]))
        for tensors, (value, is_view) in zip(states, joined, strict=True):
            if not is_view:
                scatter(value, tensors)

    def _apply_by_kernel(self, rule: Rule, settings: dict[str, Any]) -> None:
        from reltrust.optim import _triton  # needs triton, which comes with torch's CUDA builds

        joined = [[join([block.states[0][key]]) for block in self.blocks] for key in self.moments]
        moments = [[value for value, _ in values] for values in joined]
        kernel = getattr(_triton, rule.__name__)
        kernel([block.w for block in self.blocks], [block.g for block in self.blocks], *moments, **settings)
        torch.autograd.graph.increment_version(self.params)
        for key, values in zip(self.moments, joined, strict=True):
            for block, (value, is_view) in zip(self.blocks, values, strict=True):
                if not is_view:
                    scatter(value, [block.states[0][key]])

    # --- before and after an update ----------------------------------------------------------------------------------

    def zeros(self) -> list[Tensor]:
        """[n, k] for each block, in the dtype of moments."""
        return [torch.zeros_like(block.w, dtype=computing_dtype(block.w.dtype)) for block in self.blocks]

    def start_state(self, started: dict[str, Any], state: MutableMapping[Tensor, dict[str, Tensor]]) -> None:
        """Puts into ``state`` what rows start with: moments as [n, k] for each block, other state as [N, 1]."""
        axes = self.group["stacked_dims"]
        for block in self.blocks:
            block.states = [state[p] for p in block.params]
        for key, value in started.items():
            if key in self.moments:
                for block, moment in zip(self.blocks, value, strict=True):
                    self._put(block, key, moment)
            else:
                shapes = [p.shape[:axes] for p in self.params]  # () for each, but for stacks
                numbers = value.flatten().split([shape.numel() for shape in shapes])
                for own, number, shape in zip(self.states, numbers, shapes, strict=True):
                    own[key] = number.view(shape)

    def read_state(self) -> None:
        """Brings ``state`` together from the parameters'. A number of Python there becomes a tensor."""
        axes, states = self.group["stacked_dims"], self.states
        for key in states[0] if states else ():
            if key in self.moments:
                continue
            for block in self.blocks:
                for p, own in zip(block.params, block.states, strict=False):
                    if not isinstance(number := own[key], Tensor):
                        dtype = wide_dtype(p.device)
                        own[key] = torch.full(p.shape[:axes], float(number), dtype=dtype, device=p.device)
            numbers = [own[key] for own in states]
            joined = (torch.cat([x.flatten() for x in numbers]).unsqueeze(1), False) if axes else join(numbers)
            self.state[key], self._read[key] = joined[0], joined

    def write_back(self, *, weights: bool) -> None:
        """Hands the state, and the weights if they are to move, to the parameters."""
        for block in self.blocks if weights else ():
            if not block.w_is_view:
                scatter(block.w, block.weights)
            elif len(block.params) > 1:  # a view of the first tensor's memory: autograd is to hear of the others too
                torch.autograd.graph.increment_version(block.params)
        states = self.states
        for key, value in self.state.items():
            before, is_view = self._read[key]
            if self.differentiable:
                for own, number in zip(states, value.flatten().unbind(), strict=True):
                    own[key] = number
            elif self.group["stacked_dims"]:
                for own, numbers in zip(states, self.split(value.flatten()), strict=True):
                    own[key].copy_(numbers.view_as(own[key]))
            elif value is not before or not is_view:
                scatter(value, [own[key] for own in states])

    @staticmethod
    def _put(block: Block, key: str, moment: Tensor) -> None:
        """Makes the rows of ``moment``, [n, k], the state of the block's parameters."""
        rows = moment.unbind() if len(block.params) > 1 else (moment,)
        for p, weight, state, row in zip(block.params, block.weights, block.states, rows, strict=True):
            state[key] = like_shards(row.view(weight.shape), p)
