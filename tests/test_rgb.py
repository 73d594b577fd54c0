"""Colour images: read and checked, photographs cut out, mirror images and crops made on the device."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reltrust import data
from reltrust.data import draws, rgb
from reltrust.data.rgb import RgbData
from reltrust.data.sizes import CLASSES, RGB_EXAMPLES
from reltrust.errors import DataError


@pytest.fixture(scope="module")
def photographs() -> RgbData:
    return rgb.load("photographs", "nowhere")


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like CIFAR-10's binary version, of 20 images in each file."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = numbers.integers(0, 256, (20, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / name)
    rgb._load.cache_clear()
    monkeypatch.setattr(rgb, "SHA256", {})
    return tmp_path


# --- data sets -------------------------------------------------------------------------------------------------------


def test_photographs_are_as_many_and_of_as_many_classes_as_is_said(photographs: RgbData) -> None:
    assert (len(photographs.train), len(photographs.test)) == RGB_EXAMPLES["photographs"]
    assert photographs.classes == CLASSES["photographs"] == 10
    assert photographs.train.images.dtype == torch.uint8
    assert photographs.train.images.shape[1:] == (3, 32, 32)
    assert torch.bincount(photographs.train.labels).tolist() == [500] * 10
    assert torch.bincount(photographs.test.labels).tolist() == [300] * 10


def test_no_held_out_crop_shares_a_pixel_with_a_training_crop(photographs: RgbData) -> None:
    """Of a photograph with few equal pixels: no row of a held out crop occurs in a training crop."""
    part = {
        name: images.images[images.labels == 0]
        for name, images in (("train", photographs.train), ("test", photographs.test))
    }
    shown = {row.tobytes() for row in part["train"].permute(0, 2, 3, 1).reshape(-1, 96).numpy() if row.std() > 20}
    held_out = [row.tobytes() for row in part["test"].permute(0, 2, 3, 1).reshape(-1, 96).numpy() if row.std() > 20]
    assert len(held_out) > 1000
    assert not shown & set(held_out)


def test_the_binary_version_of_cifar10_is_read_record_by_record(binary: Path) -> None:
    found = rgb.load("cifar10", binary)
    assert (len(found.train), len(found.test)) == (100, 20)
    raw = np.fromfile(binary / "cifar-10-batches-bin" / "data_batch_2.bin", np.uint8)[3 * 3073 : 4 * 3073]
    images, labels = found.train.batch(torch.tensor([23]))
    assert int(labels) == raw[0]
    assert images.flatten().tolist() == raw[1:].tolist()


def test_the_checksum_is_of_both_parts_in_the_published_order(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = rgb.load("cifar10", binary)
    monkeypatch.setattr(rgb, "SHA256", {"cifar10": found.sha256})
    rgb._load.cache_clear()
    rgb.load("cifar10", binary)
    path = binary / "cifar-10-batches-bin" / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    rgb._load.cache_clear()
    with pytest.raises(DataError, match="cifar-10-batches-bin: damaged, not the images that data=cifar10 means"):
        rgb.load("cifar10", binary)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            "damaged: 61459 bytes are no number of records of 3073",
        ),
        (lambda path: path.write_bytes(b""), "damaged: 0 bytes"),
        (lambda path: path.unlink(), "data_batch_3.bin: No such file"),
        (lambda path: path.write_bytes(b"\x0a" + path.read_bytes()[1:]), r"labels in 0\.\.10: must be 100, in 0\.\.9"),
    ],
)
def test_a_damaged_file_is_named(binary: Path, damage: object, said: str) -> None:
    damage(binary / "cifar-10-batches-bin" / "data_batch_3.bin")  # type: ignore[operator]
    with pytest.raises(DataError, match=said):
        rgb.load("cifar10", binary)


def test_images_of_another_size_or_kind_are_refused() -> None:
    labels = np.zeros(2, np.int64)
    with pytest.raises(DataError, match=r"here: images are uint8 \(28, 28, 3\): must be uint8 \(32, 32, 3\)"):
        rgb.examples("here", np.zeros((2, 28, 28, 3), np.uint8), labels, 10)
    with pytest.raises(DataError, match=r"images are float32 \(32, 32, 3\)"):
        rgb.examples("here", np.zeros((2, 32, 32, 3), np.float32), labels, 10)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_without_a_network_the_error_says_how_to_prefetch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    with pytest.raises(DataError, match=rf"prefetch_data.py {name} --data .* or take data=photographs"):
        rgb.load(name, tmp_path)
    folder = tmp_path / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    folder.mkdir()
    (folder / ("data_batch_1" if name == "cifar10" else "train")).write_bytes(b"garbage")
    with pytest.raises(DataError, match="damaged, delete it to download it anew"):
        rgb.load(name, tmp_path)


def test_photographs_without_their_package_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    rgb._load.cache_clear()
    with pytest.raises(DataError, match="skimage: pip install scikit-image"):
        rgb.load("photographs", "nowhere")


def test_a_data_set_of_any_kind_is_loaded_by_its_name(photographs: RgbData) -> None:
    assert len(data.load("photographs", "nowhere").train) == 5_000
    assert data.load("digits", "nowhere").classes == 10


# --- on the device ---------------------------------------------------------------------------------------------------


def some_images(n: int = 64) -> Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_half_of_the_images_are_mirrored() -> None:
    images = some_images(1000)
    found = draws.flipped(images, draws.generator(0))
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert bool((mirrored ^ (found == images).flatten(1).all(1)).all())
    assert 450 < int(mirrored.sum()) < 550


def test_crops_are_cut_out_of_the_padded_image_in_every_place() -> None:
    images = some_images(600)
    found = draws.cropped(images, draws.generator(0), 4)
    assert found.dtype == torch.uint8
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    places = set()
    for i in range(len(images)):
        fits = [
            (y, x) for y in range(9) for x in range(9) if torch.equal(padded[i, :, y : y + 32, x : x + 32], found[i])
        ]
        assert len(fits) == 1
        places.add(fits[0])
    assert len(places) == 81


def test_what_is_drawn_depends_on_every_number_of_the_key() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]
    drawn = {float(torch.rand((), generator=draws.generator(*key))) for key in keys}
    assert len(drawn) == len(keys)
    assert float(torch.rand((), generator=draws.generator(0, 0, 0))) in drawn
