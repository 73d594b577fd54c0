"""A learned optimizer that has been trained, as an optimizer of torch."""

import json
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from .rule import DECAYS, FEATURES, Layout, momenta_after, shapes, step_of, tensors

SELF_TRAINED = "self_trained"
_NAMES = ("input.weight", "input.bias", "hidden.weight", "hidden.bias", "output.weight", "output.bias")


def to_bytes(weights: Tensor, hidden: int) -> bytes:
    """The weights (P,) as a file of safetensors: three layers' matrices (inputs, outputs) and biases (1, outputs)."""
    parts = tensors(weights, hidden)
    return save({name: part.contiguous() for name, part in zip(_NAMES, parts, strict=True)})


def read(weights: str) -> tuple[Tensor, int]:
    """Weights (P,) and hidden units of a file, or of the one that stands beside this module if there is none of that
    name.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    path = next((p for p in (Path(weights), Path(__file__).parent / f"{weights}.safetensors") if p.is_file()), None)
    if path is None:
        raise ValueError(f"weights={weights!r}: must be a file that a run has kept, or {SELF_TRAINED}")
    try:
        found = load_file(path)
    except Exception as error:  # whatever is wrong with somebody's file
        raise ValueError(f"weights={weights!r}: no file of safetensors: {error}") from None
    hidden = found[_NAMES[0]].shape[-1] if _NAMES[0] in found else 0
    expected = dict(zip(_NAMES, shapes(hidden), strict=True))
    if {name: tuple(one.shape) for name, one in found.items()} != expected:
        here = json.dumps({name: list(one.shape) for name, one in sorted(found.items())})
        raise ValueError(
            f"weights={weights!r}: of another architecture, {here}; must be layers {FEATURES} x h, h x h and h x 2 "
            f"named {', '.join(_NAMES)}"
        )
    return torch.cat([found[name].flatten() for name in _NAMES]), hidden


class LearnedOptimizer(Optimizer):
    r"""A small network says how each parameter moves; its weights have been learned.

    For each tensor, with its gradient :math:`g` and momenta :math:`m_b \leftarrow b\, m_b + (1 - b)\, g` at six decays
    :math:`b`, the network gives of every number a direction :math:`d` and a magnitude :math:`m`, and

    .. math:: w \leftarrow w - \eta \cdot 0.001\, d \exp(0.001\, m)

    Its inputs are g, w and the momenta, each divided by its root mean square over the tensor plus 1e-5, and tanh(t/T -
    1) for eleven time scales T.

    Source: Metz et al., *Training Learned Optimizers with Randomly Initialized Learned Optimizers*, arXiv 2101.07367.

    Args:
        params: parameters, or dicts that define parameter groups.
        lr: finite and >= 0: times the step. 1 is what the optimizer was trained with.
        weights: a file ``optimizer.safetensors`` that a run has kept, or ``self_trained``, that of the longest
            self-training on record, on trainings of 100 steps: far longer ones it does not know.
        maximize: ascend instead of descend.

    Raises:
        ValueError: an argument is outside its range, or the weights are of another architecture.
        RuntimeError: a gradient is sparse, or a parameter complex.
    """

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1.0, weights: str = SELF_TRAINED, *, maximize: bool = False
    ) -> None:
        self._weights, self._hidden = read(weights)
        super().__init__(params, {"lr": lr, "weights": weights, "maximize": maximize})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; raises ValueError on a learning rate outside its range, and adds nothing then."""
        lr = param_group.get("lr", self.defaults["lr"])
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"lr={lr!r} is not allowed: a finite number >= 0")
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy, and one from a pickle, read the weights again, which torch does not pass on."""
        super().__setstate__(state)
        self._weights, self._hidden = read(self.defaults["weights"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but momenta of float16 weights stay float32."""
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(saved, params, strict=True):
            if i in state_dict["state"]:
                self.state[p]["momenta"] = state_dict["state"][i]["momenta"].to(p.device, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns the closure's loss, None without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for _, p in moved:
            if p.grad.layout != torch.strided:
                raise RuntimeError("LearnedOptimizer does not support sparse gradients")
            if p.is_complex():
                raise RuntimeError(
                    "LearnedOptimizer does not support complex parameters: its network is of real numbers"
                )
        for group, p in moved:
            if p.numel():
                self._move(p, group)
        return loss

    def _move(self, p: Tensor, group: dict[str, Any]) -> None:
        dtype = torch.float64 if p.dtype == torch.float64 else torch.float32
        gradient = p.grad.flatten().to(dtype)  # type: ignore[union-attr]
        gradient = -gradient if group["maximize"] else gradient
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float64)
            state["momenta"] = gradient.new_zeros(len(DECAYS), *p.shape)
        momenta = momenta_after(state["momenta"].reshape(len(DECAYS), -1), gradient)
        weights, layout = self._weights.to(p.device, dtype), _of_one_tensor(p.numel(), dtype, p.device)
        time = state["step"].to(p.device, dtype)
        values = p.flatten().to(dtype)
        step = step_of(weights, self._hidden, values, gradient, momenta, time, layout)
        if group["lr"] != 0:  # else no weight is rounded
            p.copy_((values - group["lr"] * step).view(p.shape))
        state["momenta"] = momenta.reshape(len(DECAYS), *p.shape)
        state["step"] = state["step"] + 1  # what was loaded stays as it is


@lru_cache(maxsize=64)
def _of_one_tensor(count: int, dtype: torch.dtype, device: torch.device) -> Layout:
    """The same at every step."""
    return Layout.of([count], dtype).to(device)
