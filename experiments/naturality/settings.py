"""The keys of ``task:`` of naturality: of a rule's defects, or of its descent in badly conditioned coordinates."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.data.sizes import TRAINING_EXAMPLES
from reltrust.errors import SettingsError
from reltrust.schema import STRICT, Name, Positive
from reltrust.settings import Settings

from .expectations import RULES

if TYPE_CHECKING:
    import torch

    from .analysis import Defects
    from .conditioning import Descent


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """Whether an update rule's way depends on the coordinates in which it is gone."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ("rule", "condition", "step_size", "iterations")
    pack_keys: ClassVar[tuple[str, ...] | None] = None

    rule: Name  # a name of expectations.py
    step_size: Annotated[float, Field(gt=0)]  # of defects the largest of those that are compared
    iterations: Positive  # with that step size; of a descent the most that it makes
    halvings: Positive | None = None  # of the step size, with twice as many iterations
    condition: Annotated[float, Field(ge=1, le=1e6)] | None = None  # number of the coordinates of a descent
    images: Positive | None = None  # that a descent learns
    hidden: Positive | None = None  # units

    @property
    def slug(self) -> str:
        return f"{self.rule}-step{self.step_size:g}" + (f"-condition{self.condition:g}" if self.condition else "")

    def check(self, settings: Settings) -> None:
        if self.rule not in RULES:
            raise SettingsError(f"task.rule={self.rule}: must be one of {', '.join(RULES)}")
        descent = {"images": self.images, "hidden": self.hidden}
        kind, needed, others = (
            ("of defects", {"halvings": self.halvings}, descent)
            if self.condition is None
            else ("of a descent, which has a task.condition", descent, {"halvings": self.halvings})
        )
        for key, value in needed.items():
            if value is None:
                raise SettingsError(f"task.{key}=null: must be a number in an analysis {kind}")
        for key, value in others.items():
            if value is not None:
                raise SettingsError(f"task.{key}={value}: must be null in an analysis {kind}")
        if self.condition is None:
            if settings.data is not None:
                raise SettingsError(f"data={settings.data.name}: must be null in an analysis {kind}")
            return
        available = TRAINING_EXAMPLES[settings.data_among(("digits",), "images of 8x8")]
        if (self.images or 0) > available:
            raise SettingsError(f"task.images={self.images}: must be at most {available}, all images")

    def build(self, settings: Settings, device: "torch.device") -> "Defects | Descent":
        if self.condition is None:
            from .analysis import Defects

            return Defects(self, settings.seed)
        from reltrust.data import images

        from .conditioning import Descent

        assert settings.data is not None
        return Descent(self, images.load(settings.data.name, settings.machine.data).train, settings.seed)
