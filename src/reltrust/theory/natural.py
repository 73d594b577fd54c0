"""Optimizers whose flow does not depend on coordinates: any update rule made natural, natural momentum, and Newton's.

    optimizer = Natural(params, model, lambda outputs: torch.optim.Adam([outputs], lr=0.01))
    optimizer.step()

They know the model, and compute its exact Jacobian: for small models.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from reltrust.theory.naturality import Model

_RCOND = 1e-8  # of pseudo-inverses: smaller singular values, relative to the largest, are 0


class Natural(Optimizer):
    """Any update rule, made natural: it moves the outputs, and the parameters follow as well as they can.

    With f the outputs, J = df/dw, and delta the step that the rule makes of f for the gradient dL/df:
    ``w <- w + J^+ delta``. ``J dw`` is the orthogonal projection of delta onto what parameters can reach, in
    whichever coordinates; the rule's state is one of function space. As J^+ is the least change, w need not be
    determined by f.

    With gradient descent as the rule it is ``w <- w - lr (J^T J)^+ J^T dL/df``: natural gradient descent for the
    metric ``J^T J``, which is the Fisher information of f as the mean of normal outputs of variance 1. If f is
    ``2 sqrt`` of probabilities, it is that of these. *Ours*: how arXiv 2312.04739 makes rules natural could not be
    read.

    The step of an affine reparametrisation is the same to rounding; of a smooth one up to the square of its size.

    Args:
        params: of ``model.outputs``, in its order.
        rule: the optimizer of the outputs, a tensor that requires gradients; its learning rate and state are its own.

    Raises:
        ValueError: no parameters.
    """

    def __init__(self, params: list[Tensor], model: Model, rule: Callable[[Tensor], Optimizer]) -> None:
        super().__init__(params, {})
        self.model, self.params = model, params
        self.values = model.outputs(params).detach().clone().requires_grad_()
        self.rule = rule(self.values)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Makes one step, from the gradients of the outputs: those of the parameters are not read."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        outputs, jacobian = outputs_and_jacobian(self.model, self.params)
        self.values.copy_(outputs)
        self.values.grad = gradient_of(self.model, outputs)
        self.rule.step()
        _move(self.params, _least(jacobian, self.values - outputs))
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rule": self.rule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own = dict(state_dict)
        self.rule.load_state_dict(own.pop("rule"))
        super().load_state_dict(own)


class NaturalMomentum(Optimizer):
    """Natural gradient descent with a velocity, ``w'' = -friction w' - F^+ dL/dw`` with F = J^T J.

    ``v <- v - lr (friction v + J^+ (dL/df + a))``, then ``w <- w + lr v``. With ``transport="coordinates"`` a = 0: the
    velocity is a list of numbers, which has a meaning in one system of coordinates and in those that are affine in it.
    With ``"geodesic"`` ``a = D^2 f(v, v)``, so that ``J^+ a`` is the Levi-Civita connection of F: without a force the
    way is a geodesic, in all coordinates the same.

    Args:
        lr: length of a step in time, above 0.
        friction: at least 0.

    Raises:
        ValueError: a number outside its range, or another transport.
    """

    def __init__(
        self,
        params: list[Tensor],
        model: Model,
        lr: float,
        friction: float = 1.0,
        transport: Literal["coordinates", "geodesic"] = "geodesic",
    ) -> None:
        if not lr > 0:
            raise ValueError(f"lr={lr}: must be above 0")
        if not friction >= 0:
            raise ValueError(f"friction={friction}: must be at least 0")
        if transport not in ("coordinates", "geodesic"):
            raise ValueError(f"transport={transport}: must be coordinates or geodesic")
        super().__init__(params, {"lr": lr, "friction": friction})
        self.model, self.params, self.transport = model, params, transport

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Makes one step, from the gradients of the outputs."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        outputs, jacobian = outputs_and_jacobian(self.model, self.params)
        (group,) = self.param_groups
        velocity = [self.state[p].setdefault("velocity", torch.zeros_like(p)) for p in self.params]
        force = gradient_of(self.model, outputs)
        if self.transport == "geodesic":
            force = force + second_derivative(self.model, self.params, velocity)
        change = _least(jacobian, force)
        for v, part in zip(velocity, _split(self.params, change), strict=True):
            v.add_(group["friction"] * v + part, alpha=-group["lr"])
        _move(self.params, group["lr"] * torch.cat([v.flatten() for v in velocity]))
        return loss


class Newton(Optimizer):
    """``w <- w - lr H^+ dL/dw``, H the exact Hessian of the loss.

    Args:
        lr: above 0.

    Raises:
        ValueError: an lr that is not.
    """

    def __init__(self, params: list[Tensor], model: Model, lr: float) -> None:
        if not lr > 0:
            raise ValueError(f"lr={lr}: must be above 0")
        super().__init__(params, {"lr": lr})
        self.model, self.params = model, params

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Makes one step; gradients that are there are not read."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        flat = torch.cat([p.flatten() for p in self.params])

        def of(point: Tensor) -> Tensor:
            return self.model.of(_split(self.params, point))

        gradient, hessian = torch.func.grad(of)(flat), torch.func.hessian(of)(flat)
        (group,) = self.param_groups
        _move(self.params, -group["lr"] * (torch.linalg.pinv(hessian, rtol=_RCOND, hermitian=True) @ gradient))
        return loss


# --- function space --------------------------------------------------------------------------------------------------


def outputs_and_jacobian(model: Model, params: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The outputs, and their derivatives with respect to all parameters: (outputs, parameters), both flat."""

    def of(*point: Tensor) -> tuple[Tensor, Tensor]:
        outputs = model.outputs(point)
        return outputs, outputs

    parts, outputs = torch.func.jacfwd(of, argnums=tuple(range(len(params))), has_aux=True)(*params)
    return outputs.detach(), torch.cat([part.reshape(outputs.numel(), -1) for part in parts], dim=1).detach()


def gradient_of(model: Model, outputs: Tensor) -> Tensor:
    """dL/df."""
    gradient: Tensor = torch.func.grad(model.loss)(outputs)
    return gradient.detach()


def second_derivative(model: Model, params: list[Tensor], velocity: list[Tensor]) -> Tensor:
    """``D^2 f(v, v)``, of the outputs' shape."""

    def along(*point: Tensor) -> Tensor:
        derivative: Tensor = torch.func.jvp(lambda *inner: model.outputs(inner), point, tuple(velocity))[1]
        return derivative

    second: Tensor = torch.func.jvp(along, tuple(params), tuple(velocity))[1]
    return second.detach()


def _least(jacobian: Tensor, change: Tensor) -> Tensor:
    """``J^+ change``, flat; NaN of what is not finite, which the library refuses."""
    if not bool(jacobian.isfinite().all() & change.isfinite().all()):
        return jacobian.new_full((jacobian.shape[1],), torch.nan)
    least: Tensor = torch.linalg.lstsq(jacobian, change.flatten().unsqueeze(1), rcond=_RCOND, driver="gelsd").solution
    return least.squeeze(1)


def _split(params: list[Tensor], flat: Tensor) -> list[Tensor]:
    parts = flat.split([p.numel() for p in params])
    return [part.view_as(p) for part, p in zip(parts, params, strict=True)]


def _move(params: list[Tensor], flat: Tensor) -> None:
    for p, part in zip(params, _split(params, flat), strict=True):
        p.add_(part)
