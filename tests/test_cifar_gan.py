"""The GAN task: discriminator first, new noise for the generator, the hinge losses, samples, norms, and to the bit."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reltrust.experiments.cifar_gan.task import ClassConditionalGan, as_bytes, by_class, pixels, spread
from torch import Tensor, nn

from reltrust.data import rgb
from reltrust.data.rgb import RgbData, RgbExamples
from reltrust.errors import SettingsError
from reltrust.metrics import features
from reltrust.metrics.features import FeatureNetwork
from reltrust.records.store import Status
from reltrust.settings import Settings
from runs import metrics, program_of, record_of, run, stopped

Resolve = Callable[..., Settings]
SMALL = ["experiment=cifar_gan", "training.steps=8", "training.log_every=2", "training.evaluate_every=4"]


def images(n: int, seed: int) -> RgbExamples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 10
    drawn = torch.randint(0, 25, (n, 3, 32, 32), generator=generator) + 25 * labels[:, None, None, None]
    return RgbExamples(drawn.byte(), labels)


@pytest.fixture
def small(settings: Resolve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Resolve:
    """Settings of a small GAN on made-up images, compared by their mean colours."""
    data = RgbData(images(500, 0), images(200, 1), 10)
    network = FeatureNetwork("means", 3, lambda x: x.float().mean((2, 3)), "0")
    monkeypatch.setattr(rgb, "load", lambda name, root, device=rgb.CPU: data.to(device))
    monkeypatch.setattr(features, "load", lambda name, device: network)
    return lambda *words: settings(*SMALL, f"machine.data={tmp_path / 'data'}", *words)


def task_of(settings: Settings) -> ClassConditionalGan:
    task = settings.task.build(settings, torch.device("cpu"))
    assert isinstance(task, ClassConditionalGan)
    return task


class Seen(nn.Module):
    """Another network, whose inputs are kept."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.inputs = network, []

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        self.inputs.append((x.detach().clone(), labels.clone()))
        return self.network(x, labels)  # type: ignore[no-any-return]


# --- a step ----------------------------------------------------------------------------------------------------------


def test_the_discriminator_moves_first_and_the_generator_meets_the_one_that_has_moved(small: Resolve) -> None:
    program = program_of(small("optimizer=sgd"), "cpu")
    task = program.task
    assert isinstance(task, ClassConditionalGan)
    assert [player.name for player in task.players] == ["discriminator", "generator"]
    order, before = [], {}
    for name, optimizer in zip(("discriminator", "generator"), program.optimizers, strict=True):
        network = getattr(task, name)
        before[name] = [p.detach().clone() for p in network.parameters()]
        optimizer.register_step_post_hook(lambda *_, name=name: order.append(name))
    seen = {}
    loss = task.players[1].loss

    def watched(step: int, part: int) -> tuple[Tensor, ...]:
        seen["moved"] = any(
            not torch.equal(p, old)
            for p, old in zip(task.discriminator.parameters(), before["discriminator"], strict=True)
        )
        seen["still"] = all(
            torch.equal(p, old) for p, old in zip(task.generator.parameters(), before["generator"], strict=True)
        )
        return loss(step, part)

    object.__setattr__(task.players[1], "loss", watched)
    program.training_step(0, [1.0])
    assert order == ["discriminator", "generator"]
    assert seen == {"moved": True, "still": True}


def test_the_losses_are_the_hinge_and_its_counterpart(small: Resolve) -> None:
    task = task_of(small())
    task.discriminator = Seen(task.discriminator.eval())  # type: ignore[assignment]
    loss, real, generated = task.discriminator_loss(3, 0)
    (seen, labels) = task.discriminator.inputs[0]
    scores = task.discriminator.network(seen, labels)
    n = len(scores) // 2
    expected = sum(max(0.0, 1 - float(s)) for s in scores[:n]) / n + sum(max(0.0, 1 + float(s)) for s in scores[n:]) / n
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert (float(real), float(generated)) == pytest.approx((float(scores[:n].mean()), float(scores[n:].mean())))
    (of_generator,) = task.generator_loss(3, 0)
    (seen, labels) = task.discriminator.inputs[1]
    assert float(of_generator) == pytest.approx(-float(task.discriminator.network(seen, labels).mean()), rel=1e-5)


def test_each_player_draws_latent_vectors_of_its_own_at_every_step(small: Resolve) -> None:
    task = task_of(small())
    task.generator = Seen(task.generator)  # type: ignore[assignment]
    task.generator.latent = task.generator.network.latent  # type: ignore[union-attr]
    for step in range(2):
        task.discriminator_loss(step, 0)
        task.generator_loss(step, 0)
    latents = [latent for latent, _ in task.generator.inputs]
    assert len({latent.sum().item() for latent in latents}) == 4
    assert abs(float(torch.cat(latents).mean())) < 0.1
    assert float(torch.cat(latents).std()) == pytest.approx(1, abs=0.1)
    again = task_of(small())
    assert torch.equal(again.draw(1, 0, 3)[0], latents[3]), "a function of seed and step"
    assert not torch.equal(task_of(small("seed=1")).draw(1, 0, 3)[0], latents[3])


def test_genuine_images_come_in_pixels_of_minus_one_to_one_half_of_them_mirrored(small: Resolve) -> None:
    task = task_of(small("training.batch_size=400"))
    task.discriminator = Seen(task.discriminator)  # type: ignore[assignment]
    task.discriminator_loss(0, 0)
    seen, labels = (part[:400] for part in task.discriminator.inputs[0])
    originals, expected_labels = task.train.batch(task.order.batch(0))
    assert torch.equal(labels, expected_labels)
    as_they_are = (seen == pixels(originals)).flatten(1).all(1)
    mirrored = (seen == pixels(originals.flip(3))).flatten(1).all(1)
    assert bool((as_they_are ^ mirrored).all())
    assert 150 < int(mirrored.sum()) < 250
    assert (float(pixels(torch.tensor(0))), float(pixels(torch.tensor(255)))) == (-1, 1)
    assert torch.equal(as_bytes(pixels(originals)), originals)


def test_the_class_changes_image_and_score(small: Resolve) -> None:
    task = task_of(small())
    task.module.eval()
    latent = torch.randn(1, task.generator.latent).expand(2, -1)
    one, other = task.generator(latent, torch.tensor([1, 2]))
    assert not torch.allclose(one, other)
    scores = task.discriminator(one.expand(2, -1, -1, -1), torch.tensor([1, 2]))
    assert float(scores[0]) != float(scores[1])


def test_the_generators_step_leaves_no_gradient_in_the_discriminator(small: Resolve) -> None:
    task = task_of(small())
    (loss,) = task.generator_loss(0, 0)
    loss.backward()
    assert all(p.grad is None for p in task.discriminator.parameters())
    assert all(p.requires_grad for p in task.discriminator.parameters())
    assert all(p.grad is not None for p in task.generator.parameters())


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [["optimizer=fromage"], ["optimizer=adam", "task.ema=0.5"], ["optimizer=integer_madam", "trainer.accumulate=2"]],
)
def test_a_run_that_is_stopped_goes_on_to_the_bit(small: Resolve, tmp_path: Path, words: list[str]) -> None:
    """Both optimizers' states, the vectors of spectral norms, running moments, mirror images, the moving average."""
    whole, broken = (small(*words, f"machine.results={tmp_path / name}") for name in ("a", "b"))
    assert run(whole) is Status.FINISHED
    with stopped(5):
        assert run(broken) is Status.PREEMPTED
    assert run(broken) is Status.FINISHED
    assert metrics(whole) == metrics(broken)
    (files, others) = (record_of(one).files for one in (whole, broken))
    names = ("norms.csv", "samples.png", "strip.png")
    assert [path.name for path in files] == [f"step{step}-{name}" for step in (4, 8) for name in names]
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in others]


def test_a_run_measures_distances_and_norms_and_shows_its_samples(small: Resolve) -> None:
    chosen = small()
    assert run(chosen) is Status.FINISHED
    record = record_of(chosen)
    assert record.summary["frechet_train"] > 0
    assert record.summary["frechet_test"] > 0
    assert 0 <= record.summary["sample_precision"] <= 1
    assert 0 <= record.summary["sample_recall"] <= 1
    norms, samples, strip = record.files[-3:]
    picture, column = (np.asarray(Image.open(path)) for path in (samples, strip))
    assert picture.shape == (320, 320, 3)
    assert np.array_equal(column, picture[:, :32])
    table = list(csv.DictReader(io.StringIO(norms.read_text())))
    task = task_of(chosen)
    assert [row["weight"] for row in table] == [name for name, _ in task.normalised_weights()]
    assert all(0 < float(row["largest_singular_value"]) <= float(row["frobenius_norm"]) * 1.0001 for row in table)
    # Fromage leaves these norms as they were, since the losses do not depend on them.
    assert record.summary["norm_growth_max"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("optimizer", "growth"), [("lars", (1 + 0.05**2) ** 4), ("fromage", 1.0)])
def test_norms_grow_by_the_root_of_one_plus_lr_squared_a_step_under_lars_alone(
    small: Resolve, optimizer: str, growth: float
) -> None:
    chosen = small(f"optimizer={optimizer}", "optimizer.lr=0.05", "schedule=constant")
    assert run(chosen) is Status.FINISHED
    found = record_of(chosen).summary
    assert found["norm_growth_min"] == pytest.approx(growth, rel=1e-3)
    assert found["norm_growth_max"] == pytest.approx(growth, rel=1e-3)


def test_the_moving_average_follows_the_generators(small: Resolve) -> None:
    program = program_of(small("task.ema=0.75", "training.log_every=4"), "cpu")
    task = program.task
    assert isinstance(task, ClassConditionalGan)
    expected = None
    for step in range(4):
        now = task.generator.embedding.weight.detach().clone()
        expected = now if expected is None else 0.75 * expected + 0.25 * now
        program.training_step(step, [1.0])
    assert task.averaged is not None
    torch.testing.assert_close(task.averaged.module.embedding.weight, expected)
    task.module.eval()
    (images,) = task.generate(20)
    assert not torch.equal(images, next(iter(task_of(small()).generate(20))))


def test_samples_are_the_same_latent_vectors_at_every_evaluation_and_as_many_of_each_class(small: Resolve) -> None:
    task = task_of(small())
    task.module.eval()
    with torch.no_grad():
        one, other = (torch.cat(list(task.generate(60))) for _ in range(2))
    assert torch.equal(one, other)
    assert len(one) == 60
    assert spread(1000, 10, torch.device("cpu")).tolist() == list(range(0, 1000, 100))
    assert spread(5, 10, torch.device("cpu")).tolist() == [0, 1, 2, 3, 4]


def test_too_few_samples_for_a_covariance_are_said_to_be(
    small: Resolve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task_of(small())
    assert not caplog.records
    many = FeatureNetwork("many", 100, lambda x: x.float()[:, 0, :10, :10].flatten(1), "0")
    monkeypatch.setattr(features, "load", lambda name, device: many)
    task_of(small())
    assert "task.samples=100: no more than the 100 features of many: covariances are singular" in caplog.text


def test_a_grid_has_classes_in_rows() -> None:
    numbered = torch.arange(6)[:, None, None, None].expand(6, 3, 32, 32).byte()  # classes 0 1 2 0 1 2
    grid = by_class(numbered, 3)
    assert grid.shape == (3, 96, 64)
    assert grid[0, ::32, ::32].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.gpu
@pytest.mark.parametrize(
    "words", ["machine.compile=true", "trainer.precision=bf16", "machine.compile=true trainer.precision=bf16"]
)
def test_on_a_gpu_compiled_and_in_bf16_the_losses_stay_near_those_in_fp32(small: Resolve, words: str) -> None:
    """As benchmarks/cifar_gan.py --device cuda --compile --precision bf16 times it."""
    found = []
    for chosen in (small("training.log_every=8"), small("training.log_every=8", *words.split())):
        program = program_of(chosen, "cuda")
        for step in range(8):
            program.training_step(step, [1.0])
        found.append(program.measured.cpu())
    torch.testing.assert_close(*found, rtol=0.05, atol=0.05)


def test_losses_that_are_not_finite_end_the_run_as_diverged(small: Resolve) -> None:
    chosen = small("optimizer=sgd", "optimizer.lr=1e30")
    assert run(chosen) is Status.DIVERGED


def test_an_evaluation_of_weights_that_are_not_finite_is_finite_or_infinite_and_no_error(small: Resolve) -> None:
    """The last step may have made them so, before any loss could tell."""
    task = task_of(small())
    with torch.no_grad():
        task.generator.linear.bias.fill_(float("nan"))
        next(iter(task.normalised_weights()))[1].fill_(float("inf"))
    task.module.eval()
    row = task.evaluate().row
    assert row["frechet_train"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("task.channels=0", "task.channels=0: "),
        ("task.blocks=5", "task.blocks=5: "),
        ("task.samples=105", "task.samples=105: must be a multiple of the 10 classes of data=photographs"),
        ("task.examples=5001", "task.examples=5001: must be at most the 5000 of data=photographs"),
        ("task.examples=20 training.batch_size=21", "training.batch_size=21: must be at most 20, task.examples"),
        ("task.features=vgg", "task.features='vgg': must be "),
        ("data=mnist", "data=mnist: experiment=cifar_gan needs colour images: cifar10, cifar100, photographs"),
        ("task.ema=1", "task.ema=1: "),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: Resolve, words: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings("experiment=cifar_gan", *words.split())
    assert str(refused.value).startswith(said)
