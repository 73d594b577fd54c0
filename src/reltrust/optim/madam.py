"""Madam: multiplicative updates, in which a weight changes by a factor and never changes its sign."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from reltrust.optim._checks import Closure, call, params_with_grads, require, require_lr


class Madam(Optimizer):
    r"""Multiplicative Adam.

    At its first step each tensor :math:`W` fixes :math:`w_{max} = p_{scale} \sqrt{\overline{W_0^2}}`. At step
    :math:`t`, with gradient :math:`g`, learning rate :math:`\eta` and all operations elementwise:

    .. math::
        v &\leftarrow \beta v + (1 - \beta) g^2 \\
        \hat g &= \mathrm{clip}\left(g / \sqrt{v / (1 - \beta^t)}, \; -g_{bound}, \; g_{bound}\right), \quad 0/0 = 0 \\
        W &\leftarrow \mathrm{clip}\left(W \exp(-\eta \, \hat g \, \mathrm{sign}(W)), \; -w_{max}, \; w_{max}\right)

    Signs never change and zeros stay zero, so a tensor that starts at zero (a bias, a gain) is never trained.

    Source: Bernstein, Zhao, Meister, Liu, Anandkumar, Yue, *Learning compositional functions via multiplicative
    weight updates*, NeurIPS 2020, Algorithm 1 (arXiv 2006.14560).

    Args:
        params: parameters, or dicts that define parameter groups.
        lr: the step in log |W| per unit of normalised gradient, finite and >= 0. The paper's best is 0.01.
        p_scale: the largest weight in units of the root mean square of the initial tensor, > 0.
        g_bound: the largest normalised gradient, > 0; a step moves log |W| by at most ``lr * g_bound``.
        beta: decay of the second moment, in [0, 1).

    Raises:
        ValueError: an argument is outside its range.
        RuntimeError: a gradient is sparse, or a parameter is complex (the sign of a complex weight is undefined here).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        p_scale: float = 3.0,
        g_bound: float = 10.0,
        beta: float = 0.999,
    ) -> None:
        require_lr(lr)
        require("p_scale", p_scale, math.isfinite(p_scale) and p_scale > 0, "a finite number > 0")
        require("g_bound", g_bound, g_bound > 0, "a number > 0")
        require("beta", beta, 0 <= beta < 1, "a number in [0, 1)")
        super().__init__(params, {"lr": lr, "p_scale": p_scale, "g_bound": g_bound, "beta": beta})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One update of every parameter that has a gradient; returns the closure's loss, if there is one."""
        loss = call(closure)
        for group in self.param_groups:
            for p, g in zip(*params_with_grads(group, "Madam"), strict=True):
                if p.is_complex():
                    raise RuntimeError("Madam does not support complex parameters: a complex weight has no sign")
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    state["max_weight"] = group["p_scale"] * p.square().mean().sqrt()
                    state["exp_avg_sq"] = torch.zeros_like(p)
                state["step"] += 1
                madam_update(
                    p,
                    g,
                    state["exp_avg_sq"],
                    state["max_weight"],
                    lr=group["lr"],
                    g_bound=group["g_bound"],
                    beta=group["beta"],
                    step=state["step"],
                )
        return loss


def madam_update(
    param: Tensor,  # any shape; updated in place
    grad: Tensor,  # the same shape; never written to
    exp_avg_sq: Tensor,  # the same shape: v; updated in place
    max_weight: Tensor,  # 0-d: w_max
    *,
    lr: float | Tensor,
    g_bound: float,
    beta: float,
    step: int,  # counts from 1
) -> None:
    """One Madam step of one tensor, by the equations of :class:`Madam`."""
    exp_avg_sq.mul_(beta).addcmul_(grad, grad, value=1 - beta)
    normalised = grad * (exp_avg_sq / (1 - beta**step)).rsqrt_()
    # 0/0 is read as 0. A NaN in the gradient itself goes through, so that a broken run shows.
    normalised.masked_fill_(grad == 0, 0.0).clamp_(-g_bound, g_bound)
    normalised.mul_(param.sign()).mul_(-lr)
    torch.clamp(param * normalised.exp_(), -max_weight, max_weight, out=param)
