"""The keys of ``task:`` of the depth benchmark."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.data.sizes import TRAINING_EXAMPLES
from reltrust.schema import STRICT
from reltrust.settings import Settings

if TYPE_CHECKING:
    import torch

    from .task import MlpDepth


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """A deep perceptron that classifies digits: figure 3 (left) of arXiv 2002.03432."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ("hidden_layers",)
    pack_keys: ClassVar[tuple[str, ...] | None] = ("hidden_layers", "width")

    hidden_layers: Annotated[int, Field(ge=1, le=10_000)]
    width: Annotated[int, Field(ge=1, le=10_000)]  # the weights of one layer are then 400 MB
    init: Literal["torch", "he"]

    @property
    def slug(self) -> str:
        return f"depth{self.hidden_layers}"

    def check(self, settings: Settings) -> None:
        settings.data_among(TRAINING_EXAMPLES, "images")

    @property
    def task(self) -> "type[MlpDepth]":
        """What is built; experiments that look closer at the same training have one of their own."""
        from .task import MlpDepth

        return MlpDepth

    def build(self, settings: Settings, device: "torch.device") -> "MlpDepth":
        from reltrust.data import images

        assert settings.data is not None
        _, _, training = settings.trained
        return self.task(
            images.load(settings.data.name, settings.machine.data, device),
            hidden_layers=self.hidden_layers,
            width=self.width,
            init=self.init,
            batch_size=training.batch_size,
            seed=settings.seed,
            device=device,
            parts=settings.trainer.accumulate,
        )
