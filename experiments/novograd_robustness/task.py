"""A perceptron that learns digits and a transformer that learns a text, from initial weights of another scale."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from reltrust.data.images import ImageData
from reltrust.data.text import TextData
from reltrust.experiment import Measured
from reltrust.models.transformer import TransformerLM

from ..mlp_depth.task import MlpDepth
from ..transformer_lm.task import LanguageModel
from .settings import Subject


@torch.no_grad()
def scale_matrices_(module: nn.Module, factor: float) -> None:
    """Multiplies every weight matrix by the factor; biases and gains stay."""
    for p in module.parameters():
        if p.dim() > 1:
            p.mul_(factor)


class ScaledPerceptron(MlpDepth):
    """As :class:`MlpDepth`, with scaled initial weight matrices; what is held out serves to validate."""

    def __init__(self, data: ImageData, *, init_scale: float, **settings: Any) -> None:
        super().__init__(data, **settings)
        scale_matrices_(self.module, init_scale)

    def evaluate(self) -> Measured:
        """``valid_loss`` (mean cross entropy, nats) and ``valid_accuracy`` (share in 0..1) on the held-out images."""
        row = super().evaluate().row
        return Measured({"valid_loss": row["test_loss"], "valid_accuracy": row["test_accuracy"]})


class ScaledLanguageModel(LanguageModel):
    """As :class:`LanguageModel`, without dropout, with scaled initial weight matrices, for one epoch at most."""

    def __init__(self, data: TextData, subject: Subject, *, batch_size: int, seed: int, parts: int = 1) -> None:
        assert subject.heads is not None
        assert subject.bptt is not None
        heads, bptt = subject.heads, subject.bptt

        def model(vocabulary: int) -> TransformerLM:
            return TransformerLM(
                vocabulary,
                width=subject.width,
                layers=subject.layers,
                heads=heads,
                hidden=subject.width,
                dropout=0.0,
                context=bptt,
            )

        super().__init__(data, model, batch_size=batch_size, seed=seed, parts=parts)
        self.words = subject.words
        scale_matrices_(self.model, subject.init_scale)

    @torch.no_grad()
    def evaluate(self) -> Measured:
        """``valid_loss``: nats a word of the validation text."""
        return Measured({"valid_loss": self.mean_loss(self.data.valid[: self.words])})

    @classmethod
    def packed(cls, members: Sequence["ScaledLanguageModel"]) -> "PackedLanguageModels":
        return PackedLanguageModels(members)


class PackedLanguageModels:
    """K of them on the same text: a :class:`~reltrust.experiment.PackedTask`.

    Their losses are computed one after another, as the read-out of a text's vocabulary keeps a machine busy; what they
    share are the optimizers' steps.
    """

    def __init__(self, members: Sequence[ScaledLanguageModel]) -> None:
        self._first = members[0]
        self._names = [name for name, _ in self._first.model.named_parameters()]

    def inputs(self, step: int) -> tuple[Tensor, ...]:
        """Rows of the text and the one after them, (bptt + 1, columns)."""
        first = self._first
        start = step % first.steps_per_epoch * first.bptt
        return (first.train[start : start + first.bptt + 1],)

    def losses(self, stacks: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        """Cross entropy in nats of each, (K,)."""
        (rows,) = inputs
        found = []
        for own in zip(*(stack.unbind() for stack in stacks), strict=True):
            weights = dict(zip(self._names, own, strict=True))
            found.append(functional_call(self._first.model, weights, (rows[:-1], rows[1:])))
        return (torch.stack(found),)
