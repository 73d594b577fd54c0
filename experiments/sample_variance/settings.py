"""The keys of ``task:`` of sample variance: of an analysis of many networks, or of the training of one."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.data.sizes import TRAINING_EXAMPLES
from reltrust.errors import SettingsError
from reltrust.schema import STRICT, Positive
from reltrust.settings import Settings

if TYPE_CHECKING:
    import torch

    from .analysis import SampleVariance
    from .task import DeepClassifier


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """How differently a deep network sees its inputs before its first step, and whether training feels it."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ("network", "width", "depth")
    pack_keys: ClassVar[tuple[str, ...] | None] = ("network", "width", "depth")

    # he: weights of variance 2/(fan in), no biases at first; batch_norm: that, normalised over the batch after each
    # linear layer; unit_variance: he, shifted and rescaled on a calibration batch, which an analysis then looks at;
    # unit_variance_unseen: the same looked at on other inputs.
    network: Literal["he", "batch_norm", "unit_variance", "unit_variance_unseen"]
    width: Annotated[int, Field(ge=1, le=10_000)]
    depth: Annotated[int, Field(ge=2, le=10_000)]  # linear layers; of an analysis, those with a ReLU
    networks: Positive | None = None  # drawn by an analysis
    inputs: Annotated[int, Field(ge=2)] | None = None  # whose variance an analysis looks at

    @property
    def slug(self) -> str:
        return f"{self.network}-width{self.width}-depth{self.depth}"

    def check(self, settings: Settings) -> None:
        counts = {"networks": self.networks, "inputs": self.inputs}
        if settings.training is not None:
            if given := [key for key, count in counts.items() if count is not None]:
                raise SettingsError(f"task.{given[0]}={counts[given[0]]}: must be null in a training, which is of one")
            if self.network == "unit_variance_unseen":
                raise SettingsError(
                    f"task.network={self.network}: must be he, batch_norm or unit_variance in a training"
                )
            settings.data_among(TRAINING_EXAMPLES, "images")
            if self.network == "batch_norm" and settings.trainer.accumulate > 1:
                raise SettingsError(
                    f"trainer.accumulate={settings.trainer.accumulate}: must be 1 for task.network=batch_norm, which "
                    "normalises over the batch"
                )
            return
        if missing := [key for key, count in counts.items() if count is None]:
            raise SettingsError(f"task.{missing[0]}=null: must be a number in an analysis")
        # As many orthogonal inputs as are looked at, and as many to calibrate on.
        if (inputs := self.inputs or 0) > self.width // 2:
            raise SettingsError(f"task.inputs={inputs}: must be at most {self.width // 2}, half of task.width")

    def build(self, settings: Settings, device: "torch.device") -> "DeepClassifier | SampleVariance":
        if settings.training is None:
            from .analysis import SampleVariance

            return SampleVariance(self, settings.seed, device)
        from reltrust.data import images

        from .task import DeepClassifier

        assert settings.data is not None
        return DeepClassifier(
            images.load(settings.data.name, settings.machine.data, device),
            network=self.network,
            width=self.width,
            depth=self.depth,
            batch_size=settings.training.batch_size,
            seed=settings.seed,
            device=device,
            parts=settings.trainer.accumulate,
        )
