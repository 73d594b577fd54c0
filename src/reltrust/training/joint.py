"""Several optimizers as one, each of parameters of its own."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch.optim import Optimizer


class JointOptimizer(Optimizer):
    """Steps its parts one after another; its parameter groups are theirs."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]  # new ones

    def train(self) -> None:
        set_mode(self.parts, "train")

    def eval(self) -> None:
        set_mode(self.parts, "eval")


def set_mode(optimizers: Iterable[Optimizer], mode: Literal["train", "eval"]) -> None:
    """Of those that have modes: schedule-free ones train at other weights than those that they are evaluated at."""
    for optimizer in optimizers:
        if callable(switch := getattr(optimizer, mode, None)):
            switch()
