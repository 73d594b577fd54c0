"""The keys of ``task:`` of the image classifier."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.data.sizes import RGB_EXAMPLES
from reltrust.schema import STRICT, Positive
from reltrust.settings import Settings

if TYPE_CHECKING:
    import torch

    from .task import ImageClassifier


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """A residual network that classifies colour images: a benchmark of arXiv 2002.03432 and 2006.14560."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ("batchnorm_affine",)  # off for Madam, which is compared with others all the same
    # On a CPU a convolution of several networks at once takes as long as theirs one by one, or longer.
    pack_keys: ClassVar[tuple[str, ...] | None] = None

    architecture: Literal["resnet18", "preact_resnet18"]
    channels: Annotated[int, Field(ge=1, le=1024)]  # of the first stage
    batchnorm_affine: bool
    augment: bool  # mirror images, and crops of the image with 4 pixels around it
    examples: Positive | None  # of the training images, the first ones; null: all

    @property
    def slug(self) -> str:
        return f"channels{self.channels}"

    def check(self, settings: Settings) -> None:
        name = settings.data_among(RGB_EXAMPLES, "colour images")
        settings.check_batch(self.examples, RGB_EXAMPLES[name][0])

    def build(self, settings: Settings, device: "torch.device") -> "ImageClassifier":
        from reltrust.data import rgb

        from .task import ImageClassifier

        assert settings.data is not None
        _, _, training = settings.trained
        return ImageClassifier(
            rgb.load(settings.data.name, settings.machine.data, device),
            architecture=self.architecture,
            channels=self.channels,
            batchnorm_affine=self.batchnorm_affine,
            augment=self.augment,
            examples=self.examples,
            batch_size=training.batch_size,
            seed=settings.seed,
            parts=settings.trainer.accumulate,
        )
