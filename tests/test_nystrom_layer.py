"""The Nystrom layer: its approximation is exact where theory says so, its gradients are those of autograd."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.models import nystrom
from reltrust.models.convolutional import ConvolutionalFeatures, packed_features
from reltrust.models.nystrom import KERNELS, NystromLayer, inverse_root, kernel_of

NAMES = pytest.mark.parametrize("name", list(KERNELS))


def points(n: int, d: int, seed: int = 0) -> Tensor:
    """Non-negative, with some zeros, of length 1; float64."""
    drawn = torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize((drawn - 0.3).clamp(min=0), dim=1)


def literal(name: str, x: Tensor, y: Tensor, gamma: float) -> Tensor:
    """The kernel as its equation reads, pair by pair and feature by feature."""
    found = torch.zeros(len(x), len(y), dtype=x.dtype)
    for (i, a), (j, b) in itertools.product(enumerate(x), enumerate(y)):
        total = a + b
        if name == "linear":
            found[i, j] = (a * b).sum()
        elif name == "rbf":
            found[i, j] = torch.exp(-gamma * (a - b).square().sum())
        elif name == "chi2":
            found[i, j] = sum((2 * p * q / t for p, q, t in zip(a, b, total, strict=True) if t > 0), torch.tensor(0.0))
        else:
            apart = ((p - q) ** 2 / t for p, q, t in zip(a, b, total, strict=True) if t > 0)
            found[i, j] = torch.exp(-gamma * sum(apart, torch.tensor(0.0)))
    return found


# --- kernels ---------------------------------------------------------------------------------------------------------


@NAMES
def test_a_kernel_is_its_equation(name: str) -> None:
    x, y = points(5, 7), points(4, 7, seed=1)
    assert torch.allclose(kernel_of(name, 0.7)(x, y), literal(name, x, y, 0.7), atol=1e-12)


@NAMES
def test_a_kernel_of_stacks_is_that_of_each(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.stack([points(5, 7, s) for s in range(3)]), torch.stack([points(4, 7, s + 9) for s in range(3)])
    kernel = kernel_of(name, 2.0)
    for chunk in (1, 60, 300, 10**6):  # rows, and members, go by in chunks
        monkeypatch.setattr(nystrom, "_CHUNK", chunk)
        assert torch.allclose(kernel(x, y), torch.stack([kernel(a, b) for a, b in zip(x, y, strict=True)]), atol=1e-14)


@NAMES
@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_gradients_are_those_of_finite_differences(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nystrom, "_CHUNK", chunk)
    x, y = (torch.rand(2, n, 4, dtype=torch.float64).add_(0.1).requires_grad_() for n in (3, 2))
    assert torch.autograd.gradcheck(kernel_of(name, 0.5), (x, y))


def test_two_features_that_are_both_zero_have_no_part_in_chi2_nor_in_its_gradient() -> None:
    x = torch.tensor([[0.0, 1.0]], requires_grad=True)
    y = torch.tensor([[0.0, 1.0]], requires_grad=True)
    value = nystrom.chi2(x, y)
    value.sum().backward()
    assert value.item() == 1
    assert x.grad is not None
    assert y.grad is not None
    assert x.grad.tolist() == y.grad.tolist() == [[0.0, 0.5]]


def test_minus_the_chi2_distance_is_not_positive_semidefinite_and_what_is_used_is() -> None:
    """The authors' code has -sum (x - y)^2 / (x + y) as a kernel; 2xy/(x + y) is one."""
    x = points(30, 6)
    apart = -torch.log(nystrom.exp_chi2(x, x))
    assert torch.linalg.eigvalsh(-apart)[0] < -0.1
    for name in ("chi2", "exp_chi2"):
        assert torch.linalg.eigvalsh(kernel_of(name, 1.0)(x, x))[0] > -1e-12


# --- the approximation -----------------------------------------------------------------------------------------------


@NAMES
def test_with_all_points_as_landmarks_and_the_root_the_kernel_is_exact(name: str) -> None:
    x = points(40, 12)
    k = kernel_of(name, 1.5)(x, x)
    phi = NystromLayer(x, kernel=name, gamma=1.5)(x)
    assert float((phi @ phi.T - k).detach().abs().max()) < 1e-10


@NAMES
def test_with_fewer_landmarks_what_is_missing_is_positive_semidefinite_and_falls(name: str) -> None:
    x = points(40, 60)
    k, norms = kernel_of(name, 1.5)(x, x), []
    for m in (2, 5, 10, 20, 40):
        phi = NystromLayer(x[:m], kernel=name, gamma=1.5)(x).detach()
        missing = k - phi @ phi.T
        assert torch.linalg.eigvalsh(missing)[0] > -1e-10
        assert float(missing[:m, :m].abs().max()) < 1e-10
        norms.append(float(torch.linalg.matrix_norm(missing)))
    assert all(after < before for before, after in itertools.pairwise(norms))
    assert norms[0] > 0.1
    assert norms[-1] < 1e-10


def test_of_several_kernels_it_is_that_of_their_sum() -> None:
    x = points(20, 8)
    layer = NystromLayer(x, kernel=["rbf", nystrom.linear, "chi2"], gamma=0.8)
    phi = layer(x).detach()
    assert phi.shape == (20, 60) == (20, layer.out_features)
    total = nystrom.rbf(x, x, 0.8) + x @ x.T + nystrom.chi2(x, x)
    assert torch.allclose(phi @ phi.T, total, atol=1e-10)


def test_fewer_columns_are_the_largest_eigenvalues() -> None:
    x = points(20, 30)
    k = nystrom.rbf(x, x)
    values, vectors = torch.linalg.eigh(k)
    best = vectors[:, -6:] @ torch.diag(values[-6:]) @ vectors[:, -6:].T
    phi = NystromLayer(x, out_features=6)(x).detach()
    assert torch.allclose(phi @ phi.T, best, atol=1e-10)


def test_the_pseudo_inverse_root_of_a_singular_matrix_leaves_its_null_space_out() -> None:
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    matrix = basis[:, :4] @ torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)) @ basis[:, :4].T
    root = inverse_root(matrix, 6)
    assert torch.allclose(root @ root, torch.linalg.pinv(matrix), atol=1e-10)


def test_a_matrix_that_is_not_finite_has_no_root_and_leaves_its_neighbours_alone() -> None:
    """A member of a pack that diverges must not end the others: eigenvalues of such a matrix are an error."""
    x = points(6, 8)
    stack = torch.stack([x @ x.T, torch.full((6, 6), torch.nan, dtype=torch.float64)])
    roots = inverse_root(stack, 6)
    assert torch.equal(roots[0], inverse_root(stack[0], 6))
    assert bool(roots[1].isnan().all())


@pytest.mark.parametrize("name", ["rbf", "chi2", "exp_chi2"])
def test_under_autocast_kernels_and_their_roots_are_in_single_precision(name: str) -> None:
    x = points(12, 8).float()
    layer = NystromLayer(x, kernel=name, adaptive=False)
    with torch.autocast("cpu", torch.bfloat16):
        phi = layer(x)
    assert torch.allclose(phi @ phi.T, kernel_of(name, 1.0)(x, x), atol=1e-4)


def test_without_learning_it_is_the_same_at_the_start_and_follows_its_features_later() -> None:
    images = torch.rand(9, 1, 4, 4, dtype=torch.float64)
    features = ConvolutionalFeatures((1, 4, 4), [[8]]).double()
    adaptive = NystromLayer(images, features)
    fixed = NystromLayer(images, features, adaptive=False)
    assert [name for name, _ in fixed.named_parameters()] == [
        f"features.{name}" for name, _ in features.named_parameters()
    ]
    assert torch.allclose(adaptive(images), fixed(images), atol=1e-9)
    with torch.no_grad():
        for p in features.parameters():
            p.mul_(3).add_(0.1)
    f = F.normalize(features(images), dim=1)
    phi = fixed(images)
    assert torch.allclose(phi @ phi.T, nystrom.rbf(f, f), atol=1e-9)
    assert not torch.allclose(adaptive(images), phi, atol=1e-3)


@pytest.mark.parametrize("m", [6, 15])
def test_a_linear_kernel_of_as_many_landmarks_as_dimensions_is_a_linear_classifier(m: int) -> None:
    """For any linear classifier of features of length 1 there are a W and a read-out that give the same logits."""
    landmarks, x = points(m, 6), points(50, 6, seed=1)
    assert torch.linalg.matrix_rank(landmarks) == 6
    layer, readout = NystromLayer(landmarks, kernel="linear"), nn.Linear(m, 3).double()
    classifier = torch.randn(6, 3, dtype=torch.float64)
    with torch.no_grad():
        readout.bias.zero_()
        # W = 1, read-out A with landmarks' A = classifier
        layer.weights[0].copy_(torch.eye(m))
        readout.weight.copy_(torch.linalg.lstsq(landmarks.T, classifier, driver="gelsd").solution.T)
        assert torch.allclose(readout(layer(x)), x @ classifier, atol=1e-10)
    fewer = NystromLayer(landmarks[:5], kernel="linear")(x).detach()
    assert torch.linalg.matrix_rank(fewer) == 5  # with fewer it is not: no read-out has the sixth dimension


@pytest.mark.parametrize(
    ("kernel", "columns", "count"), [("rbf", None, 8 * 8), ("chi2", 3, 8 * 3), (("linear", "rbf"), 4, 2 * 8 * 4)]
)
def test_what_it_learns_is_w_alone(kernel: Any, columns: int | None, count: int) -> None:
    layer = NystromLayer(points(8, 5), kernel=kernel, out_features=columns)
    assert sum(p.numel() for p in layer.parameters()) == count
    assert layer.out_features == (columns or 8) * (1 if isinstance(kernel, str) else len(kernel))
    assert layer(points(3, 5)).shape == (3, layer.out_features)
    assert set(layer.state_dict()) == {"landmarks", *(f"weights.{i}" for i in range(len(layer.weights)))}


def test_random_weights_may_have_more_columns_than_landmarks() -> None:
    torch.manual_seed(0)
    layer = NystromLayer(points(4, 5), out_features=9, init="random")
    assert layer(points(3, 5)).shape == (3, 9)
    assert float(layer.weights[0].detach().abs().max()) <= 0.5
    assert float(layer.weights[0].detach().std()) > 0.2


def test_features_learn_from_the_images_and_from_the_landmarks() -> None:
    landmarks = torch.rand(3, 1, 4, 4)
    layer = NystromLayer(landmarks, ConvolutionalFeatures((1, 4, 4), [[4]]), kernel="chi2")
    images = torch.rand(5, 1, 4, 4, requires_grad=True)
    layer.landmarks.requires_grad_()
    layer(images).square().sum().backward()
    assert images.grad is not None
    assert layer.landmarks.grad is not None
    for grad in (images.grad, layer.landmarks.grad, *(p.grad for p in layer.parameters())):
        assert grad is not None
        assert float(grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: NystromLayer(points(4, 5), kernel="cosine"), "kernel=cosine: must be one of linear, rbf, chi2, exp_"),
        (lambda: NystromLayer(points(4, 5), kernel=[]), "kernel: must be at least one"),
        (lambda: NystromLayer(points(4, 5), gamma=0.0), r"gamma=0.0: must be above 0"),
        (lambda: NystromLayer(points(4, 5), gamma=float("nan")), r"gamma=nan: must be above 0"),
        (lambda: NystromLayer(points(0, 5)), "landmarks: must be at least one example"),
        (lambda: NystromLayer(points(4, 5), out_features=5), "out_features=5: must be between 1 and the 4 landmarks"),
        (lambda: NystromLayer(points(4, 5), out_features=0, init="random"), "out_features=0: must be at least 1"),
        (
            lambda: NystromLayer(points(4, 5), kernel="chi2")(-points(4, 5)),
            "the least is -.*: must be at least 0 under",
        ),
        (lambda: NystromLayer(-points(4, 5), kernel="chi2"), "the least is -.*: must be at least 0 under"),
        (
            lambda: NystromLayer(-points(4, 5), kernel=partial(nystrom.exp_chi2, gamma=2.0)),
            "the least is -.*: must be at least 0 under",
        ),
        (lambda: NystromLayer(points(4, 5) * torch.nan), "landmarks: their features must be finite"),
        (lambda: ConvolutionalFeatures((1, 8, 8), [[4]] * 4), "stages=4: must be at most 3"),
    ],
)
def test_what_it_cannot_do_is_refused(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


# --- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_packed_features_are_those_of_each_network(activation: Any) -> None:
    stages = [[3, 4], [5]]
    networks = [ConvolutionalFeatures((2, 8, 9), stages, activation) for _ in range(3)]
    images = torch.randn(3, 4, 2, 8, 9)
    stacks = [torch.stack(own) for own in zip(*(one.parameters() for one in networks), strict=True)]
    found = packed_features(stacks, images, stages, activation)
    for network, own, together in zip(networks, images, found, strict=True):
        assert torch.allclose(network(own), together, atol=1e-6)
        assert together.shape == (4, network.out_features) == (4, 5 * 2 * 2)


def test_the_convolutional_part_of_vgg19_is_known_by_its_number_of_parameters() -> None:
    vgg19 = ConvolutionalFeatures((3, 32, 32), ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4))
    assert sum(p.numel() for p in vgg19.parameters()) == 20_024_384
    assert vgg19.out_features == 512


def test_with_batch_normalisation_features_do_not_depend_on_the_scale_of_a_convolution() -> None:
    network, images = ConvolutionalFeatures((1, 4, 4), [[3]], batch_norm=True), torch.randn(6, 1, 4, 4)
    before = network(images)
    with torch.no_grad():
        next(network.parameters()).mul_(10)
    assert torch.allclose(network(images), before, atol=1e-3)
    assert float(before.detach().min()) >= 0  # the activation is the last
