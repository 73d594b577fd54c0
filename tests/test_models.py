"""The multilayer perceptron, and the task that trains it."""

import math
from collections.abc import Sequence

import pytest
import torch
from reltrust.experiments.mlp_depth.task import MlpDepth
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.data.images import Examples, ImageData
from reltrust.data.order import BatchOrder
from reltrust.models.mlp import MLP, Init

CPU = torch.device("cpu")
DEPTHS = pytest.mark.parametrize("hidden_layers", [1, 2, 5])
INITS = pytest.mark.parametrize("init", ["torch", "he"])


def mlp(seed: int, pixels: int, width: int, hidden_layers: int, classes: int, init: Init = "torch") -> MLP:
    """An MLP drawn from ``seed``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLP(pixels, width, hidden_layers, classes, init)


def sequential(model: MLP) -> nn.Sequential:
    """The network of plain layers that has the same weights, copied."""
    weights = [p.detach().clone() for p in model.parameters()]
    layers: list[nn.Module] = []
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# --- MLP -------------------------------------------------------------------------------------------------------------


@DEPTHS
def test_an_mlp_has_as_many_hidden_layers_as_asked_for_and_a_readout(hidden_layers: int) -> None:
    model = mlp(0, 6, 5, hidden_layers, 3)
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes == [(5, 6), (5,)] + [(5, 5), (5,)] * (hidden_layers - 1) + [(3, 5), (3,)]
    count = (6 * 5 + 5) + (hidden_layers - 1) * (5 * 5 + 5) + (5 * 3 + 3)
    assert sum(p.numel() for p in model.parameters()) == count
    assert all(p.requires_grad for p in model.parameters())


def test_the_published_network_of_one_hidden_layer_has_its_number_of_parameters() -> None:
    assert sum(p.numel() for p in mlp(0, 784, 784, 1, 10).parameters()) == 784 * 784 + 784 + 784 * 10 + 10


@DEPTHS
def test_the_default_initial_weights_are_those_of_plain_linear_layers_of_the_same_seed(hidden_layers: int) -> None:
    model = mlp(3, 6, 5, hidden_layers, 4)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        plain = [nn.Linear(6, 5), *(nn.Linear(5, 5) for _ in range(hidden_layers - 1)), nn.Linear(5, 4)]
    expected = [p for layer in plain for p in layer.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), expected, strict=True))


def test_the_default_initial_weights_fill_the_range_of_one_over_the_root_of_the_fan_in() -> None:
    model = mlp(0, 400, 100, 2, 50)
    for (name, p), fan_in in zip(model.named_parameters(), [400, 400, 100, 100, 100, 100], strict=True):
        bound = 1 / math.sqrt(fan_in)
        assert p.abs().max() <= bound, name
        assert p.abs().max() > 0.9 * bound, name
        assert p.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.25), name


def test_he_weights_have_the_variance_two_over_the_fan_in_and_biases_are_zero() -> None:
    model = mlp(0, 400, 200, 3, 100, init="he")
    parameters = list(model.parameters())
    for weight, fan_in in zip(parameters[::2], [400, 200, 200, 200], strict=True):
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)
        assert abs(weight.mean().item()) < 5 * math.sqrt(2 / fan_in / weight.numel())
        assert weight.abs().max() > 3 * math.sqrt(2 / fan_in)  # normal, and not uniform: that ends at sqrt(3)
    assert all((bias == 0).all() for bias in parameters[1::2])


@INITS
@DEPTHS
def test_outputs_and_gradients_equal_those_of_a_plain_sequential_network(hidden_layers: int, init: Init) -> None:
    model = mlp(1, 6, 5, hidden_layers, 3, init=init)
    plain = sequential(model)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    logits, expected = model(ours), plain(theirs)
    assert logits.shape == (8, 3)
    torch.testing.assert_close(logits, expected)
    F.cross_entropy(logits, labels).backward()
    F.cross_entropy(expected, labels).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
        assert q.grad is not None
    assert any(p.grad.abs().max() > 0 for p in model.parameters() if p.grad is not None)


def test_the_readout_gives_negative_outputs_too() -> None:
    logits = mlp(0, 6, 5, 2, 10)(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))
    assert (logits < 0).any()
    assert (logits > 0).any()


def test_the_network_does_not_write_to_its_input() -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    mlp(0, 6, 5, 3, 2)(x)
    assert torch.equal(x, before)


# --- MlpDepth --------------------------------------------------------------------------------------------------------


def data(train: int = 40, test: int = 15, pixels: int = 6, classes: int = 4, seed: int = 0) -> ImageData:
    generator = torch.Generator().manual_seed(seed)

    def examples(n: int) -> Examples:
        return Examples(
            torch.randn(n, pixels, generator=generator), torch.randint(0, classes, (n,), generator=generator)
        )

    return ImageData(examples(train), examples(test), classes)


def task(images: ImageData, *, seed: int = 0, batch_size: int = 8, init: Init = "torch") -> MlpDepth:
    return MlpDepth(images, hidden_layers=2, width=5, init=init, batch_size=batch_size, seed=seed, device=CPU)


def weights(of: MlpDepth) -> list[Tensor]:
    return [p.detach() for p in of.module.parameters()]


def same(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True))


def cross_entropy(logits: Tensor, labels: Tensor) -> list[float]:
    """Minus the log of the softmax at the label, for each image, in plain arithmetic."""
    return [
        math.log(sum(math.exp(z) for z in row)) - row[label]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]


@INITS
def test_initial_weights_depend_on_the_seed_alone(init: Init) -> None:
    first = weights(task(data(), seed=1, init=init))
    torch.rand(7)  # the global state is another one now
    assert same(first, weights(task(data(seed=9), seed=1, batch_size=20, init=init)))
    assert not same(first, weights(task(data(), seed=2, init=init)))


@INITS
def test_building_the_task_leaves_the_global_random_state_as_it_was(init: Init) -> None:
    state = torch.get_rng_state()
    task(data(), seed=5, init=init)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_network_fits_the_data() -> None:
    shapes = [tuple(w.shape) for w in weights(task(data(pixels=7, classes=3)))]
    assert shapes == [(5, 7), (5,), (5, 5), (5,), (3, 5), (3,)]


@pytest.mark.parametrize("step", [0, 3, 4, 11])
def test_the_loss_is_the_mean_cross_entropy_of_the_batch_and_the_accuracy_its_share_of_hits(step: int) -> None:
    images = data()
    built = task(images, seed=1)
    indices = BatchOrder(40, 8, 1, CPU).batch(step)
    x, labels = images.train.images[indices], images.train.labels[indices]
    logits = sequential(built.module)(x).detach()
    loss, accuracy = built.loss(step)
    assert loss.item() == pytest.approx(sum(cross_entropy(logits, labels)) / 8, rel=1e-5)
    hits = [max(range(4), key=row.__getitem__) == label for row, label in zip(logits.tolist(), labels, strict=True)]
    assert accuracy.item() == pytest.approx(sum(hits) / 8)
    assert loss.requires_grad
    assert not accuracy.requires_grad
    (player,) = built.players
    assert player.measures == ("train_loss", "train_accuracy")
    assert player.loss == built.loss


def test_two_tasks_of_one_seed_see_the_same_batches_and_of_two_seeds_others() -> None:
    images = data()
    losses = [[task(images, seed=seed).loss(step)[0].item() for step in range(3)] for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_the_gradient_of_the_loss_reaches_every_parameter() -> None:
    built = task(data())
    built.loss(0)[0].backward()
    for p in built.module.parameters():
        assert p.grad is not None
        assert p.grad.abs().max() > 0


@pytest.mark.parametrize("count", [15, 10_003])
def test_an_evaluation_is_the_mean_over_all_test_images(count: int) -> None:
    images = data(test=count)
    built = task(images)
    logits, labels = sequential(built.module)(images.test.images).detach(), images.test.labels
    result = built.evaluate().row
    assert set(result) == {"test_loss", "test_accuracy"}
    assert all(type(value) is float for value in result.values())
    assert result["test_loss"] == pytest.approx(sum(cross_entropy(logits, labels)) / count, rel=1e-5)
    hits = sum(
        max(range(4), key=row.__getitem__) == label for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    )
    assert result["test_accuracy"] == pytest.approx(hits / count, rel=1e-12)
    assert 0 < result["test_accuracy"] < 1


def test_an_evaluation_changes_nothing() -> None:
    built = task(data())
    before, state = [w.clone() for w in weights(built)], torch.get_rng_state()
    first = built.evaluate()
    assert built.evaluate() == first
    assert same(before, weights(built))
    assert all(p.grad is None for p in built.module.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=41"):
        task(data(), batch_size=41)
