"""The keys of ``task:`` of the curvature slices."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.data.sizes import TRAINING_EXAMPLES
from reltrust.errors import SettingsError
from reltrust.schema import STRICT, Positive
from reltrust.settings import Settings

if TYPE_CHECKING:
    import torch

    from .analysis import CurvatureSlice


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """A perceptron's loss and gradient along its gradient, at one moment of training: figure 1 of arXiv 2002.03432."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ("network", "hidden_layers", "train_steps")
    pack_keys: ClassVar[tuple[str, ...] | None] = None

    network: Literal["plain", "residual"]
    hidden_layers: Annotated[int, Field(ge=1, le=1_000)]
    width: Annotated[int, Field(ge=1, le=10_000)]
    train_steps: Annotated[int, Field(ge=0)]  # before the slice; 0: at initialisation
    train_batch: Positive
    train_lr: Annotated[float, Field(gt=0)]
    train_decay: Annotated[float, Field(gt=0, le=1)]
    train_decay_every: Positive  # steps
    points: Annotated[int, Field(ge=2)]  # of the slice, the first one at eta = 0
    spacing: Annotated[float, Field(gt=0)]  # of eta

    @property
    def slug(self) -> str:
        return f"{self.network}{self.hidden_layers}-step{self.train_steps}"

    def check(self, settings: Settings) -> None:
        available = TRAINING_EXAMPLES[settings.data_among(TRAINING_EXAMPLES, "images")]
        if self.train_batch > available:
            raise SettingsError(f"task.train_batch={self.train_batch}: must be at most {available}, all images")

    def build(self, settings: Settings, device: "torch.device") -> "CurvatureSlice":
        from reltrust.data import images

        from .analysis import CurvatureSlice
        from .network import perceptron

        assert settings.data is not None
        data = images.load(settings.data.name, settings.machine.data, device)
        if self.network == "residual" and self.width != data.pixels:
            raise SettingsError(
                f"task.width={self.width}: must be {data.pixels}, the pixels of data={settings.data.name}, "
                "as every hidden layer of task.network=residual adds its input to its output"
            )
        network = perceptron(self.network, data.pixels, self.width, self.hidden_layers, data.classes, settings.seed)
        return CurvatureSlice(self, data.train, network.to(device), settings.seed)
