"""The keys of ``task:`` of the large language model."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.data.sizes import TOKENS
from reltrust.errors import SettingsError
from reltrust.schema import STRICT, Positive
from reltrust.settings import Settings

if TYPE_CHECKING:
    import torch

    from .task import LargeLanguageModel

_Size = Annotated[int, Field(ge=1, le=100_000)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """A decoder of more than 1e8 parameters predicts the next subword: the claim of arXiv 2002.03432, version 1."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ()
    pack_keys: ClassVar[tuple[str, ...] | None] = None  # one fills a machine

    width: _Size
    layers: _Size
    heads: _Size
    positions: _Size  # the longest sequence that the model takes
    length: _Size  # tokens of a sequence in training and evaluation
    vocabulary: Annotated[int, Field(ge=300, le=1_000_000)]  # 257 tokens are there before the first merge
    evaluated: Positive | None  # sequences of each held-out text that are evaluated on; null: all

    @property
    def slug(self) -> str:
        return f"width{self.width}-layers{self.layers}"

    def check(self, settings: Settings) -> None:
        name = settings.data_among(TOKENS, "a text")
        if self.width % self.heads:
            raise SettingsError(f"task.heads={self.heads}: must divide task.width={self.width}")
        if self.length > self.positions:
            raise SettingsError(f"task.length={self.length}: must be at most task.positions={self.positions}")
        _, _, training = settings.trained
        # A word is one token at least.
        if training.batch_size > (most := (TOKENS[name][0] - 1) // self.length):
            raise SettingsError(
                f"training.batch_size={training.batch_size}: must be at most {most}, the sequences of "
                f"task.length={self.length} in data={name}"
            )

    def build(self, settings: Settings, device: "torch.device") -> "LargeLanguageModel":
        from reltrust.data import subwords

        from .task import LargeLanguageModel

        assert settings.data is not None
        _, _, training = settings.trained
        return LargeLanguageModel(
            self,
            subwords.load(settings.data.name, settings.machine.data, self.vocabulary, device),
            batch_size=training.batch_size,
            seed=settings.seed,
            parts=settings.trainer.accumulate,
        )
