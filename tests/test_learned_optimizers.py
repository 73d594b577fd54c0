"""Learned optimizers: their rule, evolution strategies, the population, the optimizer of torch, verdicts, refusals."""

import copy
import os
import pickle
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch
from reltrust.experiments.learned_optimizers import figure, verdicts
from reltrust.experiments.learned_optimizers.analysis import MetaTraining, families_of, steepest
from reltrust.experiments.learned_optimizers.held_out import trials
from reltrust.experiments.learned_optimizers.optimizer import LearnedOptimizer, read, to_bytes
from reltrust.experiments.learned_optimizers.population import Population
from reltrust.experiments.learned_optimizers.problems import (
    WORST,
    Family,
    Perceptrons,
    Problems,
    Quadratics,
    counted,
    loss_and_gradient,
)
from reltrust.experiments.learned_optimizers.rule import (
    DECAYS,
    FEATURES,
    TIMES,
    Layout,
    initial,
    momenta_after,
    step_of,
    tensors,
)
from reltrust.experiments.learned_optimizers.settings import Subject
from reltrust.experiments.learned_optimizers.unrolls import (
    PersistentES,
    antithetic,
    begun,
    estimate,
    meta_loss,
    unroll,
)
from torch import Tensor, nn

from optim import kinds
from reltrust.data import images
from reltrust.data.draws import generator
from reltrust.errors import SettingsError
from reltrust.records.store import Status
from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import Selection, select
from reltrust.settings import Settings
from runs import metrics, record_of, run

Resolve = Callable[..., Settings]
WORDS = ["experiment=learned_optimizers", "scale=smoke"]
HIDDEN = 5


def double(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, 9), dtype=torch.float64)


def families() -> tuple[Family, ...]:
    digits = images.load("digits", "data").train
    return Quadratics(6), Perceptrons(images.Examples(digits.images[:, :9], digits.labels), 10, 3, 8)


# --- the rule --------------------------------------------------------------------------------------------------------


def step_by_equations(weights: Tensor, p: Tensor, g: Tensor, momenta: Tensor, t: float) -> Tensor:
    """One tensor, one number at a time."""
    matrix_1, bias_1, matrix_2, bias_2, matrix_3, bias_3 = tensors(weights, HIDDEN)

    def normalised(x: Tensor) -> Tensor:
        return x / (x.square().mean().sqrt() + 1e-5)

    columns = [normalised(g), normalised(p), *(normalised(m) for m in momenta)]
    steps = []
    for i in range(len(p)):
        features = [float(column[i]) for column in columns]
        features += [float(torch.tanh(torch.tensor(t / scale - 1, dtype=torch.float64))) for scale in TIMES]
        assert len(features) == FEATURES
        x = torch.tensor(features, dtype=torch.float64)
        x = (x @ matrix_1 + bias_1[0]).relu()
        x = (x @ matrix_2 + bias_2[0]).relu()
        d, m = x @ matrix_3 + bias_3[0]
        steps.append(0.001 * d * (0.001 * m).exp())
    return torch.stack(steps)


def test_a_step_is_that_of_the_equations_tensor_by_tensor() -> None:
    weights = initial(1, HIDDEN, generator(1)).double()[0] + 0.1 * double(1)
    p, g, momenta = double(7), double(7, seed=1), double(6, 7, seed=2)
    step = step_of(
        weights, HIDDEN, p, g, momenta, torch.tensor(12.0, dtype=torch.float64), Layout.of([3, 4], torch.float64)
    )
    expected = [
        step_by_equations(weights, p[part], g[part], momenta[:, part], 12.0) for part in (slice(3), slice(3, 7))
    ]
    torch.testing.assert_close(step, torch.cat(expected), rtol=1e-12, atol=1e-15)


def test_momenta_are_averages_that_forget_at_six_rates() -> None:
    momenta = torch.zeros(6, 2, dtype=torch.float64)
    gradients = double(5, 2)
    for g in gradients:
        momenta = momenta_after(momenta, g)
    for decay, momentum in zip(DECAYS, momenta, strict=True):
        expected = sum((1 - decay) * decay ** (4 - k) * g for k, g in enumerate(gradients))
        torch.testing.assert_close(momentum, expected)


@pytest.mark.parametrize("factor", [1e-2, 10.0, 1e6])
def test_steps_do_not_change_if_all_gradients_are_rescaled_but_for_what_is_added_to_the_root(factor: float) -> None:
    weights, p, g, momenta = (
        initial(1, HIDDEN, generator(1)).double()[0],
        double(40),
        double(40, seed=1),
        0 * double(6, 40),
    )
    layout, time = Layout.of([30, 10], torch.float64), torch.tensor(3.0, dtype=torch.float64)
    of_gradients = []
    for scale in (1.0, factor):
        some = momenta
        for _ in range(50):  # so that the slowest momentum too is far above 1e-5
            some = momenta_after(some, scale * g)
        of_gradients.append(step_of(weights, HIDDEN, p, scale * g, some, time, layout))
    step, rescaled = of_gradients
    # 0.9999: a momentum of 0.005 times the gradients after 50 steps.
    largest = 1e-5 / (0.005 * min(1.0, factor))
    assert float((step - rescaled).abs().max() / step.abs().max()) < 3 * largest


def test_a_layout_has_means_of_tensors_of_different_sizes() -> None:
    x = double(2, 7)
    normal = Layout.of([1, 4, 2], torch.float64).normalised(x)
    for row, of_row in zip(x, normal, strict=True):
        for part in (slice(1), slice(1, 5), slice(5, 7)):
            torch.testing.assert_close(of_row[part], row[part] / (row[part].square().mean().sqrt() + 1e-5))


# --- problems --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_losses_of_problems_side_by_side_are_those_of_each_alone_and_gradients_those_of_autograd(number: int) -> None:
    family = families()[number]
    problems = family.draw(3, (1, 2))
    (batches,) = ([one[0] for one in family.batches(3, 1, (1, 3))],)
    params = problems.start + 0.3 * torch.randn(problems.start.shape, generator=generator(5))
    losses, gradients = loss_and_gradient(family.loss, params, (*problems.data, *batches))
    for i in range(3):
        alone = params[[i]].clone().requires_grad_()
        loss = family.loss(alone, tuple(one[[i]] for one in (*problems.data, *batches)))
        (gradient,) = torch.autograd.grad(loss.sum(), alone)
        torch.testing.assert_close(losses[i], loss[0].detach(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradients[i], gradient[0], rtol=1e-5, atol=1e-6)


def test_a_loss_is_1_for_who_knows_nothing_and_at_most_4() -> None:
    quadratics, perceptrons = families()
    problems = quadratics.draw(5, (1,))
    torch.testing.assert_close(quadratics.loss(problems.start, problems.data), torch.ones(5))
    batch = tuple(one[0] for one in perceptrons.batches(2, 1, (1,)))
    zeros = torch.zeros(2, perceptrons.layout.size)
    torch.testing.assert_close(perceptrons.loss(zeros, batch), torch.ones(2))
    some = torch.tensor([0.5, 7.0, torch.nan, torch.inf, -torch.inf])
    assert counted(some).tolist() == [0.5, WORST, WORST, WORST, WORST]


def test_singular_values_of_quadratics_are_between_their_limits() -> None:
    family = Quadratics(10)
    matrix, centre = (problems := family.draw(20, (3,))).data
    scale = (matrix @ (problems.start - centre)[..., None]).square().sum((-1, -2))
    torch.testing.assert_close(scale, torch.ones(20))
    singular = torch.linalg.svdvals(matrix)
    ratio = singular[:, 0] / singular[:, -1]
    assert (ratio <= 1 / 0.03 * 1.0001).all()
    assert (ratio > 3).all()


# --- trainings side by side ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_the_batched_program_is_the_loop_over_members_copies_and_problems(number: int) -> None:
    family, members, copies, count, steps = families()[number], 3, 2, 4, 5
    weights = 3 * initial(members * copies * count, HIDDEN, generator(1)).view(members, copies, count, -1)
    problems, batches = family.draw(count, (2,)), family.batches(count, steps, (3,))
    training, losses = unroll(weights, HIDDEN, family, problems.data, begun(problems, members, copies), batches, steps)
    for m in range(members):
        for s in range(copies):
            for n in range(count):
                data, start = tuple(one[[n]] for one in problems.data), problems.start[[n]]
                own = tuple(one[:, [n]] for one in batches)
                alone, of_alone = unroll(
                    weights[m, s, n][None, None, None], HIDDEN, family, data,
                    begun(Problems(data, start), 1, 1), own, steps,
                )  # fmt: skip
                torch.testing.assert_close(losses[:, m, s, n], of_alone[:, 0, 0, 0], rtol=1e-6, atol=1e-6)
                torch.testing.assert_close(training.params[m, s, n], alone.params[0, 0, 0], rtol=1e-6, atol=1e-6)


def test_a_training_in_the_program_is_that_of_the_optimizer_of_torch(tmp_path: Path) -> None:
    quadratics, steps = families()[0], 8
    weights = 5 * initial(1, HIDDEN, generator(1))
    path = tmp_path / "optimizer.safetensors"
    path.write_bytes(to_bytes(weights[0], HIDDEN))
    problems = quadratics.draw(1, (2,))
    training, losses = unroll(
        weights[:, None, None], HIDDEN, quadratics, problems.data, begun(problems, 1, 1), (), steps
    )
    params = [nn.Parameter(part.clone()) for part in problems.start[0].split([3, 3])]
    optimizer = LearnedOptimizer(params, weights=str(path))
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = quadratics.loss(torch.cat(params)[None], problems.data).sum()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert found == pytest.approx(losses.flatten().tolist(), rel=1e-5)
    torch.testing.assert_close(torch.cat(params).detach(), training.params[0, 0, 0], rtol=1e-5, atol=1e-6)


# --- evolution strategies --------------------------------------------------------------------------------------------


def test_the_estimate_is_unbiased_on_linear_losses() -> None:
    slope, sigma, draws = double(2, 3), 0.3, 20_000
    noise = sigma * double(2, draws, 3, seed=4)
    weights = double(2, 3, seed=5)
    losses = torch.einsum("msnp,mp->msn", antithetic(weights, noise), slope)
    each = noise * (losses[:, 0] - losses[:, 1])[..., None] / (2 * sigma**2)
    error = each.std(1) / draws**0.5
    found = estimate(noise, losses, sigma)
    assert ((found - slope).abs() < 4 * error).all()
    assert (error < 0.05).all()


def unrolled_states(weights: Tensor, noise: list[Tensor], slope: Tensor) -> list[Tensor]:
    """Losses a.s of states that grow by the perturbed weights at each of several unrolls."""
    state, losses = torch.zeros_like(antithetic(weights, noise[0])), []
    for own in noise:
        state = state + antithetic(weights, own)
        losses.append(torch.einsum("msnp,mp->msn", state, slope))
    return losses


def test_noise_that_is_summed_over_unrolls_has_no_bias_and_noise_of_one_unroll_has() -> None:
    """The loss at unroll k is k a.w: the gradient of the sum over three is 6 a, of which each unroll's own noise sees 3
    a."""
    slope, sigma, draws, unrolls = double(1, 2), 0.1, 40_000, 3
    noise = [sigma * double(1, draws, 2, seed=10 + k) for k in range(unrolls)]
    losses = unrolled_states(double(1, 2, seed=5), noise, slope)
    summed = [sum(noise[: k + 1], start=torch.zeros(())) for k in range(unrolls)]
    persistent = sum(estimate(xi, loss, sigma) for xi, loss in zip(summed, losses, strict=True))
    truncated = sum(estimate(own, loss, sigma) for own, loss in zip(noise, losses, strict=True))
    assert torch.allclose(torch.as_tensor(persistent), 6 * slope, atol=0.25)
    assert torch.allclose(torch.as_tensor(truncated), 3 * slope, atol=0.25)


def strategy(family: Family, **changes: Any) -> PersistentES:
    given: dict[str, Any] = {"hidden": HIDDEN, "pairs": 3, "sigma": 0.1, "unroll": 4, "episode": 4, "key": (1, 2)}
    return PersistentES(family, 2, **(given | changes))


@pytest.mark.parametrize("number", [0, 1])
def test_if_one_unroll_is_a_whole_training_it_is_ordinary_es(number: int) -> None:
    family, weights = families()[number], 3 * initial(2, HIDDEN, generator(1))
    persistent = strategy(family)
    for count in range(3):
        found = persistent.gradient(weights, count)
        noise = 0.1 * torch.randn(2, 3, weights.shape[1], generator=generator(1, 2, 1, count + 1))
        problems = family.draw(3, (1, 2, 3, count + 1) if count else (1, 2, 0))
        batches = family.batches(3, 4, (1, 2, 2, count + 1))
        _, losses = unroll(antithetic(weights, noise), HIDDEN, family, problems.data, begun(problems, 2, 2), batches, 4)
        torch.testing.assert_close(found, estimate(noise, losses.mean(0), 0.1))


def test_trainings_go_on_until_they_end_and_begin_at_different_times() -> None:
    persistent, weights = strategy(families()[0], episode=12), initial(2, HIDDEN, generator(1))
    times = []
    for count in range(5):
        persistent.gradient(weights, count)
        times.append(persistent.training.time.int().tolist())
    assert times == [[4, 8, 12], [8, 12, 4], [12, 4, 8], [4, 8, 12], [8, 12, 4]]


def test_a_member_that_is_no_number_does_not_touch_the_others() -> None:
    for family in families():
        weights = initial(2, HIDDEN, generator(1))
        whole = strategy(family).gradient(weights, 0)
        weights[1] = torch.nan
        broken = strategy(family).gradient(weights, 0)
        assert torch.equal(broken[0], whole[0])
        assert broken.isfinite().all()


def test_the_gradient_descends_the_meta_loss() -> None:
    family = families()[0]
    weights = 4 * initial(1, HIDDEN, generator(1))
    many = PersistentES(family, 1, hidden=HIDDEN, pairs=200, sigma=0.05, unroll=10, episode=10, key=(3,))
    before = meta_loss(weights, HIDDEN, [family], problems=200, steps=10, key=(4,))
    gradient = many.gradient(weights, 0)
    moved = weights - 0.1 * gradient / gradient.norm()
    assert meta_loss(moved, HIDDEN, [family], problems=200, steps=10, key=(4,)) < before


# --- the population --------------------------------------------------------------------------------------------------


def subject(settings: Resolve, *words: str) -> Subject:
    task = settings(*WORDS, *words).task
    assert isinstance(task, Subject)
    return task


def test_members_are_moved_by_the_rule_of_their_trainers_as_they_are_or_as_they_began(settings: Resolve) -> None:
    for method in ("self", "frozen"):
        population = Population(subject(settings, f"task.method={method}", "task.rate=10"), 0)
        for number in range(2):
            before, gradient = population.weights.clone(), torch.randn_like(population.weights)
            trainers = population.beginning if method == "frozen" else before
            momenta = momenta_after(population.momenta, gradient)
            population.apply(gradient)
            for member, trainer in enumerate(population.trainer.tolist()):
                step = step_of(
                    trainers[trainer], population.subject.hidden, before[member], gradient[member], momenta[member],
                    torch.tensor(float(number)), population.layout,
                )  # fmt: skip
                torch.testing.assert_close(population.weights[member], before[member] - 10 * step)
        assert not torch.equal(population.weights, population.beginning)


def test_adams_moments_go_with_the_copy_and_each_member_has_the_step_of_its_own_adam(settings: Resolve) -> None:
    population = Population(subject(settings, "task.method=adam", "task.rate=0.01"), 0)
    alone = [nn.Parameter(one.clone()) for one in population.weights]
    optimizers = [torch.optim.Adam([one], lr=0.01) for one in alone]
    for number in range(3):
        gradient = torch.randn(population.weights.shape, generator=generator(number))
        population.apply(gradient)
        for one, optimizer, own in zip(alone, optimizers, gradient, strict=True):
            one.grad = own
            optimizer.step()
    torch.testing.assert_close(population.weights.detach(), torch.stack(list(alone)).detach())
    population.select(torch.tensor([4.0, 3.0, 2.0, 1.0, 5.0]), 0)
    moments = population.adam.state[population.weights]["exp_avg"]  # type: ignore[union-attr]
    assert torch.equal(moments[0], moments[3])
    assert torch.equal(population.weights[0], population.weights[3])
    assert not torch.equal(moments[1], moments[3])


def test_the_worst_become_copies_of_the_best_and_no_number_is_the_worst(settings: Resolve) -> None:
    population = Population(subject(settings, "task.method=self", "task.rate=1", "task.population=8"), 0)
    population.momenta.normal_()
    before, momenta = population.weights.clone(), population.momenta.clone()
    population.select(torch.tensor([3.0, 1.0, torch.nan, 2.0, 9.0, 4.0, 5.0, 6.0, 7.0]), 0)
    worst, best, others = [4, 2], [1, 3], [0, 1, 3, 5, 6, 7]
    assert torch.equal(population.weights[worst], before[best])
    assert torch.equal(population.momenta[worst], momenta[best])
    assert torch.equal(population.weights[others], before[others])
    assert (population.multiplier[worst] != 1).all()
    assert (population.multiplier[others] == 1).all()


def test_a_population_that_has_spoiled_itself_goes_back_to_the_best_that_was(settings: Resolve) -> None:
    population = Population(subject(settings, "task.method=self", "task.rate=1", "task.population=8"), 0)
    best = population.weights[5].clone()
    population.select(torch.tensor([3.0, 4.0, 5.0, 6.0, 7.0, 1.0, 8.0, 9.0, 3.0]), 0)
    population.weights.fill_(1e3)
    assert torch.equal(population.candidates[8], best)
    population.select(torch.tensor([4.0] * 8 + [1.0]), 1)
    assert int((population.weights == best).all(1).sum()) == 1  # the other copy is of the next in order
    assert torch.equal(population.candidates[8], best)


def test_evolution_changes_copies_by_noise_of_its_deviation(settings: Resolve) -> None:
    population = Population(subject(settings, "task.method=evolution", "task.rate=0.3", "task.population=8"), 0)
    population.select(torch.arange(9.0), 0)
    change = population.weights[[6, 7]] - population.weights[[0, 1]]
    assert float(change.std()) == pytest.approx(0.3, rel=0.2)


def test_a_step_that_is_no_number_is_not_made(settings: Resolve) -> None:
    population = Population(subject(settings, "task.method=self", "task.rate=1"), 0)
    population.weights[0] = 1e30  # overflows in the network, which every other member may be trained by
    population.trainer[:] = 0
    before = population.weights.clone()
    population.apply(torch.randn_like(before))
    assert population.weights.isfinite().all()


def test_a_population_with_a_member_that_is_no_number_goes_on_without_it(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Population.__init__

    def broken(self: Population, *args: Any) -> None:
        made(self, *args)
        self.weights[0] = torch.nan

    monkeypatch.setattr(Population, "__init__", broken)
    one = settings(*WORDS, "task.method=self", "task.rate=1")
    assert run(one) is Status.FINISHED
    assert all(row["best"] < WORST for row in metrics(one))
    weights, _ = read(str(record_of(one).path / "files" / "optimizer.safetensors"))
    assert weights.isfinite().all()


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["self", "adam", "evolution"])
def test_a_run_that_is_stopped_goes_on_to_the_bit(
    settings: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    words = [*WORDS, f"task.method={method}", "task.rate=0.1", "task.generations=3"]
    whole = settings(*words, f"machine.results={tmp_path / 'whole'}")
    assert run(whole) is Status.FINISHED
    generation = MetaTraining._generation

    def interrupted(self: MetaTraining, *args: Any) -> None:
        generation(self, *args)
        if args[-1] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    mine = settings(*words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetaTraining, "_generation", interrupted)
        assert run(mine) is Status.PREEMPTED
    torch.rand(3)
    assert [row["step"] for row in metrics(mine)] == [0, 1]
    assert run(mine) is Status.FINISHED
    assert metrics(mine) == metrics(whole)
    (kept,), (kept_whole,) = (record_of(one).files for one in (mine, whole))
    assert kept.read_bytes() == kept_whole.read_bytes()
    summary, other = ({**record_of(one).summary, "seconds": 0} for one in (mine, whole))
    assert summary == other


def test_the_meta_loss_is_that_of_the_optimizer_that_the_run_has_kept(settings: Resolve) -> None:
    mine = settings(*WORDS, "task.method=self", "task.rate=3")
    run(mine)
    (kept,) = record_of(mine).files
    weights, hidden = read(str(kept))
    task = mine.task
    assert isinstance(task, Subject)
    digits = images.load("digits", "data").train
    tried = {
        one.name: float(one.of_learned(weights[None], hidden))
        for one in trials(task, digits, families_of(task, digits))
    }
    summary = record_of(mine).summary
    assert summary["meta_loss"] == tried.pop("same") == metrics(mine)[-1]["best"]
    assert {f"held_out_{name}": value for name, value in tried.items()} == {
        key: value for key, value in summary.items() if key.startswith("held_out_")
    }


def test_adam_on_problems_side_by_side_is_adam_on_each(settings: Resolve) -> None:
    task = subject(settings)
    digits = images.load("digits", "data").train
    (trial, *_) = trials(task, digits, families_of(task, digits))
    means = []
    for number, family in enumerate(trial.families):
        problems = family.draw(trial.problems, (0, 6, number, 1))
        batches, losses = family.batches(trial.problems, trial.steps, (0, 6, number, 2)), []
        for n in range(trial.problems):
            params = problems.start[[n]].clone().requires_grad_()
            adam = torch.optim.Adam([params], lr=0.05)
            for step in range(trial.steps):
                adam.zero_grad()
                data = (*(one[[n]] for one in problems.data), *(one[step][[n]] for one in batches))
                loss = family.loss(params, data).sum()
                loss.backward()
                adam.step()
                losses.append(float(loss))
        means.append(sum(losses) / len(losses))
    assert trial.of_adam(0.05) == pytest.approx(sum(means) / 2, rel=1e-5)


def test_all_methods_make_as_many_steps(settings: Resolve) -> None:
    words = ("scale=quick", "task.rate=1")
    digits = images.load("digits", "data").train
    made = {
        method: MetaTraining(subject(settings, *words, f"task.method={method}"), digits, 0).inner_steps
        for method in ("self", "frozen", "adam", "evolution")
    }
    assert made["self"] == made["frozen"] == made["adam"]
    assert made["evolution"] == pytest.approx(made["self"], rel=0.05)


def test_the_steepest_part_of_a_curve() -> None:
    late = [1.0] * 14 + [0.9, 0.5, 0.1]
    assert steepest(late) == 15 / 16
    assert steepest([1.0, 0.5, 0.4, 0.3]) == pytest.approx(1 / 6)
    assert steepest([3.0] + [1.0] * 8) == 1 / 16


# --- the optimizer of torch ------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> str:
    path = tmp_path / "some.safetensors"
    path.write_bytes(to_bytes(5 * initial(1, HIDDEN, generator(8))[0], HIDDEN))
    return str(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_saved_optimizer_continues_bit_for_bit(weights: str, dtype: torch.dtype) -> None:
    params = kinds.parameters(dtype=dtype)
    optimizer = LearnedOptimizer(params, weights=weights)
    kinds.take_steps(optimizer, range(5))
    continued = kinds.copies(params)
    restored = LearnedOptimizer(continued, lr=0.5, weights=weights)
    restored.load_state_dict(kinds.by_file(optimizer.state_dict()))
    for step in range(5, 10):
        kinds.take_steps(optimizer, [step])
        kinds.take_steps(restored, [step])
        assert kinds.same(params, continued)
    before, after = kinds.tensors_of_state(optimizer), kinds.tensors_of_state(restored)
    assert kinds.same(before.values(), after.values())


def test_a_copy_and_one_from_a_pickle_step_like_the_original(weights: str) -> None:
    model = nn.Linear(3, 2)
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    kinds.take_steps(optimizer, range(3))
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        kinds.take_steps(copied, [3])
        copies = [p for group in copied.param_groups for p in group["params"]]
        twin = copy.deepcopy(model)
        again = LearnedOptimizer(twin.parameters(), weights=weights)
        again.load_state_dict(optimizer.state_dict())
        kinds.take_steps(again, [3])
        assert kinds.same(copies, twin.parameters())


def test_a_step_follows_the_equations(weights: str) -> None:
    params = kinds.parameters(dtype=torch.float64)
    optimizer = LearnedOptimizer(params, lr=2.0, weights=weights)
    network = read(weights)[0].double()
    expected = kinds.values(params)
    momenta = [torch.zeros(6, p.numel(), dtype=torch.float64) for p in params]
    for step in range(4):
        kinds.take_steps(optimizer, [step])
        for i, p in enumerate(params):
            g = p.grad.flatten()  # type: ignore[union-attr]
            momenta[i] = (
                torch.tensor(DECAYS)[:, None].double() * momenta[i] + (1 - torch.tensor(DECAYS).double())[:, None] * g
            )
            move = step_by_equations(network, expected[i].flatten(), g, momenta[i], float(step))
            expected[i] = expected[i] - 2 * move.view(p.shape)
        kinds.assert_close(params, expected, 1e-6)  # decays are numbers of float32


def test_maximize_descends_on_the_negated_gradients_and_a_step_of_length_zero_moves_nothing(weights: str) -> None:
    params, twins = kinds.parameters(), kinds.parameters()
    up, down = LearnedOptimizer(params, weights=weights, maximize=True), LearnedOptimizer(twins, weights=weights)
    for step in range(3):
        kinds.take_steps(up, [step])
        kinds.give_gradients(twins, step, scale=-1.0)
        down.step()
    assert kinds.same(params, twins)
    before = kinds.values(params)
    up.param_groups[0]["lr"] = 0
    kinds.take_steps(up, [3])
    assert kinds.same(before, params)


def test_parameters_without_a_gradient_and_without_elements_are_left_alone_and_a_closures_loss_is_returned(
    weights: str,
) -> None:
    params = [*kinds.parameters(), nn.Parameter(torch.zeros(0))]
    optimizer = LearnedOptimizer(params, weights=weights)
    assert optimizer.step() is None
    assert not optimizer.state
    kinds.give_gradients(params, 0)
    params[0].grad, before = None, params[0].detach().clone()
    assert float(optimizer.step(lambda: torch.tensor(7.0))) == 7
    assert torch.equal(params[0], before)


def test_a_least_squares_problem_is_driven_downhill_by_the_weights_of_the_package() -> None:
    x, y = torch.randn(40, 5, generator=generator(1)), torch.randn(40, 1, generator=generator(2))
    model = nn.Linear(5, 1)
    first, last = kinds.learn(LearnedOptimizer(model.parameters()), lambda: (model(x) - y).square().mean(), 200)
    assert last < first


@pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf")])
def test_a_learning_rate_outside_its_range_is_refused(weights: str, lr: float) -> None:
    with pytest.raises(ValueError, match=f"lr={lr!r} is not allowed: a finite number >= 0"):
        LearnedOptimizer(kinds.parameters(), lr=lr, weights=weights)


def test_weights_of_another_architecture_and_no_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.torch.save({"input.weight": torch.zeros(18, 4), "input.bias": torch.zeros(1, 4)}))
    with pytest.raises(ValueError, match=r"other.safetensors': of another architecture, .*must be layers 19 x h"):
        LearnedOptimizer(kinds.parameters(), weights=str(path))
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"other.safetensors': no file of safetensors"):
        LearnedOptimizer(kinds.parameters(), weights=str(path))
    with pytest.raises(ValueError, match=r"weights='nowhere': must be a file that a run has kept, or self_trained"):
        LearnedOptimizer(kinds.parameters(), weights="nowhere")


def test_complex_parameters_and_sparse_gradients_are_refused_and_nothing_has_moved(weights: str) -> None:
    params = [*kinds.parameters(), nn.Parameter(torch.zeros(2, dtype=torch.complex64))]
    optimizer, before = LearnedOptimizer(params, weights=weights), kinds.values(params)
    kinds.give_gradients(params, 0)
    with pytest.raises(RuntimeError, match="complex"):
        optimizer.step()
    assert kinds.same(before, params)


def test_it_trains_the_depth_benchmark_by_its_target(settings: Resolve) -> None:
    target = "reltrust.experiments.learned_optimizers.optimizer.LearnedOptimizer"
    mine = settings("optimizer=signsgd", f"optimizer.target={target}", "optimizer.lr=1")
    assert run(mine) is Status.FINISHED
    assert metrics(mine)[-1]["train_loss"] < metrics(mine)[0]["train_loss"]


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("task.population=1", r"task.population=1: .*greater than or equal to 2"),
        ("task.sigma=0", r"task.sigma=0.*greater than 0"),
        ("task.unroll=1000", r"task.unroll=1000: must be at most task.episode=\d+, and divide it"),
        ("task.unroll=3", r"task.unroll=3: must be at most task.episode=\d+, and divide it"),
        ("task.method=nobody", r"task.method='?nobody"),
        ("task.rate=0", r"task.rate=0.*greater than 0"),
        ("data=mnist", r"data=mnist: .*digits"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Resolve, word: str, error: str) -> None:
    with pytest.raises(SettingsError, match=error):
        settings(*WORDS, word)


# --- verdicts --------------------------------------------------------------------------------------------------------


def selection(values: dict[str, list[float]], **columns: Any) -> Selection:
    """Of each method the meta-losses at the end, a value a seed; 1.0 at the beginning, steepest in the middle."""
    rows = [
        {
            "status": "finished", "method": method, "rate": 1.0, "generations": 40, "seed": seed, "meta_loss": value,
            "start_loss": 1.0, "steepest": 0.5, "run": f"{method}{seed}", **columns,
        }
        for method, own in values.items()
        for seed, value in enumerate(own)
    ]  # fmt: skip
    return select(pd.DataFrame(rows), verdicts.TRAINED, "quick")


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ([0.4, 0.41, 0.42], [0.6, 0.61, 0.6], Verdict.REPRODUCED),
        ([0.4, 0.7, 0.42], [0.6, 0.61, 0.6], Verdict.PARTLY),
        ([0.6, 0.7, 0.65], [0.6, 0.61, 0.6], Verdict.NOT_REPRODUCED),
        ([0.6], [0.7], Verdict.NOT_RUN),
    ],
)
def test_whether_it_is_better_than_with_frozen_trainers(
    own: list[float], other: list[float], expected: Verdict
) -> None:
    text, verdict = verdicts.judge_above_frozen(selection({"self": own, "frozen": other}))
    assert verdict is expected
    assert expected is Verdict.NOT_RUN or f"n={len(own)} seeds" in text


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([0.4, 0.39, 0.395], Verdict.REPRODUCED),
        ([0.43, 0.42, 0.425], Verdict.REPRODUCED),  # by no more than counts
        ([0.3, 0.5, 0.44], Verdict.PARTLY),
        ([0.6, 0.7, 0.65], Verdict.NOT_REPRODUCED),
    ],
)
def test_whether_it_is_as_good_as_trained_by_adam(own: list[float], expected: Verdict) -> None:
    _, verdict = verdicts.judge_by_adam(selection({"self": own, "adam": [0.42, 0.41, 0.415]}))
    assert verdict is expected


@pytest.mark.parametrize(
    ("steep", "values", "expected"),
    [
        (0.5, [0.4, 0.41, 0.42], Verdict.REPRODUCED),
        (0.5, [0.4, 1.5, 0.42], Verdict.PARTLY),
        (0.1, [0.4, 0.41, 0.42], Verdict.NOT_REPRODUCED),
        (0.5, [1.4, 1.41, 1.42], Verdict.NOT_REPRODUCED),
    ],
)
def test_whether_it_becomes_faster_with_steps_as_published(
    steep: float, values: list[float], expected: Verdict
) -> None:
    _, verdict = verdicts.judge_acceleration(selection({"self": values}, steepest=steep))
    assert verdict is expected


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [(0.5, Verdict.REPRODUCED), (0.1, Verdict.NOT_REPRODUCED), (None, Verdict.NOT_RUN)],
)
def test_whether_it_is_as_good_as_adam_by_hand(theirs: float | None, expected: Verdict) -> None:
    trials_of = dict.fromkeys(list(verdicts.TRIALS)[1:], 0.4)
    ours = selection({"self": [0.4, 0.41]} | ({} if theirs is None else {"hand": [theirs]}), **trials_of)
    if theirs is not None:
        ours.best.loc[ours.best["method"] == "hand", list(trials_of)] = theirs
    _, verdict = verdicts.judge_as_by_hand(ours)
    assert verdict is expected


def test_methods_are_compared_after_as_many_generations() -> None:
    apart = selection({"self": [0.3, 0.3], "frozen": [0.4, 0.41]})
    longer = apart.best[apart.best["method"] == "self"].assign(generations=1_000, value=0.9)
    both = replace(apart, best=pd.concat([apart.best, longer]))
    assert verdicts.judge_above_frozen(both) == verdicts.judge_above_frozen(apart)


def test_the_figure_has_a_line_a_method(settings: Resolve) -> None:
    for word in ("self", "hand"):
        assert run(settings(*WORDS, f"task.method={word}", "task.rate=1")) is Status.FINISHED
    assert set(figure.LOOKS) == {"self", "frozen", "adam", "evolution", "hand"}
