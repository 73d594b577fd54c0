"""The keys of ``task:`` of the weights that optimizers make: those of the depth benchmark."""

from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from reltrust.schema import STRICT
from reltrust.settings import Settings

from ..mlp_depth import settings as mlp_depth

if TYPE_CHECKING:
    import torch

    from .task import MadamWeights


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject(mlp_depth.Subject):
    """A perceptron that classifies digits, and whose weights are looked at."""

    pack_keys: ClassVar[tuple[str, ...] | None] = None  # signs are looked at in every step of a run

    def build(self, settings: Settings, device: "torch.device") -> "MadamWeights":
        from reltrust.data import images

        from .task import MadamWeights

        assert settings.data is not None
        _, _, training = settings.trained
        return MadamWeights(
            images.load(settings.data.name, settings.machine.data, device),
            hidden_layers=self.hidden_layers,
            width=self.width,
            init=self.init,
            batch_size=training.batch_size,
            seed=settings.seed,
            device=device,
            parts=settings.trainer.accumulate,
        )
