"""The depth benchmark's network and loss, and what becomes of its weights: their signs, and how large they are."""

from typing import Any

import torch
from torch import Tensor

from reltrust.data.images import ImageData
from reltrust.experiment import Measured

from ..mlp_depth.task import MlpDepth
from .distribution import EDGES, histogram, mean_shape


class MadamWeights(MlpDepth):
    """As :class:`MlpDepth`; of the weight matrices, signs are compared with those at initialisation in every step.

    Which weights have ever had another sign is a buffer of the module: a run that resumes has not forgotten it.
    """

    def __init__(self, data: ImageData, **settings: Any) -> None:
        super().__init__(data, **settings)
        self.weights = [p for p in self.module.parameters() if p.dim() == 2]
        self.start = [w.detach().clone() for w in self.weights]
        for place, weight in enumerate(self.weights):
            self.module.register_buffer(f"changed_{place}", torch.zeros_like(weight, dtype=torch.bool))

    @property
    def changed(self) -> list[Tensor]:
        """Of each matrix, which weights have ever had another sign than at initialisation (0 is one too)."""
        return [self.module.get_buffer(f"changed_{place}") for place in range(len(self.weights))]

    @torch.no_grad()
    def compare_signs(self) -> None:
        for changed, weight, start in zip(self.changed, self.weights, self.start, strict=True):
            changed |= weight.sign() != start.sign()

    def loss(self, step: int, part: int = 0) -> tuple[Tensor, ...]:
        """As the depth benchmark's, after a look at the signs that the step before has left."""
        self.compare_signs()
        return super().loss(step, part)

    def evaluate(self) -> Measured:
        """Besides, over all weight matrices: ``sign_changes``, the number of weights that have ever had another sign
        than at first, of ``weights``; and the shape of ln|w| as ``log_...``, at initialisation as ``start_log_...``.

        ``log_weights.csv`` holds the histograms of the standardised ln|w|, now and at initialisation.
        """
        self.compare_signs()
        row = super().evaluate().row
        row["weights"] = float(sum(w.numel() for w in self.weights))
        row["sign_changes"] = float(sum(int(changed.sum()) for changed in self.changed))
        for prefix, tensors in (("log", self.weights), ("start_log", self.start)):
            row |= {f"{prefix}_{name}": value for name, value in mean_shape(tensors)._asdict().items()}
        columns = zip(
            EDGES[:-1].tolist(), histogram(self.weights).tolist(), histogram(self.start).tolist(), strict=True
        )
        lines = [f"{left:.1f},{now:.5g},{start:.5g}" for left, now, start in columns]
        return Measured(row, {"log_weights.csv": "\n".join(["from,trained,start", *lines, ""]).encode()})
