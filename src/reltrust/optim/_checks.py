"""Checks that every optimizer of this folder makes of its arguments."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Closure = Callable[[], Any]


def require(argument: str, value: Any, holds: bool, allowed: str) -> None:
    """Raises a ValueError that names the argument, its value and the allowed range, unless ``holds``."""
    if not holds:
        raise ValueError(f"{argument}={value!r} is not allowed: {allowed}")


def require_lr(lr: float | Tensor) -> None:
    """The learning rate may be a tensor; its value is then read at each step and not here."""
    if not isinstance(lr, Tensor):
        require("lr", lr, math.isfinite(lr) and lr >= 0, "a finite number >= 0")


def call(closure: Closure | None) -> Any:
    """The loss that the closure returns, computed with gradients enabled; None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def params_with_grads(group: dict[str, Any], optimizer: str) -> tuple[list[Tensor], list[Tensor]]:
    """The group's parameters that have a gradient, and those gradients. Raises RuntimeError on sparse gradients."""
    params = [p for p in group["params"] if p.grad is not None]
    grads: list[Tensor] = [p.grad for p in params]
    if any(g.is_sparse for g in grads):
        raise RuntimeError(f"{optimizer} does not support sparse gradients")
    return params, grads
