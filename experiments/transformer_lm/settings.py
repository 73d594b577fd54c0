"""The keys of ``task:`` of the language model."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.data.sizes import TOKENS
from reltrust.errors import SettingsError
from reltrust.schema import STRICT
from reltrust.settings import Settings

if TYPE_CHECKING:
    import torch

    from reltrust.models.transformer import TransformerLM

    from .task import LanguageModel

_Size = Annotated[int, Field(ge=1, le=10_000)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """A transformer that predicts the next word: the WikiText-2 benchmark of arXiv 2002.03432 and 2006.14560."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ()
    pack_keys: ClassVar[tuple[str, ...] | None] = None  # dropout draws from the global generator

    width: Annotated[int, Field(ge=2, le=10_000, multiple_of=2)]  # of embedding and layers
    layers: _Size
    heads: _Size
    hidden: _Size
    dropout: Annotated[float, Field(ge=0, lt=1)]
    bptt: _Size  # words of a sequence

    @property
    def slug(self) -> str:
        return f"width{self.width}-layers{self.layers}"

    def check(self, settings: Settings) -> None:
        name = settings.data_among(TOKENS, "a text")
        if self.width % self.heads:
            raise SettingsError(f"task.heads={self.heads}: must divide task.width={self.width}")
        _, _, training = settings.trained
        tokens = TOKENS[name]
        if training.batch_size * 2 > tokens[0]:
            raise SettingsError(
                f"training.batch_size={training.batch_size}: must be at most half of the {tokens[0]} training tokens "
                f"of data={name}"
            )
        longest = min(tokens[0] // training.batch_size, *(count // EVALUATION_BATCH for count in tokens[1:])) - 1
        if self.bptt > longest:
            raise SettingsError(
                f"task.bptt={self.bptt}: must be at most {longest}, the length of data={name} in "
                f"{training.batch_size} columns to train on and {EVALUATION_BATCH} to validate and test on"
            )

    def model(self, vocabulary: int) -> "TransformerLM":
        """The untrained model, drawn from torch's global generator."""
        from reltrust.models.transformer import TransformerLM

        return TransformerLM(
            vocabulary,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            hidden=self.hidden,
            dropout=self.dropout,
            context=self.bptt,
        )

    def build(self, settings: Settings, device: "torch.device") -> "LanguageModel":
        from reltrust.data import text

        from .task import LanguageModel

        assert settings.data is not None
        _, _, training = settings.trained
        return LanguageModel(
            text.load(settings.data.name, settings.machine.data, device),
            self.model,
            batch_size=training.batch_size,
            seed=settings.seed,
            parts=settings.trainer.accumulate,
        )


EVALUATION_BATCH = 10  # columns, as published
