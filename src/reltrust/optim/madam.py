"""Madam: multiplicative updates, in which a weight changes by a factor and never changes its sign."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from reltrust.optim._base import RuleOptimizer, signed_lr
from reltrust.optim._norms import wide
from reltrust.optim._require import require
from reltrust.optim._rows import Rows
from reltrust.optim._stacked import Group


class Madam(RuleOptimizer):
    r"""Multiplicative Adam.

    At its first step each tensor :math:`W` fixes :math:`w_{max} = p_{scale} \sqrt{\overline{W_0^2}}`. At step
    :math:`t`, with gradient :math:`g`, learning rate :math:`\eta` and all operations elementwise:

    .. math::
        v &\leftarrow \beta v + (1 - \beta) g^2 \\
        \hat g &= \mathrm{clip}\left(g / \sqrt{v / (1 - \beta^t)}, \; -g_{bound}, \; g_{bound}\right), \quad 0/0 = 0 \\
        W &\leftarrow \mathrm{clip}\left(W \exp(-\eta \, \hat g \, \mathrm{sign}(W)), \; -w_{max}, \; w_{max}\right)

    Signs never change and zeros stay zero, so a tensor that starts at zero (a bias, a gain) is never trained.
    The state holds :math:`\sqrt v`, one number a weight: squares of gradients below 1e-19 have no float32.

    Source: Bernstein, Zhao, Meister, Liu, Anandkumar, Yue, *Learning compositional functions via multiplicative
    weight updates*, NeurIPS 2020, Algorithm 1 (arXiv 2006.14560).

    Args:
        params: parameters, or dicts that define parameter groups.
        lr: the step in log |W| per unit of normalised gradient, finite and >= 0; a number or a tensor. The paper's
            best on every benchmark is 0.01.
        p_scale: the largest weight in units of the root mean square of the initial tensor, > 0.
        g_bound: the largest normalised gradient, > 0; a step moves log |W| by at most ``lr * g_bound``.
        beta: decay of the second moment, in [0, 1).
        foreach, maximize, capturable, differentiable, fused: see :class:`~reltrust.optim._base.RuleOptimizer`.

    Raises:
        ValueError: an argument is outside its range.
        RuntimeError: a gradient is sparse, a parameter is complex (the sign of a complex weight is undefined here), or
            keywords exclude each other.
    """

    _moments = ("exp_avg_rms",)
    per_member = ("lr", "p_scale", "g_bound", "beta")
    _kernel = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        p_scale: float = 3.0,
        g_bound: float = 10.0,
        beta: float = 0.999,
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

    def _init_state(self, rows: Rows, group: Group) -> dict[str, Tensor | list[Tensor]]:
        return {**init_madam(rows), "exp_avg_rms": rows.zeros()}

    def _update(self, rows: Rows, group: Group) -> None:
        rows.apply(madam_update, lr=signed_lr(group), **madam_settings(rows, group))


def madam_update(
    w: Tensor,  # [n, k]: n tensors of k weights; overwritten
    g: Tensor,  # [n, k]
    exp_avg_rms: Tensor,  # [n, k]: sqrt(v); overwritten
    *,
    w_max: Tensor,  # [n, 1]
    correction: Tensor,  # [n, 1]: sqrt(1 - beta^t)
    lr: float | Tensor,  # a number, 0-d or [n, 1]
    g_bound: float | Tensor,  # as sqrt_beta and gain a number or [n, 1]
    sqrt_beta: float | Tensor,
    gain: float | Tensor,  # sqrt(1 - beta)
) -> None:
    """One step of :class:`Madam` by its equations."""
    exponent = normalised_gradient(
        g, exp_avg_rms, correction=correction, g_bound=g_bound, sqrt_beta=sqrt_beta, gain=gain
    )
    w.mul_(exponent.mul_(w.sign()).mul_(-lr).exp_()).clamp_max_(w_max).clamp_min_(-w_max)


# --- what Madam and its integer form share ---------------------------------------------------------------------------


def check_madam(group: Group) -> None:
    """The ranges of the hyperparameters that both have."""
    p_scale, g_bound, beta = group["p_scale"], group["g_bound"], group["beta"]
    require("p_scale", p_scale, math.isfinite(p_scale) and p_scale > 0, "a finite number > 0")
    require("g_bound", g_bound, g_bound > 0, "a number > 0")
    require("beta", beta, 0 <= beta < 1, "a number in [0, 1)")


def init_madam(rows: Rows) -> dict[str, Tensor]:
    """The state that is one number a tensor, before the first step."""
    init_rms = rows.w_rms()
    return {"step": torch.zeros_like(init_rms), "init_rms": init_rms}


def madam_settings(rows: Rows, group: Group) -> dict[str, Any]:
    """The settings that both rules take; counts the step."""
    step = wide(rows.state["step"].add_(1))
    return {
        "w_max": group["p_scale"] * rows.state["init_rms"],
        "correction": (1 - group["beta"] ** step).sqrt(),
        "g_bound": group["g_bound"],
        "sqrt_beta": group["beta"] ** 0.5,
        "gain": (1 - group["beta"]) ** 0.5,
    }


def normalised_gradient(
    g: Tensor,
    exp_avg_rms: Tensor,
    *,
    correction: Tensor,
    g_bound: float | Tensor,
    sqrt_beta: float | Tensor,
    gain: float | Tensor,
) -> Tensor:
    """clip(g / sqrt(v / (1 - beta^t)), -g_bound, g_bound) with 0/0 = 0; overwrites ``exp_avg_rms``, sqrt(v)."""
    if torch.compiler.is_compiling():  # in one kernel this costs no memory, and less time than hypot
        exp_avg_rms.copy_(((sqrt_beta * wide(exp_avg_rms)).square() + (gain * wide(g)).square()).sqrt())
    else:
        exp_avg_rms.mul_(sqrt_beta).hypot_(g * gain)
    # sqrt(v) = 0 only where every gradient so far was zero. A NaN goes through, so that a broken run shows.
    normalised = g / exp_avg_rms.clamp_min(torch.finfo(g.dtype).tiny)
    bound: Any = g_bound  # torch declares clamp for two numbers or two tensors
    return normalised.mul_(correction).clamp_(-bound, bound)
