"""Fromage: steps whose size is a fixed share of the norm of each tensor."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from reltrust.optim._base import RuleOptimizer, signed_lr
from reltrust.optim._norms import computing_dtype
from reltrust.optim._require import require
from reltrust.optim._rows import Rows
from reltrust.optim._stacked import Group


class Fromage(RuleOptimizer):
    r"""Frobenius matched gradient descent.

    For each parameter tensor :math:`W` (biases included) with gradient :math:`g` and learning rate :math:`\eta`:

    .. math:: W \leftarrow \frac{1}{\sqrt{1 + \eta^2}} \left(W - \eta \, \frac{\|W\|_F}{\|g\|_F} \, g\right)

    and, where :math:`\|W\|_F = 0` or :math:`\|g\|_F = 0`, :math:`W \leftarrow (W - \eta g) / \sqrt{1 + \eta^2}`.
    There is no momentum and no state, except with ``p_bound``.

    Source: Bernstein, Vahdat, Yue, Liu, *On the distance between two neural networks and the stability of
    learning*, NeurIPS 2020, Algorithm 1 (arXiv 2002.03432).

    Args:
        params: parameters, or dicts that define parameter groups. Complex ones move by the norms of their moduli.
        lr: relative size of a step, finite and >= 0; a number or a tensor. The paper's best on every benchmark is 0.01.
        p_bound: if given (>= 0), the norm of each tensor never exceeds ``p_bound`` times its norm at its first step.
        foreach, maximize, capturable, differentiable, fused: see :class:`~reltrust.optim._base.RuleOptimizer`.

    Raises:
        ValueError: an argument is outside its range.
        RuntimeError: a gradient is sparse, or keywords exclude each other.
    """

    _complex = True
    _kernel = True
    per_member = ("lr", "p_bound")
    _shrinks: ClassVar[bool] = True  # LARS leaves the factor 1/sqrt(1 + lr^2) out

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        p_bound: float | None = None,
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
        bound = group["p_bound"]
        allowed = bound is None or (math.isfinite(bound) and bound >= 0)
        require("p_bound", bound, allowed, "None or a finite number >= 0")

    def _init_state(self, rows: Rows, group: Group) -> dict[str, Tensor | list[Tensor]]:
        return {} if group["p_bound"] is None else {"init_norm": rows.w_norm()}

    def _rescales(self, group: Group) -> bool:
        return group["p_bound"] is not None

    def _update(self, rows: Rows, group: Group) -> None:
        lr = signed_lr(group)
        shrink = (1 + lr**2) ** -0.5 if self._shrinks else 1.0
        w_norm, g_norm = rows.w_norm(), rows.g_norm()
        ratio = torch.where(w_norm * g_norm == 0, 1.0, w_norm / g_norm)
        # The ratio to a denormal gradient may be more than float32 can hold.
        most = torch.finfo(computing_dtype(rows.dtype)).max
        rows.apply(relative_update, shrink=shrink, size=(ratio * lr * shrink).clamp(-most, most))
        if group["p_bound"] is not None:
            norm, bound = rows.w_norm(), group["p_bound"] * rows.state["init_norm"]
            rows.scale_weights(torch.where(norm > bound, bound / norm, 1.0))


def relative_update(
    w: Tensor,  # [n, k]: n tensors of k weights; overwritten
    g: Tensor,  # [n, k]
    *,
    shrink: float | Tensor,  # a number, 0-d or [n, 1]: 1/sqrt(1 + lr^2) for Fromage, 1 for LARS
    size: Tensor,  # [n, 1]: shrink * lr * |W|/|g|, with |W|/|g| read as 1 where either norm is zero
) -> None:
    """W <- shrink * (W - lr * |W|/|g| * g) for each row."""
    w.mul_(shrink).addcmul_(g, size, value=-1)
