"""signSGD: every weight moves by the same amount."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from reltrust.optim._checks import Closure, call, params_with_grads, require_lr


class SignSGD(Optimizer):
    r"""Sign gradient descent: :math:`W \leftarrow W - \eta \, \mathrm{sign}(g)`, with :math:`\mathrm{sign}(0) = 0`.

    Source: Bernstein, Wang, Azizzadenesheli, Anandkumar, *signSGD*, ICML 2018, Algorithm 1 (arXiv 1802.04434).

    Args:
        params: parameters, or dicts that define parameter groups.
        lr: the size of a step, finite and >= 0.

    Raises:
        ValueError: ``lr`` is outside its range.
        RuntimeError: a gradient is sparse or complex.
    """

    def __init__(self, params: ParamsT, lr: float | Tensor) -> None:
        require_lr(lr)
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One update of every parameter that has a gradient; returns the closure's loss, if there is one."""
        loss = call(closure)
        for group in self.param_groups:
            for p, g in zip(*params_with_grads(group, "SignSGD"), strict=True):
                if p.is_complex():
                    raise RuntimeError("SignSGD does not support complex parameters: a complex gradient has no sign")
                p.sub_(g.sign().mul_(group["lr"]))
        return loss
