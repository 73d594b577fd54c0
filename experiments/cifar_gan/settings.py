"""The keys of ``task:`` of the class-conditional GAN."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.data.sizes import CLASSES, RGB_EXAMPLES
from reltrust.errors import SettingsError
from reltrust.metrics.networks import Features
from reltrust.schema import STRICT, Positive
from reltrust.settings import Settings

if TYPE_CHECKING:
    import torch

    from .task import ClassConditionalGan


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """A generator and a discriminator that know the class: the GAN benchmark of arXiv 2002.03432 and 2006.14560."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ()
    pack_keys: ClassVar[tuple[str, ...] | None] = None  # two players, and batches normalised

    channels: Annotated[int, Field(ge=1, le=1024)]  # nf: of the widest layers a quarter
    blocks: Annotated[int, Field(ge=2, le=4)]  # residual blocks that double or halve the size
    batchnorm_momentum: Annotated[float, Field(gt=0, le=1)]
    ema: Annotated[float, Field(ge=0, lt=1)]  # decay of the moving average of generators that is evaluated; 0: none
    examples: Positive | None  # of the training images, the first ones; null: all
    samples: Annotated[int, Field(ge=100, le=100_000)]  # generated at each evaluation
    features: Features  # of which network distances are of

    @property
    def slug(self) -> str:
        return f"channels{self.channels}"

    def check(self, settings: Settings) -> None:
        name = settings.data_among(RGB_EXAMPLES, "colour images")
        settings.check_batch(self.examples, RGB_EXAMPLES[name][0])
        if self.samples % CLASSES[name]:
            raise SettingsError(
                f"task.samples={self.samples}: must be a multiple of the {CLASSES[name]} classes of data={name}"
            )

    def build(self, settings: Settings, device: "torch.device") -> "ClassConditionalGan":
        from reltrust.data import rgb
        from reltrust.metrics import features

        from .task import ClassConditionalGan

        assert settings.data is not None
        _, _, training = settings.trained
        data = rgb.load(settings.data.name, settings.machine.data, device)
        return ClassConditionalGan(
            data,
            features.load(self.features, device),
            channels=self.channels,
            blocks=self.blocks,
            batchnorm_momentum=self.batchnorm_momentum,
            ema=self.ema,
            examples=self.examples,
            samples=self.samples,
            batch_size=training.batch_size,
            seed=settings.seed,
            parts=settings.trainer.accumulate,
            cache=settings.machine.data,
        )
