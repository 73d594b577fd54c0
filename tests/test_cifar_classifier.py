"""The image classifier: the published networks, inputs made on the device, and runs to the bit."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from reltrust.experiments.cifar_classifier import figure
from reltrust.experiments.cifar_classifier.task import MEAN, STD, ImageClassifier
from torch import nn
from torch.nn import functional as F

from reltrust.data import rgb
from reltrust.data.rgb import RgbData, RgbExamples
from reltrust.errors import SettingsError
from reltrust.models.resnet import Block, PreActBlock, ResNet18, Thinned
from reltrust.records.store import Status
from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import select
from reltrust.settings import Settings
from runs import metrics, record_of, run, stopped

Resolve = Callable[..., Settings]


@pytest.fixture
def small(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    def images(n: int, seed: int) -> RgbExamples:
        labels = torch.arange(n) % 10
        drawn = torch.randint(0, 60, (n, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
        drawn[torch.arange(n), labels % 3] += 19 * labels[:, None, None]
        return RgbExamples(drawn.byte(), labels)

    data = RgbData(images(500, 0), images(100, 1), 10)
    monkeypatch.setattr(rgb, "load", lambda name, root, device=None: data)
    return lambda *words: settings("experiment=cifar_classifier", *words)


def task_of(settings: Settings) -> ImageClassifier:
    task = settings.task.build(settings, torch.device("cpu"))
    assert isinstance(task, ImageClassifier)
    return task


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "count"), [("resnet18", 11_173_962), ("preact_resnet18", 11_171_146)])
def test_the_numbers_of_parameters_are_the_published_ones(architecture: str, count: int) -> None:
    """Those of the code for CIFAR that is in common use."""
    model = ResNet18(architecture, 64, 10)  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == count


def test_the_size_is_halved_three_times_and_a_stage_has_twice_the_channels_of_the_one_before() -> None:
    model = ResNet18("resnet18", 4, 7)
    shapes = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert shapes == [(c, s, s) for c, s in ((4, 32), (8, 16), (16, 8), (32, 4)) for _ in range(2)]


def normalised(x: torch.Tensor) -> torch.Tensor:
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    return (x - mean) / (var + 1e-5).sqrt()


@pytest.mark.parametrize("stride", [1, 2])
def test_blocks_are_their_literal_form(stride: int) -> None:
    torch.manual_seed(0)
    x, outputs = torch.randn(4, 3, 8, 8).double(), 3 * stride

    def conv(x: torch.Tensor, layer: nn.Conv2d, stride: int) -> torch.Tensor:
        return F.conv2d(x, layer.weight, stride=stride, padding=layer.weight.shape[2] // 2)

    after = Block(3, outputs, stride, affine=False).double()
    inner = normalised(conv(normalised(conv(x, after.conv1, stride)).relu(), after.conv2, 1))
    shortcut = x if stride == 1 else normalised(conv(x, after.shortcut[0], 2))  # type: ignore[index]
    torch.testing.assert_close(after(x), (inner + shortcut).relu())

    before = PreActBlock(3, outputs, stride, affine=False).double()
    y = normalised(x).relu()
    inner = conv(normalised(conv(y, before.conv1, stride)).relu(), before.conv2, 1)
    shortcut = x if before.shortcut is None else conv(y, before.shortcut, 2)
    torch.testing.assert_close(before(x), inner + shortcut)


@pytest.mark.parametrize("channels", [2, 4, 8, 16])
def test_a_thinned_convolution_is_the_literal_one_where_channels_come_last_too(channels: int) -> None:
    torch.manual_seed(0)
    layer, x = (
        Thinned(channels, 2 * channels, 2).to(memory_format=torch.channels_last),
        torch.randn(50, channels, 32, 32),
    )
    inputs = x.contiguous(memory_format=torch.channels_last).requires_grad_(), x.double().requires_grad_()
    weights = layer.weight, layer.weight.detach().double().requires_grad_()
    outputs = layer(inputs[0]), F.conv2d(inputs[1], weights[1], stride=2)
    torch.testing.assert_close(outputs[0].double(), outputs[1], rtol=1e-4, atol=1e-4)
    for out in outputs:
        out.square().sum().backward()
    for fast, literal in (inputs, weights):
        torch.testing.assert_close(fast.grad.double(), literal.grad, rtol=1e-4, atol=1e-2)  # type: ignore[union-attr]


@pytest.mark.parametrize("architecture", ["resnet18", "preact_resnet18"])
def test_without_gains_and_biases_every_parameter_is_a_weight_that_madam_moves(architecture: str) -> None:
    model = ResNet18(architecture, 4, 10, affine=False)  # type: ignore[arg-type]
    assert all(p.dim() == 4 for name, p in model.named_parameters() if not name.startswith("readout"))
    assert not any(bool((p == 0).all()) for p in model.parameters())


# --- the task --------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_normalised_images(small: Resolve) -> None:
    task = task_of(small("task.augment=false"))
    images, labels = task.train.batch(task.order.batch(0))
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (MEAN, STD))
    logits = task.module((images / 255 - mean) / std)
    loss, accuracy = task.loss(0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    assert float(accuracy) == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_what_is_mirrored_and_cut_off_is_a_function_of_seed_and_step(small: Resolve) -> None:
    def seen(settings: Settings, step: int) -> torch.Tensor:
        task, inputs = task_of(settings), []
        task.module.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        task.loss(step)
        return inputs[0]

    plain, one = seen(small("task.augment=false"), 3), seen(small(), 3)
    assert not torch.equal(plain, one)
    assert torch.equal(one, seen(small(), 3))
    assert not torch.equal(one, seen(small("seed=1"), 3))
    assert one.shape == plain.shape


def test_a_run_learns_and_goes_on_to_the_bit_when_stopped(small: Resolve, tmp_path: Path) -> None:
    words = ["training.steps=60", "training.log_every=20", "training.evaluate_every=20", "schedule=constant"]
    whole, broken = (small(*words, f"machine.results={tmp_path / name}") for name in ("a", "b"))
    assert run(whole) is Status.FINISHED
    with stopped(25):
        assert run(broken) is Status.PREEMPTED
    assert run(broken) is Status.FINISHED
    assert metrics(whole) == metrics(broken)
    assert record_of(whole).summary["train_accuracy"] > 0.3
    assert 0 <= record_of(whole).summary["test_accuracy"] <= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("task.architecture=vgg", "task.architecture='vgg': must be "),
        ("task.channels=0", "task.channels=0: "),
        ("task.examples=5001", "task.examples=5001: must be at most the 5000 of data=photographs"),
        ("data=wikipedia", "data=wikipedia: experiment=cifar_classifier needs colour images: cifar10, cifar100, "),
        ("training.batch_size=501", "training.batch_size=501: must be at most 500, task.examples"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: Resolve, words: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings("experiment=cifar_classifier", *words.split())
    assert str(refused.value).startswith(said)


# --- the verdicts ----------------------------------------------------------------------------------------------------


def of_losses(arm: str, losses: dict[float, float]) -> pd.DataFrame:
    rows = [
        {"arm": arm, "lr": lr, "seed": seed, "status": "finished", "train_loss": loss, "test_accuracy": 1 - loss / 10}
        for lr, loss in losses.items()
        for seed in range(2)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ({0.1: 1.0, 0.01: 0.1, 0.001: 0.2}, Verdict.REPRODUCED),
        ({0.1: 0.095, 0.01: 0.1, 0.001: 0.2}, Verdict.PARTLY),
        ({0.1: 0.05, 0.01: 0.1, 0.001: 0.2}, Verdict.NOT_REPRODUCED),
        ({0.01: 0.1, 0.001: 0.2}, Verdict.NOT_RUN),
        ({0.1: 1.0, 1.0: 0.1, 0.001: 0.2}, Verdict.NOT_RUN),
    ],
)
def test_the_best_learning_rate_is_judged_by_its_rule(losses: dict[float, float], verdict: Verdict) -> None:
    of_fromage, _ = figure.REPORT.claims
    assert of_fromage.judged(select(of_losses("fromage", losses), figure.BY_LOSS, "small")).verdict is verdict


def test_accuracies_are_better_when_they_are_larger() -> None:
    _, of_madam = figure.REPORT.claims
    runs = of_losses("madam", {0.1: 4.0, 0.01: 1.0, 0.001: 3.0})
    judged = of_madam.judged(select(runs, figure.BY_ACCURACY, "small"))
    assert (judged.verdict, judged.ours) == (Verdict.REPRODUCED, "0.01: 0.9, next best 0.7 (n=2)")
    assert judged.published == "0.01: 0.9046 (test accuracy)"
