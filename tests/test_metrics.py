"""Distances of feature sets: against closed forms and another implementation; what they show of generated images."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from reltrust.data import rgb
from reltrust.errors import DataError
from reltrust.metrics import features
from reltrust.metrics.features import FeatureNetwork
from reltrust.metrics.frechet import Moments, frechet_distance
from reltrust.metrics.manifold import precision_recall
from reltrust.metrics.networks import DIMS, distance_name
from reltrust.metrics.reference import features_of, reference


def moments(rows: Tensor, *, size: int = 1000) -> Moments:
    found = Moments(rows.shape[1])
    found.update(rows[:0])  # an empty batch is none
    for part in rows.split(size):
        found.update(part)
    return found


def rows(n: int, dims: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dims, dims, generator=generator) / math.sqrt(dims)
    return scale * torch.randn(n, dims, generator=generator) @ mixing + shift


# --- moments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_moments_of_batches_are_those_of_all_rows(size: int) -> None:
    """Also far from zero, where a difference of mean squares would have no digit left."""
    all_rows = rows(300, 5).double() + 1e6
    found = moments(all_rows, size=size)
    torch.testing.assert_close(found.mean, all_rows.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.covariance, all_rows.T.cov(), rtol=1e-7, atol=1e-9)
    assert found.count == 300


def test_fewer_rows_than_features_make_a_singular_covariance() -> None:
    assert moments(rows(20, 20)).is_singular
    assert not moments(rows(21, 20)).is_singular


# --- the distance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2_000, 60])
def test_the_distance_is_that_of_another_implementation(n: int) -> None:
    """torch-fidelity's, from the same features; with fewer rows than features, too."""
    one, other = rows(n, 96, 0).double(), rows(n, 96, 1, scale=1.3, shift=0.2).double()
    statistics = [fid_features_to_statistics(part) for part in (one, other)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(moments(one), moments(other)) == pytest.approx(expected, rel=1e-3)


def test_the_distance_of_gaussians_is_the_closed_form() -> None:
    """With covariances that commute: the squares of the differences of means and of standard deviations."""
    one, other = Moments(3), Moments(3)
    turn = torch.linalg.qr(rows(3, 3).double()).Q
    stds = torch.tensor([[1.0, 2.0, 0.5], [1.5, 0.1, 0.5]], dtype=torch.float64)
    for found, std, mean in zip((one, other), stds, (0.0, 2.0), strict=True):
        found.count, found.mean = 11, torch.full((3,), mean, dtype=torch.float64)
        found.scatter = 10 * turn @ torch.diag(std.square()) @ turn.T
    expected = 3 * 4 + float((stds[0] - stds[1]).square().sum())
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)


def test_the_distance_is_symmetric_and_zero_on_itself() -> None:
    one, other = moments(rows(500, 40)), moments(rows(400, 40, 1, scale=0.7))
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), rel=1e-9)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-8 * float(one.covariance.trace()))


def test_a_distance_of_collapsed_samples_is_finite() -> None:
    same = torch.ones(50, 8)
    assert 0 < frechet_distance(moments(rows(100, 8)), moments(same)) < math.inf


def test_other_numbers_of_features_and_single_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="features=3 and 4: must be the same number in both"):
        frechet_distance(moments(rows(9, 3)), moments(rows(9, 4)))
    with pytest.raises(ValueError, match="rows=9 and 1: must be at least 2 in both"):
        frechet_distance(moments(rows(9, 3)), moments(rows(1, 3)))


# --- precision and recall --------------------------------------------------------------------------------------------


def literal_share(one: Tensor, others: Tensor, k: int) -> float:
    inside = 0
    for row in one:
        radii = [sorted(float((other - x).norm()) for x in others)[k] for other in others]
        inside += any(float((row - other).norm()) <= radius + 1e-5 for other, radius in zip(others, radii, strict=True))
    return inside / len(one)


def test_precision_and_recall_are_their_literal_form() -> None:
    real, generated = rows(30, 4), rows(25, 4, 1, shift=0.5)
    found = precision_recall(real, generated, k=2)
    assert found.precision == pytest.approx(literal_share(generated, real, 2))
    assert found.recall == pytest.approx(literal_share(real, generated, 2))
    assert 0 < found.precision < 1


def test_collapse_onto_genuine_rows_has_precision_and_no_recall() -> None:
    real = rows(200, 6)
    found = precision_recall(real, real[:1].expand(100, -1))
    assert found.precision == 1
    assert found.recall < 0.02


def test_wrong_neighbours_are_refused() -> None:
    for k in (0, 5):
        with pytest.raises(ValueError, match=rf"k={k}: must be at least 1 and less than the 5 and 9 rows"):
            precision_recall(rows(5, 2), rows(9, 2), k=k)


# --- features of images ----------------------------------------------------------------------------------------------


def test_the_distance_grows_with_noise_on_genuine_images() -> None:
    network, images = features.load("efficientnet_lite0"), rgb.load("photographs", "").train.images[::50]
    genuine, found = features_of(images.split(50), network), []
    for noise in (0, 16, 48, 96):
        drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        noisy = (images + noise * drawn).round().clamp(0, 255).byte()
        found.append(frechet_distance(features_of(noisy.split(50), network).moments, genuine.moments))
    assert found[0] == pytest.approx(0, abs=1e-3)
    assert found == sorted(found)
    assert found[1] > 1


def test_an_offline_network_knows_a_cat_from_a_rocket() -> None:
    """The nearest mean of others tells ten photographs apart: preprocessing and weights belong together."""
    data = rgb.load("photographs", "")
    network = features.load("efficientnet_lite0")
    found = features_of(data.train.images[::20].split(50), network).features
    assert found.shape == (250, DIMS["efficientnet_lite0"])
    labels = data.train.labels[::20]
    means = torch.stack([found[labels == c][::2].mean(0) for c in range(10)])
    held_out = torch.cat([found[labels == c][1::2] for c in range(10)])
    expected = torch.cat([labels[labels == c][1::2] for c in range(10)])
    assert float((torch.cdist(held_out, means).argmin(1) == expected).float().mean()) > 0.9


def test_only_inception_distances_are_called_fid() -> None:
    assert [distance_name(name) for name in DIMS] == ["FD (efficientnet_lite0)", "FID"]


def test_a_network_that_cannot_be_had_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", refuse)
    with pytest.raises(DataError, match=r"task\.features=inception: its weights could not be downloaded .*no route"):
        features.load("inception")
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(DataError, match="efficientnet_lite_pytorch: pip install efficientnet-lite"):
        features.load("efficientnet_lite0", "meta")


def network_of_means(sha: str = "a") -> FeatureNetwork:
    return FeatureNetwork("means", 3, lambda images: images.float().mean((2, 3)), sha)


def test_features_of_genuine_images_are_kept_for_these_images_and_this_network(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (120, 3, 32, 32), dtype=torch.uint8)
    first = reference(images, network_of_means(), tmp_path)
    (path,) = (tmp_path / "features").iterdir()
    np.save(path, first.features.numpy() + 1)  # to see that it is read
    again = reference(images, network_of_means(), tmp_path)
    assert torch.equal(again.features, first.features + 1)
    assert torch.equal(reference(images, network_of_means("b"), tmp_path).features, first.features)
    assert torch.equal(reference(images.flip(0), network_of_means(), tmp_path).features, first.features.flip(0))
    path.write_bytes(b"garbage")
    assert torch.equal(reference(images, network_of_means(), tmp_path).features, first.features)
    assert torch.equal(reference(images, network_of_means(), tmp_path).moments.covariance, first.moments.covariance)
