"""The keys of ``task:`` of the depth benchmark with two initialisations: those of the depth benchmark."""

from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from reltrust.schema import STRICT

from ..mlp_depth import settings as mlp_depth

if TYPE_CHECKING:
    from .task import MlpDepthInit


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject(mlp_depth.Subject):
    """A deep perceptron that classifies digits, from torch's default weights or from He's."""

    axes: ClassVar[tuple[str, ...]] = ("hidden_layers", "init")

    @property
    def slug(self) -> str:
        return f"{self.init}-depth{self.hidden_layers}"

    @property
    def task(self) -> "type[MlpDepthInit]":
        from .task import MlpDepthInit

        return MlpDepthInit
