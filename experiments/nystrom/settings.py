"""The keys of ``task:`` of adaptive Nystrom top layers."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.data.sizes import CLASSES, RGB_EXAMPLES, TRAINING_EXAMPLES
from reltrust.errors import SettingsError
from reltrust.schema import STRICT, Positive
from reltrust.settings import Settings

from .kernels import KERNELS, NO_KERNEL

if TYPE_CHECKING:
    import torch

    from .task import TopLayers

# By name: output channels of 3x3 convolutions, stage by stage, and the least side of the images.
NETWORKS: dict[str, tuple[tuple[int, ...], ...]] = {
    "small": ((8,), (32,)),
    "medium": ((16,), (32,), (64,)),
    "vgg19": ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
}
DRAWN_SPLITS = ("digits", "mnist5k")  # data without a split of their own: each seed splits all of their images


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """A convolutional network whose top is dense, or a Nystrom layer: arXiv 1911.13036."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ("top", "kernel", "size", "samples", "gamma")
    pack_keys: ClassVar[tuple[str, ...] | None] = (
        "network", "activation", "top", "kernel", "size", "columns", "samples", "gamma", "examples", "held_out",
    )  # fmt: skip

    network: Literal["small", "medium", "vgg19"]
    activation: Literal["relu", "tanh"]
    # dense: a hidden layer of ``size`` units with ReLU; nystrom: kernels with ``size`` landmarks times a learned
    # matrix; fixed: the same with the inverse root of the kernel matrix, as it is at each step. Then a classifier.
    top: Literal["dense", "nystrom", "fixed"]
    kernel: Annotated[str, Field(pattern=r"^[a-z0-9_]+(\+[a-z0-9_]+)*$")]  # several with + between them; dense: none
    size: Positive
    columns: Positive | None  # of the learned matrix of each kernel; null: as many as landmarks
    init: Literal["root", "random"]  # of the learned matrix
    gamma: Annotated[float, Field(gt=0)]  # of rbf and exp_chi2
    samples: Annotated[int, Field(ge=0)]  # training images of each class; 0: all training images
    examples: Positive | None  # of the training images that there are, the first ones; null: all
    held_out: Positive | None  # images, the first ones, that are measured on; null: all

    @property
    def slug(self) -> str:
        return f"{self.top}-{self.kernel}-size{self.size}-samples{self.samples}"

    @property
    def kernels(self) -> list[str]:
        return self.kernel.split("+")

    def check(self, settings: Settings) -> None:
        everything = {**TRAINING_EXAMPLES, **{name: counts[0] for name, counts in RGB_EXAMPLES.items()}}
        name = settings.data_among(everything, "images")
        settings.check_batch(self.examples, everything[name])
        available = self.examples or everything[name]
        classes = CLASSES[name]
        count, of_what = available, f"training images of data={name}"
        if self.samples:
            count = self.samples * classes
            of_what = f"training images, task.samples={self.samples} of each of {classes} classes"
            if count > available:
                raise SettingsError(
                    f"task.samples={self.samples}: must be at most {available // classes}, as data={name} has "
                    f"{available} training images in {classes} classes"
                )
        _, _, training = settings.trained
        if training.batch_size > count:
            raise SettingsError(f"training.batch_size={training.batch_size}: must be at most the {count} {of_what}")
        if self.top == "dense":
            if self.kernel != NO_KERNEL:
                raise SettingsError(f"task.kernel={self.kernel}: must be {NO_KERNEL} for task.top=dense")
            if self.columns is not None:
                raise SettingsError(f"task.columns={self.columns}: must be null for task.top=dense")
            return
        if unknown := [one for one in self.kernels if one not in KERNELS]:
            raise SettingsError(
                f"task.kernel={self.kernel}: {unknown[0]} is unknown, must be some of {', '.join(KERNELS)}, "
                "with + between them"
            )
        if self.size > count:
            raise SettingsError(f"task.size={self.size}: must be at most the {count} {of_what}")
        if self.columns is not None and (self.top == "fixed" or self.init == "root") and self.columns > self.size:
            raise SettingsError(f"task.columns={self.columns}: must be at most task.size={self.size}")
        if self.activation == "tanh" and (histograms := [one for one in self.kernels if "chi2" in one]):
            raise SettingsError(
                f"task.activation=tanh: must be relu for task.kernel={self.kernel}, as {histograms[0]} is of features "
                "from 0 on"
            )

    def build(self, settings: Settings, device: "torch.device") -> "TopLayers":
        from .pool import load
        from .task import TopLayers

        assert settings.data is not None
        _, _, training = settings.trained
        return TopLayers(
            load(settings.data.name, settings.machine.data, device),
            self,
            batch_size=training.batch_size,
            seed=settings.seed,
            parts=settings.trainer.accumulate,
        )
