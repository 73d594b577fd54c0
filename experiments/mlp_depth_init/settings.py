"""The keys of ``task:`` of the depth benchmark with two initialisations: those of the depth benchmark."""

from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from reltrust.schema import STRICT
from reltrust.settings import Settings

from ..mlp_depth import settings as mlp_depth

if TYPE_CHECKING:
    import torch

    from .task import MlpDepthInit


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject(mlp_depth.Subject):
    """A deep perceptron that classifies digits, from torch's default weights or from He's."""

    axes: ClassVar[tuple[str, ...]] = ("hidden_layers", "init")

    @property
    def slug(self) -> str:
        return f"{self.init}-depth{self.hidden_layers}"

    def build(self, settings: Settings, device: "torch.device") -> "MlpDepthInit":
        from reltrust.data import images

        from .task import MlpDepthInit

        assert settings.data is not None
        _, _, training = settings.trained
        return MlpDepthInit(
            images.load(settings.data.name, settings.machine.data, device),
            hidden_layers=self.hidden_layers,
            width=self.width,
            init=self.init,
            batch_size=training.batch_size,
            seed=settings.seed,
            device=device,
            parts=settings.trainer.accumulate,
        )
