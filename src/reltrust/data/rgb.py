"""Labelled colour images of 32x32 pixels as bytes that lie on the device; what a step makes of them is made there."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reltrust.data.downloads import no_trace_of_failure
from reltrust.data.sizes import CLASSES
from reltrust.errors import DataError, first_line

PIXELS = 32
CPU = torch.device("cpu")

# Of the images of train, then of test as bytes (n, 32, 32, 3), then of the labels as bytes. CIFAR-100's and SVHN's
# files are checked by torchvision, and photographs by those who install their packages.
SHA256 = {"cifar10": "795f1793d7b8f8883c578442a02455d2469d49685325e98ea0621b15f4a88d69"}


@dataclass(frozen=True)
class RgbExamples:
    """``images`` uint8 (n, 3, 32, 32); ``labels`` int64 (n,) in 0..classes-1."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels at ``indices`` (int64, on the same device)."""
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def first(self, count: int | None) -> "RgbExamples":
        """So many of them, or all."""
        return RgbExamples(self.images[:count], self.labels[:count])

    def to(self, device: torch.device) -> "RgbExamples":
        return RgbExamples(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class RgbData:
    """What is trained on, and what is held out."""

    train: RgbExamples
    test: RgbExamples
    classes: int

    def to(self, device: torch.device) -> "RgbData":
        return RgbData(self.train.to(device), self.test.to(device), self.classes)

    @property
    def sha256(self) -> str:
        """Of images, then labels, of both parts."""
        images = [part.images.permute(0, 2, 3, 1).contiguous().cpu() for part in (self.train, self.test)]
        labels = [part.labels.byte().cpu() for part in (self.train, self.test)]
        return hashlib.sha256(b"".join(one.numpy().tobytes() for one in (*images, *labels))).hexdigest()


def load(name: str, root: str | Path, device: torch.device = CPU) -> RgbData:
    """The data set ``name`` (a name of configs/data) on the device; downloads are kept below ``root``.

    Loaded once in a process and copied once to a device, however many runs use it.

    Raises:
        DataError: it is neither there nor to be had, does not match its checksum, or is no set of 32x32 RGB images.
    """
    return _load(name, str(root), device)


@lru_cache(maxsize=4)
def _load(name: str, root: str, device: torch.device) -> RgbData:
    if device != CPU:
        return _load(name, root, CPU).to(device)
    where, train, test = _LOADERS[name](root)
    data = RgbData(examples(where, *train, CLASSES[name]), examples(where, *test, CLASSES[name]), CLASSES[name])
    if name in SHA256 and data.sha256 != SHA256[name]:
        raise DataError(f"{where}: damaged, not the images that data={name} means; delete it to get them anew")
    return data


Raw = tuple[np.ndarray, np.ndarray]  # bytes (n, height, width, 3), and labels


def examples(where: str, images: np.ndarray, labels: np.ndarray, classes: int) -> RgbExamples:
    """Of images (n, 32, 32, 3) and labels.

    Raises:
        DataError: they are others.
    """
    if images.dtype != np.uint8 or images.shape[1:] != (PIXELS, PIXELS, 3):
        raise DataError(f"{where}: images are {images.dtype} {images.shape[1:]}: must be uint8 ({PIXELS}, {PIXELS}, 3)")
    if len(labels) != len(images) or labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{where}: {len(labels)} labels in {labels.min()}..{labels.max()}: must be {len(images)}, "
            f"in 0..{classes - 1}"
        )
    return RgbExamples(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).long())


# --- CIFAR -----------------------------------------------------------------------------------------------------------

_RECORD = 1 + 3 * PIXELS * PIXELS  # a label and an image, in the binary version of CIFAR-10


def _cifar10(root: str) -> tuple[str, Raw, Raw]:
    """From the binary version where that is there, else from the Python version, which torchvision downloads."""
    folder = Path(root, "cifar-10-batches-bin")
    if not folder.exists():
        return _from_torchvision("CIFAR10", root)
    return (
        str(folder),
        _read_binary([folder / f"data_batch_{i}.bin" for i in range(1, 6)]),
        _read_binary([folder / "test_batch.bin"]),
    )


def _read_binary(paths: list[Path]) -> Raw:
    parts = []
    for path in paths:
        try:
            content = np.fromfile(path, np.uint8)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
        if not len(content) or len(content) % _RECORD:
            raise DataError(f"{path}: damaged: {len(content)} bytes are no number of records of {_RECORD}")
        parts.append(content.reshape(-1, _RECORD))
    records = np.concatenate(parts)
    images = records[:, 1:].reshape(-1, 3, PIXELS, PIXELS).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)


def _cifar100(root: str) -> tuple[str, Raw, Raw]:
    return _from_torchvision("CIFAR100", root)


def _from_torchvision(name: str, root: str) -> tuple[str, Raw, Raw]:
    """torchvision checks the files' checksums before it reads them."""
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    kind = getattr(datasets, name)
    folder = Path(root, kind.base_folder)
    try:
        with no_trace_of_failure(root):
            train, test = (kind(root, train=train, download=True) for train in (True, False))
    except Exception as error:  # whatever the network or a damaged file raises
        there = [(folder / file, md5) for file, md5 in (*kind.train_list, *kind.test_list) if (folder / file).exists()]
        if damaged := [path for path, md5 in there if not check_integrity(str(path), md5)]:
            raise DataError(f"{damaged[0]}: damaged, delete it to download it anew") from None
        also = f" or {Path(root, 'cifar-10-batches-bin')}, the binary version" if name == "CIFAR10" else ""
        raise DataError(
            f"{name} is not in {folder}{also} and could not be downloaded ({type(error).__name__}: "
            f"{first_line(error).rstrip(' :')}); where there is a network run "
            f"`python scripts/prefetch_data.py {name.lower()} --data {root}`, or take data=photographs, which come "
            f"inside packages"
        ) from None
    return str(folder), (train.data, np.asarray(train.targets)), (test.data, np.asarray(test.targets))


# --- SVHN ------------------------------------------------------------------------------------------------------------


def _svhn(root: str) -> tuple[str, Raw, Raw]:
    """The cropped digits, without the extra training images; torchvision checks the files' checksums."""
    from torchvision.datasets import SVHN
    from torchvision.datasets.utils import check_integrity

    try:
        with no_trace_of_failure(root):
            train, test = (SVHN(root, split=split, download=True) for split in ("train", "test"))
    except Exception as error:  # whatever the network or a damaged file raises
        there = [(Path(root, file), md5) for _, file, md5 in (SVHN.split_list[split] for split in ("train", "test"))]
        if damaged := [path for path, md5 in there if path.exists() and not check_integrity(str(path), md5)]:
            raise DataError(f"{damaged[0]}: damaged, delete it to download it anew") from None
        raise DataError(
            f"SVHN's {there[0][0].name} and {there[1][0].name} are not in {root} and could not be downloaded "
            f"({type(error).__name__}: {first_line(error).rstrip(' :')}); where there is a network run "
            f"`python scripts/prefetch_data.py svhn --data {root}`, or take data=photographs, which come inside "
            f"packages"
        ) from None
    parts = [(np.ascontiguousarray(part.data.transpose(0, 2, 3, 1)), part.labels) for part in (train, test)]
    return str(root), parts[0], parts[1]


# --- photographs -----------------------------------------------------------------------------------------------------

SHORT_SIDE, HELD_OUT = 96, 36  # pixels: of a photograph, and of the strip at its end that is held out
CROPS = (500, 300)  # of a photograph, to train on and held out


def _photographs(root: str) -> tuple[str, Raw, Raw]:
    """Crops of ten photographs, each a class: textures, and no objects."""
    try:
        from matplotlib.cbook import get_sample_data
        from PIL import Image
        from skimage import data as skimage_data
        from sklearn.datasets import load_sample_image
    except ModuleNotFoundError as error:
        raise DataError(
            f"data=photographs needs the package {error.name}: pip install scikit-image scikit-learn matplotlib"
        ) from None
    names = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket")
    pictures = [Image.fromarray(getattr(skimage_data, name)()).convert("RGB") for name in names]
    pictures += [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    pictures.append(Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False))).convert("RGB"))
    generator = np.random.default_rng(0)
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for picture in pictures:
        scale = SHORT_SIDE / min(picture.size)
        width, height = (round(scale * side) for side in picture.size)
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BOX))
        if height > width:  # the strip is at the end of the long side
            shown, held_out = pixels[:-HELD_OUT], pixels[-HELD_OUT:]
        else:
            shown, held_out = pixels[:, :-HELD_OUT], pixels[:, -HELD_OUT:]
        for part, source, count in zip(parts, (shown, held_out), CROPS, strict=True):
            tops, lefts = (generator.integers(0, side - PIXELS + 1, count) for side in source.shape[:2])
            part += [source[y : y + PIXELS, x : x + PIXELS] for y, x in zip(tops, lefts, strict=True)]
    labels = [np.repeat(np.arange(len(pictures)), count) for count in CROPS]
    return "photographs", (np.stack(parts[0]), labels[0]), (np.stack(parts[1]), labels[1])


_LOADERS: dict[str, Callable[[str], tuple[str, Raw, Raw]]] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "photographs": _photographs,
    "svhn": _svhn,
}
