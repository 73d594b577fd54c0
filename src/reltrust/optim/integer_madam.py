"""Integer (B-bit) Madam: a weight is a sign and an integer level, and a step moves the level by whole numbers."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from reltrust.optim import lns
from reltrust.optim._base import RuleOptimizer, signed_lr
from reltrust.optim._norms import computing_dtype
from reltrust.optim._require import require
from reltrust.optim._rows import Rows
from reltrust.optim._stacked import Group
from reltrust.optim.madam import check_madam, init_madam, madam_settings, normalised_gradient
from reltrust.optim.shards import is_sharded, whole

_INITS = ("quantize", "random")


class IntegerMadam(RuleOptimizer):
    r"""Madam on weights :math:`W = \mathrm{sign} \cdot w_{max} \, e^{-b n}` with integer levels :math:`n`.

    At its first step each tensor fixes :math:`w_{max} = p_{scale} \sqrt{\overline{W_0^2}}` and its levels. With the
    clipped normalised gradient :math:`\hat g` of :class:`~reltrust.optim.Madam`, :math:`b` = ``base_lr``,
    :math:`K` = ``levels`` and :math:`f = \eta / b`:

    .. math::
        n &\leftarrow \mathrm{clip}(n + \mathrm{round}(f \hat g) \, \mathrm{sign}(W), \; 0, \; K - 1) \\
        W &\leftarrow \mathrm{sign}(W) \, w_{max} \, e^{-b n}

    :math:`f` is the published ``lr_factor``. It is read at each step, so that every schedule of ``lr`` decays the
    factor, as published, and leaves the weights that can be reached as they are. Signs never change; a weight of zero
    stays zero. The levels are kept as integers of the smallest dtype that holds them
    (:func:`~reltrust.optim.lns.level_dtype`); the parameters hold the weights that they mean.
    :func:`reltrust.optim.lns.save` keeps a trained model in B + 1 bits a weight.

    Source: arXiv 2006.14560, section 4 and the authors' experiments (4096, 1024 and 256 levels are 12, 10 and 8 bits).
    Published is ``init="random"``, which draws all magnitudes anew and keeps only the signs of the weights.

    Args:
        params: parameters, or dicts that define parameter groups.
        lr: the step in log |W| per unit of normalised gradient, finite and >= 0; a number or a tensor.
        base_lr: b, the distance of two levels in log |W|, finite and > 0. A change of it changes what the levels mean.
        levels: K, in 2..65536.
        p_scale, g_bound, beta: as in :class:`~reltrust.optim.Madam`.
        init: ``"quantize"`` takes the nearest level of each given weight, ``"random"`` draws it uniformly from 0..K-2
            with torch's generator of the parameter's device (which under DDP must have the same seed everywhere), one
            parameter after another in the order of the group, those of its first dtype first.
        foreach, maximize, capturable, fused: see :class:`~reltrust.optim._base.RuleOptimizer`.
        differentiable: must be False, as rounding has no gradient.

    Raises:
        ValueError: an argument is outside its range.
        RuntimeError: a gradient is sparse, a parameter is complex, or keywords exclude each other.
    """

    _moments = ("level", "exp_avg_rms")
    per_member = ("lr", "p_scale", "g_bound", "beta")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        base_lr: float = 0.001,
        levels: int = 4096,
        p_scale: float = 3.0,
        g_bound: float = 10.0,
        beta: float = 0.999,
        init: str = "quantize",
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, locals())

    def _check(self, group: Group) -> None:
        super()._check(group)
        check_madam(group)
        lns.check_base_lr(group["base_lr"])
        lns.level_dtype(group["levels"])
        require("init", group["init"], group["init"] in _INITS, f"one of {', '.join(_INITS)}")
        if group["differentiable"]:
            raise RuntimeError("IntegerMadam cannot be differentiable=True: rounding has no gradient")

    def quantized(self, param: Tensor) -> tuple[lns.Quantized, int, float] | None:
        """(signs, levels and w_max; K; b) of a parameter as it stands now.

        None before its first step, and for a parameter that has been changed by other hands since its last.

        Raises:
            RuntimeError: the parameter is a stack of several tensors, which have a w_max each.
        """
        if not (state := self.state.get(param)):
            return None
        group = next(group for group in self.param_groups if any(p is param for p in group["params"]))
        if group["stacked_dims"]:
            raise RuntimeError(
                f"stacked_dims={group['stacked_dims']}: each of the stacked tensors has levels of its own"
            )
        levels, base_lr = group["levels"], group["base_lr"]
        weight, level = whole(param.detach()), whole(state["level"])
        if level.numel() and int(level.to(torch.int32).max()) >= levels:  # the scale has become shorter
            return None
        w_max = torch.as_tensor(group["p_scale"] * state["init_rms"], dtype=computing_dtype(weight.dtype))
        held = lns.Quantized(weight.sign().to(torch.int8), level.to(lns.level_dtype(levels)), w_max)
        meant = lns.dequantize(*held, levels=levels, base_lr=base_lr, dtype=weight.dtype)
        same = torch.equal(meant, weight) and torch.equal(meant.signbit(), weight.signbit())  # 0 and -0 are equal
        return (held, levels, base_lr) if same else None

    def __getstate__(self) -> dict[str, Any]:
        """For pickling, which torch does not know of uint16: such levels travel as int32, until the next step."""
        state = dict(super().__getstate__())
        state["state"] = defaultdict(dict)
        for p, own in self.state.items():
            state["state"][p] = {
                k: v.to(torch.int32) if getattr(v, "dtype", None) == torch.uint16 else v for k, v in own.items()
            }
        return state

    def _init_state(self, rows: Rows, group: Group) -> dict[str, Tensor | list[Tensor]]:
        levels, state = group["levels"], init_madam(rows)
        if group["init"] == "random":
            drawn = [torch.empty(block.w.shape, dtype=torch.int32, device=rows.device) for block in rows.blocks]
            by_place: dict[int, Tensor] = {}
            for block, numbers in zip(rows.blocks, drawn, strict=True):
                by_place.update(zip(block.places, numbers.chunk(len(block.places)), strict=True))
            for place in sorted(by_place):
                by_place[place].random_(0, levels - 1)  # the compiler replaces torch.randint by numbers of its own
            level = [numbers.to(lns.level_dtype(levels)) for numbers in drawn]
        else:
            scales = rows.split(group["p_scale"] * state["init_rms"])
            level = [
                lns.quantize(block.w, levels=levels, base_lr=group["base_lr"], scale=scale).level
                for block, scale in zip(rows.blocks, scales, strict=True)
            ]
        return {**state, "level": level, "exp_avg_rms": rows.zeros()}

    def _update(self, rows: Rows, group: Group) -> None:
        levels, base_lr = group["levels"], group["base_lr"]
        # Collective libraries have no 16-bit integers.
        dtype = torch.int32 if is_sharded(rows.params[0]) and levels > 2**8 else lns.level_dtype(levels)
        for state in rows.states:
            if state["level"].dtype != dtype:  # the group's levels have changed, or the state was unpickled
                state["level"] = state["level"].to(torch.int32).clamp_(max=levels - 1).to(dtype)
        rows.apply(
            integer_madam_update,
            lr_factor=signed_lr(group) / base_lr,
            magnitudes=lns.relative_magnitudes(levels, base_lr, rows.blocks[0].w, rows.dtype),
            dtype=rows.dtype,
            **madam_settings(rows, group),
        )


def integer_madam_update(
    w: Tensor,  # [n, k]: n tensors of k weights, of which only the signs count; overwritten
    g: Tensor,  # [n, k]
    level: Tensor,  # [n, k]: n, of any integer dtype; overwritten
    exp_avg_rms: Tensor,  # [n, k]: sqrt(v); overwritten
    *,
    w_max: Tensor,  # [n, 1]
    correction: Tensor,  # [n, 1]: sqrt(1 - beta^t)
    lr_factor: float | Tensor,  # f: a number, 0-d or [n, 1]
    g_bound: float | Tensor,  # as sqrt_beta and gain a number or [n, 1]
    sqrt_beta: float | Tensor,
    gain: float | Tensor,  # sqrt(1 - beta)
    magnitudes: Tensor,  # [K]: exp(-b n)
    dtype: torch.dtype,  # of the parameters
) -> None:
    """One step of :class:`IntegerMadam` by its equations."""
    normalised = normalised_gradient(
        g, exp_avg_rms, correction=correction, g_bound=g_bound, sqrt_beta=sqrt_beta, gain=gain
    )
    levels, sign = len(magnitudes), w.sign()
    # No move is longer than the scale; a longer one might not fit in an int32.
    move = (normalised * lr_factor).round_().mul_(sign).clamp_(-levels, levels)
    # Where the scale has become shorter, a weight beyond it is on its last level.
    moved = level.to(torch.int32).clamp_(max=levels - 1).add_(move.to(torch.int32)).clamp_(0, levels - 1)
    # An integer has no NaN; the weight shows that the run is broken.
    sign = torch.where(normalised.isnan(), normalised, sign)
    w.copy_(lns.weights_of(sign, moved, w_max, magnitudes, dtype))
    level.copy_(moved)
