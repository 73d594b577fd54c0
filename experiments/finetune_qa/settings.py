"""The keys of ``task:`` of fine-tuning for questions and answers."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.errors import SettingsError
from reltrust.schema import STRICT, Positive
from reltrust.settings import Settings

if TYPE_CHECKING:
    import torch

    from .task import QuestionAnswering

_Folder = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """A pre-trained encoder learns to find answers in paragraphs: the claim of arXiv 2002.03432, version 1."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ()
    pack_keys: ClassVar[tuple[str, ...] | None] = None  # somebody else's models, with dropout

    encoder: _Folder | None  # machine.data/encoders/<encoder>, as the Hugging Face hub has it; null: a small random one
    questions: _Folder | None  # machine.data/<questions>, files of SQuAD's format; null: made-up ones
    length: Annotated[int, Field(ge=8, le=100_000)]  # tokens of question and paragraph together, with their marks
    stride: Positive  # tokens that two windows of a longer paragraph share
    answer_tokens: Positive  # of the longest answer that is looked for

    @property
    def slug(self) -> str:
        return self.encoder or "random"

    def check(self, settings: Settings) -> None:
        if self.stride >= self.length:
            raise SettingsError(f"task.stride={self.stride}: must be less than task.length={self.length}")

    def build(self, settings: Settings, device: "torch.device") -> "QuestionAnswering":
        from .task import QuestionAnswering

        _, _, training = settings.trained
        return QuestionAnswering(
            self,
            root=settings.machine.data,
            batch_size=training.batch_size,
            seed=settings.seed,
            device=device,
            parts=settings.trainer.accumulate,
        )
