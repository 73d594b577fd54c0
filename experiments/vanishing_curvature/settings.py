"""The keys of ``task:`` of vanishing curvature: of an analysis of many networks, or of the training of one."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.data.sizes import TRAINING_EXAMPLES
from reltrust.errors import SettingsError
from reltrust.schema import STRICT, Positive
from reltrust.settings import Settings

from .architectures import ARCHITECTURES, CHAINS

if TYPE_CHECKING:
    import torch

    from .analysis import Initialisation
    from .chains import Chains
    from .task import Plateau


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """Gradient and curvature of deep networks before their first step, and how long training stays there."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ("network", "depth")
    pack_keys: ClassVar[tuple[str, ...] | None] = ("network", "depth", "width")

    network: Literal[
        "he", "he_root", "he_proportional", "xavier", "xavier_proportional", "linear", "linear_proportional",
        "batch_norm", "residual", "residual_plain", "chain_normal", "chain_uniform",
    ]  # fmt: skip
    depth: Annotated[int, Field(ge=2, le=10_000)]  # weight matrices
    width: Annotated[int, Field(ge=1, le=10_000)]
    networks: Positive | None = None  # drawn by an analysis
    hessians: Positive | None = None  # of how many of them the curvature is looked at
    inputs: Annotated[int, Field(ge=2)] | None = None  # examples of the loss whose curvature it is

    @property
    def slug(self) -> str:
        return f"{self.network}-depth{self.depth}"

    def check(self, settings: Settings) -> None:
        counts = {"networks": self.networks, "hessians": self.hessians, "inputs": self.inputs}
        chain = self.network in CHAINS
        if settings.training is not None:
            if given := [key for key, count in counts.items() if count is not None]:
                raise SettingsError(f"task.{given[0]}={counts[given[0]]}: must be null in a training, which is of one")
            if chain or (architecture := ARCHITECTURES[self.network]).batch_norm or architecture.branch is not None:
                plain = [name for name, one in ARCHITECTURES.items() if not one.batch_norm and one.branch is None]
                raise SettingsError(
                    f"task.network={self.network}: must be a plain one to be trained: {', '.join(plain)}"
                )
            settings.data_among(TRAINING_EXAMPLES, "images")
            return
        needed = ["networks", "hessians"] if chain else list(counts)
        if missing := [key for key in needed if counts[key] is None]:
            raise SettingsError(f"task.{missing[0]}=null: must be a number in an analysis")
        assert self.networks is not None
        assert self.hessians is not None
        if self.hessians > self.networks:
            raise SettingsError(f"task.hessians={self.hessians}: must be at most task.networks={self.networks}")
        if chain and self.width != 1:
            raise SettingsError(f"task.width={self.width}: must be 1 for task.network={self.network}")
        if chain and self.depth < 3:
            raise SettingsError(f"task.depth={self.depth}: must be at least 3 for task.network={self.network}")

    def build(self, settings: Settings, device: "torch.device") -> "Plateau | Initialisation | Chains":
        if settings.training is not None:
            from reltrust.data import images

            from .task import Plateau

            assert settings.data is not None
            return Plateau(
                images.load(settings.data.name, settings.machine.data, device),
                network=self.network,
                depth=self.depth,
                width=self.width,
                batch_size=settings.training.batch_size,
                seed=settings.seed,
                device=device,
                parts=settings.trainer.accumulate,
            )
        if self.network in CHAINS:
            from .chains import Chains

            return Chains(self, settings.seed)
        from .analysis import Initialisation

        return Initialisation(self, settings.seed, device)
