"""The keys of ``task:`` of the weights that optimizers make: those of the depth benchmark."""

from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from reltrust.schema import STRICT

from ..mlp_depth import settings as mlp_depth

if TYPE_CHECKING:
    from .task import MadamWeights


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject(mlp_depth.Subject):
    """A perceptron that classifies digits, and whose weights are looked at."""

    pack_keys: ClassVar[tuple[str, ...] | None] = None  # signs are looked at in every step of a run

    @property
    def task(self) -> "type[MadamWeights]":
        from .task import MadamWeights

        return MadamWeights
