"""The keys of ``task:`` of free probability: of a spectrum beside sampled networks, or of a training."""

import re
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.data.sizes import TRAINING_EXAMPLES
from reltrust.errors import SettingsError
from reltrust.schema import STRICT, Name, Positive
from reltrust.settings import Settings

from .architectures import ARCHITECTURES

if TYPE_CHECKING:
    import torch

    from .analysis import Spectrum
    from .task import RandomNetwork


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """The Jacobian's spectrum of a network at initialisation, and whether training feels it."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ("network", "gain")
    pack_keys: ClassVar[tuple[str, ...] | None] = ("network", "narrowest", "widest")

    network: Name  # of an analysis a name of architectures.py; of a training drawn0, drawn1, ...: a random one
    gain: Annotated[float, Field(gt=0, le=1_000)]  # of Xavier's initialisation
    width: Annotated[int, Field(ge=2, le=10_000)] | None = None  # of the input of the networks that are sampled
    networks: Positive | None = None  # that are sampled
    points: Annotated[int, Field(ge=2)] | None = None  # at which the density is computed
    narrowest: Positive | None = None  # hidden width of a random network
    widest: Positive | None = None

    @property
    def slug(self) -> str:
        return f"{self.network}-gain{self.gain:g}"

    @property
    def drawn(self) -> int:
        """The number of a random network."""
        return int(self.network.removeprefix("drawn"))

    def check(self, settings: Settings) -> None:
        sampled = {"width": self.width, "networks": self.networks, "points": self.points}
        limits = {"narrowest": self.narrowest, "widest": self.widest}
        trained = settings.training is not None
        kind, needed, others = ("a training", limits, sampled) if trained else ("an analysis", sampled, limits)
        for key, value in needed.items():
            if value is None:
                raise SettingsError(f"task.{key}=null: must be a number in {kind}")
        for key, value in others.items():
            if value is not None:
                raise SettingsError(f"task.{key}={value}: must be null in {kind}")
        if not trained:
            if self.network not in ARCHITECTURES:
                raise SettingsError(f"task.network={self.network}: must be one of {', '.join(ARCHITECTURES)} in {kind}")
            return
        if not re.fullmatch(r"drawn\d{1,6}", self.network):
            raise SettingsError(f"task.network={self.network}: must be drawn and a number, as drawn0, in {kind}")
        if (self.narrowest or 0) > (self.widest or 0):
            raise SettingsError(f"task.narrowest={self.narrowest}: must be at most task.widest={self.widest}")
        settings.data_among(TRAINING_EXAMPLES, "images")

    def build(self, settings: Settings, device: "torch.device") -> "RandomNetwork | Spectrum":
        if settings.training is None:
            from .analysis import Spectrum

            return Spectrum(self, settings.seed, device)
        from reltrust.data import images

        from .architectures import drawn
        from .task import RandomNetwork

        assert settings.data is not None
        data = images.load(settings.data.name, settings.machine.data, device)
        return RandomNetwork(
            data,
            architecture=drawn(self.drawn, data.pixels, self.narrowest or 1, self.widest or 1),
            gain=self.gain,
            batch_size=settings.training.batch_size,
            seed=settings.seed,
            device=device,
            parts=settings.trainer.accumulate,
        )
