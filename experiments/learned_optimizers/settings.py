"""The keys of ``task:`` of learned optimizers: a population, what it trains, and how it is trained itself."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.errors import SettingsError
from reltrust.schema import STRICT, Positive
from reltrust.settings import Settings

if TYPE_CHECKING:
    import torch

    from .analysis import ByHand, MetaTraining


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """A population of learned optimizers and who trains it: itself, itself as it began, Adam, or nobody."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ("method", "rate", "generations")
    pack_keys: ClassVar[tuple[str, ...] | None] = None

    method: Literal["self", "frozen", "adam", "evolution", "hand"]  # hand: Adam on the problems, nothing is learned
    rate: Annotated[float, Field(gt=0)]  # multiplier at the beginning; Adam's learning rate; deviation of mutations
    population: Annotated[int, Field(ge=2)]  # learned optimizers
    hidden: Positive  # units in each of their two hidden layers
    sigma: Annotated[float, Field(gt=0)]  # deviation of the noise of evolution strategies
    pairs: Positive  # of perturbed trainings of a member, on each family of problems
    unroll: Positive  # steps of a training for each gradient
    episode: Positive  # steps of a whole training
    generations: Positive
    meta_steps: Positive  # gradients in a generation
    problems: Positive  # of each family, by which members are selected
    measured: Positive  # of each family, always the same, by which the selected member is measured
    dimension: Annotated[int, Field(ge=2)]  # of quadratics
    pixels: Literal[2, 4, 8]  # of a side of the images
    units: Positive  # of the perceptrons that learn them
    batch_size: Positive  # of their batches

    @property
    def slug(self) -> str:
        return f"{self.method}-rate{self.rate:g}-{self.generations}generations"

    def check(self, settings: Settings) -> None:
        settings.data_among(("digits",), "images of 8x8")
        if self.unroll > self.episode or self.episode % self.unroll:
            raise SettingsError(
                f"task.unroll={self.unroll}: must be at most task.episode={self.episode}, and divide it"
            )

    def build(self, settings: Settings, device: "torch.device") -> "MetaTraining | ByHand":
        from reltrust.data import images

        from .analysis import ByHand, MetaTraining

        assert settings.data is not None
        digits = images.load(settings.data.name, settings.machine.data).train
        return ByHand(self, digits) if self.method == "hand" else MetaTraining(self, digits, settings.seed)
