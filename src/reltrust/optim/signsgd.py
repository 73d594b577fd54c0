"""signSGD: every weight moves by the same amount."""

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from reltrust.optim._base import RuleOptimizer, signed_lr
from reltrust.optim._rows import Rows
from reltrust.optim._stacked import Group


class SignSGD(RuleOptimizer):
    r"""Sign gradient descent: :math:`W \leftarrow W - \eta \, \mathrm{sign}(g)`, with :math:`\mathrm{sign}(0) = 0`.

    Source: Bernstein, Wang, Azizzadenesheli, Anandkumar, *signSGD*, ICML 2018, Algorithm 1 (arXiv 1802.04434).

    Args:
        params: parameters, or dicts that define parameter groups.
        lr: the size of a step, finite and >= 0; a number or a tensor. The default is that of Adam, whose first step is
            this one: both move every weight by lr.
        foreach, maximize, capturable, differentiable, fused: see :class:`~reltrust.optim._base.RuleOptimizer`.

    Raises:
        ValueError: ``lr`` is outside its range.
        RuntimeError: a gradient is sparse, a parameter is complex, or keywords exclude each other.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, locals())

    def _update(self, rows: Rows, group: Group) -> None:
        rows.apply(signsgd_update, lr=signed_lr(group))


def signsgd_update(w: Tensor, g: Tensor, *, lr: float | Tensor) -> None:
    """W <- W - lr * sign(g), elementwise; overwrites ``w``."""
    # torch's sign of NaN is 0 on some devices; this one is NaN, so that a broken run shows, and right for denormals.
    huge = 1 / torch.finfo(g.dtype).tiny
    w.sub_((g * huge).mul_(huge).clamp_(-1, 1).mul_(lr))
