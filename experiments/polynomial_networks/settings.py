"""The keys of ``task:`` of polynomial networks: of a table of dimensions, of a search for fillings, or of trainings."""

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.errors import SettingsError
from reltrust.schema import STRICT, NotEmpty, Positive
from reltrust.settings import Settings

if TYPE_CHECKING:
    import torch

    from .analysis import Dimensions, Fillings
    from .fitting import Fits

Small = Annotated[int, Field(ge=1, le=8)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """What networks can be whose activation is a power of their units."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ("depth", "power", "widest", "inputs", "outputs", "network")
    pack_keys: ClassVar[tuple[str, ...] | None] = None

    # dimensions: of all networks of a depth with widths up to the widest; fillings: the smallest networks that can be
    # every polynomial; training: one network is fitted to random polynomials
    study: Literal["dimensions", "fillings", "training"]
    power: Annotated[int, Field(ge=1, le=6)]  # of the activation
    depth: Annotated[int, Field(ge=1, le=4)] | None = None  # weight matrices
    widest: Small | None = None
    inputs: Small | None = None
    outputs: Small | None = None
    network: NotEmpty | None = None  # its widths, as 3-2-1
    primes: Annotated[int, Field(ge=1, le=2)] | None = None  # modulo which ranks are computed
    targets: Positive | None = None  # random polynomials
    restarts: Positive | None = None  # of each

    @property
    def slug(self) -> str:
        named = {
            "dimensions": f"depth{self.depth}-widest{self.widest}",
            "fillings": f"depth{self.depth}-inputs{self.inputs}-outputs{self.outputs}",
            "training": f"network{self.network}",
        }
        return f"{self.study}-power{self.power}-{named[self.study]}"

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the network that is trained."""
        return tuple(map(int, (self.network or "").split("-")))

    def check(self, settings: Settings) -> None:
        keys = ("depth", "widest", "inputs", "outputs", "network", "primes", "targets", "restarts")
        needed = {
            "dimensions": ("depth", "widest", "primes"),
            "fillings": ("depth", "inputs", "outputs", "primes"),
            "training": ("network", "targets", "restarts"),
        }[self.study]
        for key in keys:
            if (value := getattr(self, key)) is None and key in needed:
                raise SettingsError(f"task.{key}=null: must be given for task.study={self.study}")
            if value is not None and key not in needed:
                raise SettingsError(f"task.{key}={value}: must be null for task.study={self.study}")
        if self.study == "training" and not re.fullmatch(r"[1-8](-[1-8]){1,4}", self.network or ""):
            raise SettingsError(f"task.network={self.network}: must be two to five widths of 1 to 8, as 3-2-1")
        if settings.data is not None:
            raise SettingsError(f"data={settings.data.name}: must be null, as polynomials are drawn")

    def build(self, settings: Settings, device: "torch.device") -> "Dimensions | Fillings | Fits":
        if self.study == "training":
            from .fitting import Fits

            return Fits(self, settings.seed)
        from .analysis import Dimensions, Fillings

        return Dimensions(self, settings.seed) if self.study == "dimensions" else Fillings(self, settings.seed)
