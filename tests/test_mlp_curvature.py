"""Curvature slices: equal to a literal loop, exact where the mathematics is, resumed to the bit, refused in words."""

import math
import os
import signal
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from reltrust.experiments.mlp_curvature.analysis import (
    CurvatureSlice,
    deep_relative_trust,
    full_batch,
    relative_change,
    relative_direction,
)
from reltrust.experiments.mlp_curvature.network import ResidualMLP, perceptron
from reltrust.experiments.mlp_curvature.settings import Subject
from torch.nn import functional as F

from reltrust.data.images import Examples
from reltrust.errors import SettingsError
from reltrust.models.mlp import MLP
from reltrust.records.identity import comparison_id, run_directory
from reltrust.records.store import Status
from reltrust.settings import Settings
from reltrust.training.analysis import Resume
from runs import metrics, record_of, run, settings_of

Resolve = Callable[..., Settings]
Row = dict[str, Any]


class NoStop:
    """A computation that nobody interrupts."""

    state = None

    def reached(self, step: int, state: Callable[[], Row]) -> None: ...


def subject(**changes: Any) -> Subject:
    task = {
        "network": "plain",
        "hidden_layers": 3,
        "width": 6,
        "train_steps": 0,
        "train_batch": 5,
        "train_lr": 0.01,
        "train_decay": 0.9,
        "train_decay_every": 4,
        "points": 5,
        "spacing": 0.02,
    }
    return Subject(**(task | changes))


def problem(kind: str = "plain", n: int = 40, hidden_layers: int = 3) -> tuple[MLP, Examples]:
    """A float64 network of 6 pixels and 3 classes, and labelled images for it."""
    draws = torch.Generator().manual_seed(1)
    images, labels = torch.randn(n, 6, generator=draws).double(), torch.randint(3, (n,), generator=draws)
    return perceptron(kind, 6, 6, hidden_layers, 3, seed=0).double(), Examples(images, labels)  # type: ignore[arg-type]


def rows_of(chosen: Subject, network: MLP, examples: Examples) -> tuple[list[Row], Row]:
    rows: list[Row] = []
    measured = CurvatureSlice(chosen, examples, network, seed=0).compute(rows.append, NoStop())
    return rows, measured.row


# --- the parts -------------------------------------------------------------------------------------------------------


def test_a_residual_network_adds_every_hidden_layers_input_to_its_output() -> None:
    network, examples = problem("residual")
    x = examples.images
    for layer in network.hidden:
        x = x + (x @ layer.weight.T + layer.bias).clamp(min=0)  # type: ignore[operator]
    assert isinstance(network, ResidualMLP)
    torch.testing.assert_close(network(examples.images), network.readout(x), rtol=1e-13, atol=1e-13)


def test_both_networks_have_the_same_initial_weights_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    plain, residual = (perceptron(kind, 6, 6, 2, 3, seed=4) for kind in ("plain", "residual"))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), residual.parameters(), strict=True))


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
def test_the_full_batch_in_chunks_is_the_full_batch(chunk: int) -> None:
    network, examples = problem()
    loss = F.cross_entropy(network(examples.images), examples.labels)
    gradient = torch.autograd.grad(loss, list(network.parameters()))
    found = full_batch(network, examples, chunk)
    assert found.loss == pytest.approx(loss.item(), rel=1e-12)
    assert found.accuracy == float((network(examples.images).argmax(1) == examples.labels).double().mean())
    for ours, theirs in zip(found.gradient, gradient, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-14)


def test_a_gradient_that_was_returned_is_not_changed_by_the_next_call() -> None:
    network, examples = problem()
    first = full_batch(network, examples).gradient
    kept = [g.clone() for g in first]
    full_batch(network, examples)
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def test_a_direction_is_as_long_as_its_tensor_and_zero_where_the_gradient_is() -> None:
    weights = [torch.tensor([3.0, 4.0]), torch.tensor([1.0])]
    directions = relative_direction(weights, [torch.tensor([0.0, -2e-30]), torch.zeros(1)])
    assert [d.tolist() for d in directions] == [[0.0, -5.0], [0.0]]


def test_a_change_is_relative_to_what_was_there() -> None:
    old = torch.tensor([3.0, 4.0])
    assert relative_change(old, old) == 0
    assert relative_change(-old, old) == 2
    assert relative_change(torch.zeros(2), torch.zeros(2)) == 0


def test_the_model_of_deep_relative_trust_has_the_values_that_the_equation_gives() -> None:
    assert deep_relative_trust([0.5, 0.0, 1.0]) == 1.5 * 2 - 1
    assert deep_relative_trust([0.099] * 2) == pytest.approx(0.207801, rel=1e-12)
    assert deep_relative_trust([0.099] * 16) == pytest.approx(math.expm1(16 * math.log1p(0.099)), rel=1e-12)
    assert deep_relative_trust([]) == 0


# --- the slice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_a_slice_is_that_of_the_literal_loop(kind: str) -> None:
    """One step after the other on a copy, by the gradient and the norms of the start."""
    network, examples = problem(kind)
    copy = deepcopy(network)
    params = list(copy.parameters())

    def loss_and_gradient() -> tuple[float, list[torch.Tensor]]:
        loss = F.cross_entropy(copy(examples.images), examples.labels)
        return loss.item(), list(torch.autograd.grad(loss, params))

    _, start = loss_and_gradient()
    norms = [float(p.detach().norm()) for p in params]
    rows, summary = rows_of(subject(network=kind), network, examples)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["eta"] for row in rows] == [0, 0.02, 0.04, 0.06, 0.08]
    for row in rows:
        loss, gradient = loss_and_gradient()
        assert row["loss"] == pytest.approx(loss, rel=1e-5)
        for layer, place in enumerate(range(0, len(params), 2), 1):  # weights and biases in turn
            change = float((gradient[place] - start[place]).norm() / start[place].norm())
            assert row[f"change_{layer}"] == pytest.approx(change, rel=1e-5, abs=1e-12)
        assert row["model"] == pytest.approx((1 + row["eta"]) ** 4 - 1, rel=1e-5)
        with torch.no_grad():
            for p, g, norm in zip(params, start, norms, strict=True):
                p -= 0.02 * norm * g / g.norm()
    assert summary == {
        "start_loss": rows[0]["loss"],
        "start_accuracy": full_batch(network, examples).accuracy,
        **{key: value for key, value in rows[-1].items() if key != "step"},
    }


def test_at_the_origin_the_loss_falls_as_fast_as_norms_of_weights_and_gradients_say() -> None:
    """dL/d eta = - sum over tensors of |W| |g| at eta = 0."""
    network, examples = problem()
    found = full_batch(network, examples)
    slope = sum(float(w.detach().norm() * g.norm()) for w, g in zip(network.parameters(), found.gradient, strict=True))
    tiny = CurvatureSlice(subject(), examples, network, seed=0)
    origin = tiny.weights()
    tiny.place(origin, relative_direction(origin, found.gradient), 1e-6)
    assert (found.loss - full_batch(network, examples).loss) / 1e-6 == pytest.approx(slope, rel=1e-4)


def test_the_network_is_back_at_its_origin_after_the_slice() -> None:
    network, examples = problem()
    before = [p.detach().clone() for p in network.parameters()]
    rows_of(subject(), network, examples)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_the_change_of_a_linear_read_outs_gradient_is_exact_where_it_is_known() -> None:
    """One hidden layer of which all units are dead: no gradient but that of the last bias, so nothing but it moves."""
    network, examples = problem(hidden_layers=1)
    with torch.no_grad():
        network.hidden[0].weight.zero_()
        network.hidden[0].bias.fill_(-1.0)  # type: ignore[union-attr, operator]
    rows, _ = rows_of(subject(hidden_layers=1), network, examples)
    assert all(row["change_1"] == row["change_2"] == row["model"] == 0 for row in rows)
    losses = [row["loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_training_before_the_slice_is_fromages_with_its_schedule() -> None:
    network, examples = problem()
    reference = deepcopy(network)
    chosen = subject(train_steps=6, points=2)
    order = CurvatureSlice(chosen, examples, network, seed=0).order
    for step in range(6):
        images, labels = examples.batch(order.batch(step))
        loss = F.cross_entropy(reference(images), labels)
        gradient = torch.autograd.grad(loss, list(reference.parameters()))
        lr = 0.01 * 0.9 ** (step // 4)
        with torch.no_grad():
            for p, g in zip(reference.parameters(), gradient, strict=True):
                p.sub_(lr * p.norm() / g.norm() * g).div_(math.sqrt(1 + lr**2))
    rows, _ = rows_of(chosen, network, examples)
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert [row["step"] for row in rows] == [7, 8]
    assert rows[0]["loss"] == pytest.approx(full_batch(reference, examples).loss, rel=1e-5)


def test_a_slice_that_leaves_the_finite_numbers_fails_and_says_where() -> None:
    network, examples = problem()
    with pytest.raises(FloatingPointError, match=r"^task.spacing=1e\+200: at eta=1e\+200 the loss is "):
        rows_of(subject(spacing=1e200), network, examples)


# --- as a run --------------------------------------------------------------------------------------------------------

WORDS = ("experiment=mlp_curvature", "task.hidden_layers=2", "task.train_steps=4", "task.points=5")


def sigterm_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGTERM comes just before the computation says that it has reached this step."""
    reached = Resume.reached

    def interrupting(self: Resume, at: int, state: Callable[[], Row]) -> None:
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
        reached(self, at, state)

    monkeypatch.setattr(Resume, "reached", interrupting)


@pytest.mark.parametrize("stop", [2, 4, 5, 7], ids=["in training", "between", "after the origin", "in the slice"])
def test_a_run_that_is_stopped_goes_on_to_the_bit(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole = settings(*WORDS)
    run(whole)
    expected, summary = metrics(whole), {**record_of(whole).summary, "seconds": 0}
    broken = settings(*WORDS, "machine.results=" + str(whole.machine.results) + "-broken")
    sigterm_at(monkeypatch, stop)
    assert run(broken) is Status.PREEMPTED
    monkeypatch.undo()
    assert len(metrics(broken)) == max(0, stop - 4)
    torch.rand(3)
    assert run(broken) is Status.FINISHED
    assert metrics(broken) == expected
    assert {**record_of(broken).summary, "seconds": 0} == summary
    assert [row["step"] for row in expected] == [5, 6, 7, 8, 9]


def test_slices_that_take_an_hour_keep_the_ids_under_which_they_were_recorded() -> None:
    words = ("experiment=mlp_curvature", "scale=paper", "task.hidden_layers=15")
    deep = settings_of(*words)
    assert run_directory(deep) == Path("mlp_curvature/analysis/plain15-step0-seed0-8dc65917")
    residual = settings_of(*words, "task.network=residual", "task.train_steps=240")
    assert run_directory(residual) == Path("mlp_curvature/analysis/residual15-step240-seed0-74ac005d")
    assert comparison_id(deep) == comparison_id(residual)


def test_the_paper_scale_is_the_published_protocol() -> None:
    chosen = settings_of("experiment=mlp_curvature", "scale=paper")
    task = chosen.task
    assert (chosen.data.name, task.width, task.train_batch) == ("mnist", 784, 250)  # type: ignore[union-attr, attr-defined]
    assert (task.train_lr, task.train_decay, task.train_decay_every) == (0.01, 0.9, 240)  # type: ignore[attr-defined]
    assert (task.points, task.spacing, chosen.training) == (100, 0.001, None)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("task.points=1", "task.points=1: must be greater than or equal to 2"),
        ("task.network=dense", "task.network='dense': must be 'plain' or 'residual'"),
        ("task.train_batch=1501", "task.train_batch=1501: must be at most 1500, all images"),
        ("data=cifar10", "data=cifar10: experiment=mlp_curvature needs images: mnist, digits, mnist5k"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(words: str, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings_of("experiment=mlp_curvature", words)
    assert str(refused.value) == message


def test_a_residual_network_of_another_width_than_its_images_is_refused_before_anything_is_written(
    settings: Resolve,
) -> None:
    chosen = settings("experiment=mlp_curvature", "task.network=residual", "task.width=32")
    with pytest.raises(SettingsError, match=r"^task.width=32: must be 64, the pixels of data=digits"):
        run(chosen)
    assert not Path(chosen.machine.results).exists()
