"""Fromage, and LARS, its ablation: steps whose size is a fixed share of the norm of each tensor."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from reltrust.optim._checks import Closure, call, params_with_grads, require, require_lr

# Below this mean size, launching one operation for all tensors beats streaming each tensor through the cache;
# above it, on a CPU, the tensor-by-tensor order keeps a tensor in the cache between its operations.
_FOREACH_BELOW_NUMEL = 32_768


class Fromage(Optimizer):
    r"""Frobenius matched gradient descent.

    For each parameter tensor :math:`W` (biases included) with gradient :math:`g` and learning rate :math:`\eta`:

    .. math:: W \leftarrow \frac{1}{\sqrt{1 + \eta^2}} \left(W - \eta \, \frac{\|W\|_F}{\|g\|_F} \, g\right)

    and, where :math:`\|W\|_F = 0` or :math:`\|g\|_F = 0`, :math:`W \leftarrow (W - \eta g) / \sqrt{1 + \eta^2}`.
    There is no momentum and no state, except with ``p_bound``.

    Source: Bernstein, Vahdat, Yue, Liu, *On the distance between two neural networks and the stability of
    learning*, NeurIPS 2020, Algorithm 1 (arXiv 2002.03432).

    Args:
        params: parameters, or dicts that define parameter groups.
        lr: relative size of a step, finite and >= 0. The paper's best on every benchmark is 0.01.
        p_bound: if given (>= 0), the norm of each tensor never exceeds ``p_bound`` times its norm at its first step.

    Raises:
        ValueError: an argument is outside its range.
        RuntimeError: a gradient is sparse.
    """

    _shrinks = True  # LARS leaves the factor 1/sqrt(1 + lr^2) out

    def __init__(self, params: ParamsT, lr: float | Tensor = 0.01, p_bound: float | None = None) -> None:
        require_lr(lr)
        require(
            "p_bound", p_bound, p_bound is None or (math.isfinite(p_bound) and p_bound >= 0), "None or a number >= 0"
        )
        super().__init__(params, {"lr": lr, "p_bound": p_bound})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One update of every parameter that has a gradient; returns the closure's loss, if there is one."""
        loss = call(closure)
        for group in self.param_groups:
            params, grads = params_with_grads(group, type(self).__name__)
            lr, p_bound = group["lr"], group["p_bound"]
            max_norms = None if p_bound is None else [self._max_norm(p, p_bound) for p in params]
            shrink = (1 + lr**2) ** -0.5 if self._shrinks else 1.0
            relative_update(params, grads, lr=lr, shrink=shrink, max_norms=max_norms)
        return loss

    def _max_norm(self, param: Tensor, p_bound: float) -> Tensor:
        state = self.state[param]
        if "max_norm" not in state:
            state["max_norm"] = p_bound * torch.linalg.vector_norm(param)
        max_norm: Tensor = state["max_norm"]
        return max_norm


class LARS(Fromage):
    r"""Fromage without the factor :math:`1/\sqrt{1+\eta^2}`: the papers' ablation.

    .. math:: W \leftarrow W - \eta \, \frac{\|W\|_F}{\|g\|_F} \, g

    Source: the comparison of norms over training, figure 2 (right) of arXiv 2002.03432. The LARS of You et al.
    (arXiv 1708.03888) also has momentum, weight decay and a trust coefficient, which this ablation leaves out.
    Arguments and errors are those of :class:`Fromage`.
    """

    _shrinks = False


def relative_update(
    params: list[Tensor],  # any shapes; updated in place
    grads: list[Tensor],  # the same shapes; never written to
    *,
    lr: float | Tensor,
    shrink: float | Tensor,  # 1/sqrt(1 + lr^2) for Fromage, 1 for LARS
    max_norms: list[Tensor] | None = None,  # a bound on the norm of each updated tensor
) -> None:
    """W <- shrink * (W - lr * g * |W|/|g|) for each tensor, with |W|/|g| read as 1 where either norm is zero."""
    if not params:
        return
    if sum(p.numel() for p in params) < _FOREACH_BELOW_NUMEL * len(params):
        batches = _by_device_and_dtype(params, grads)
    else:
        batches = [([p], [g]) for p, g in zip(params, grads, strict=True)]
    for ps, gs in batches:
        p_norms = torch.stack(torch._foreach_norm(ps))
        g_norms = torch.stack(torch._foreach_norm(gs))
        ratios = torch.where((p_norms > 0) & (g_norms > 0), p_norms / g_norms, 1.0)
        torch._foreach_mul_(ps, shrink)
        torch._foreach_addcmul_(ps, gs, list((ratios * (-lr * shrink)).unbind()))
    for p, max_norm in zip(params, max_norms or (), strict=False):
        norm = torch.linalg.vector_norm(p)
        p.mul_(torch.where(norm > max_norm, max_norm / norm, 1.0))


def _by_device_and_dtype(params: list[Tensor], grads: list[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """The (parameters, gradients) of each device and dtype: a foreach operation wants its tensors alike."""
    batches: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for p, g in zip(params, grads, strict=True):
        ps, gs = batches.setdefault((p.device, p.dtype, g.dtype), ([], []))
        ps.append(p)
        gs.append(g)
    return list(batches.values())
