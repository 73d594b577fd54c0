"""NovoGrad: Adam with one second moment for each tensor."""

import math

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from reltrust.optim._base import RuleOptimizer
from reltrust.optim._norms import computing_dtype, root_sum_square
from reltrust.optim._require import require
from reltrust.optim._rows import Rows
from reltrust.optim._stacked import Group


class NovoGrad(RuleOptimizer):
    r"""Normalised gradients with a first moment, and layerwise second moments.

    For each tensor :math:`W` with gradient :math:`g_t`, where :math:`|\cdot|` is the Frobenius norm:

    .. math::
        v_1 &= |g_1|^2, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) |g_t|^2 \\
        m_t &= \beta_1 m_{t-1} + \left(\frac{g_t}{\sqrt{v_t} + \epsilon} + d \, W\right), \quad m_0 = 0 \\
        W &\leftarrow W - \eta \, m_t

    With ``grad_averaging`` the bracket is multiplied by :math:`1 - \beta_1`. There is no bias correction, and
    :math:`\epsilon` stands outside the root.

    Source: Ginsburg et al., *Stochastic gradient methods with layer-wise adaptive moments for training of deep
    networks*, Algorithm 1 (arXiv 1905.11286).

    Args:
        params: parameters, or dicts that define parameter groups.
        lr: finite and >= 0; a number or a tensor. The default is the one that the public implementation of
            convergence-lab/novograd trains with at these betas.
        betas: decays of the two moments, each in [0, 1).
        eps: >= 0 and finite.
        weight_decay: d, >= 0 and finite; part of the first moment, as in the paper.
        grad_averaging: whether the first moment averages rather than sums.
        foreach, maximize, capturable, differentiable, fused: see :class:`~reltrust.optim._base.RuleOptimizer`.

    Raises:
        ValueError: an argument is outside its range.
        RuntimeError: a gradient is sparse, a parameter is complex, or keywords exclude each other.
    """

    _moments = ("exp_avg",)
    per_member = ("lr", "betas", "eps", "weight_decay")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        grad_averaging: bool = False,
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
        betas, eps, decay = group["betas"], group["eps"], group["weight_decay"]
        require("betas", betas, len(betas) == 2 and all(0 <= b < 1 for b in betas), "two numbers in [0, 1)")
        require("eps", eps, math.isfinite(eps) and eps >= 0, "a finite number >= 0")
        require("weight_decay", decay, math.isfinite(decay) and decay >= 0, "a finite number >= 0")

    def _init_state(self, rows: Rows, group: Group) -> dict[str, Tensor | list[Tensor]]:
        # From sqrt(v_0) = |g_1| the recursion gives v_1 = |g_1|^2.
        return {"grad_norm": rows.g_norm(), "exp_avg": rows.zeros()}

    def _update(self, rows: Rows, group: Group) -> None:
        beta1, beta2 = group["betas"]
        norm = root_sum_square(rows.state["grad_norm"] * beta2**0.5, rows.g_norm() * (1 - beta2) ** 0.5)
        rows.state["grad_norm"] = norm
        divisor = norm + group["eps"]
        divisor = torch.where(divisor == 0, 1.0, divisor)  # without eps, a gradient that was always zero stays zero
        scale = (1 - beta1) if group["grad_averaging"] else 1.0
        most = torch.finfo(computing_dtype(rows.dtype)).max
        g_scale = (scale / divisor).clamp(max=most)  # a denormal norm has no inverse
        rows.apply(
            novograd_update,
            g_scale=-g_scale if group["maximize"] else g_scale,
            decay=scale * group["weight_decay"],
            beta1=beta1,
            lr=group["lr"],
        )


def novograd_update(
    w: Tensor,  # [n, k]: n tensors of k weights; overwritten
    g: Tensor,  # [n, k]
    exp_avg: Tensor,  # [n, k]: m; overwritten
    *,
    g_scale: Tensor,  # [n, 1]: 1 / (sqrt(v) + eps); like decay, times 1 - beta1 if gradients are averaged
    decay: float | Tensor,  # d, a number or [n, 1]
    beta1: float | Tensor,  # a number or [n, 1]
    lr: float | Tensor,  # a number, 0-d or [n, 1]
) -> None:
    """m <- beta1 m + g_scale g + decay W; W <- W - lr m, for each row."""
    exp_avg.mul_(beta1).addcmul_(g, g_scale)
    if isinstance(decay, Tensor):
        exp_avg.addcmul_(w, decay)
    elif decay:
        exp_avg.add_(w, alpha=decay)
    w.sub_(exp_avg * lr)
