"""Tasks of several players, made up: optimizers of their own, clipping, parts of a batch, global generators."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust import build
from reltrust.errors import SettingsError
from reltrust.experiment import Measured, Player
from reltrust.packing.runner import run_pack
from reltrust.records.identity import run_id
from reltrust.records.store import Status
from reltrust.settings import Settings
from reltrust.sweeps.plan import plan
from runs import metrics, program_of, record_of, run, stopped

Resolve = Callable[..., Settings]


class Game:
    """A GAN in small: a generator of numbers, a discriminator that tells them from those of a normal distribution."""

    def __init__(self) -> None:
        self.generator, self.discriminator = nn.Linear(2, 1), nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
        self.module = nn.ModuleDict({"g": self.generator, "d": self.discriminator})
        self.players = (
            Player("discriminator", list(self.discriminator.parameters()), self.tell_apart, ("d_loss", "d_real")),
            Player("generator", list(self.generator.parameters()), self.deceive, ("g_loss",)),
        )

    def made(self) -> Tensor:
        return self.generator(torch.randn(16, 2))  # type: ignore[no-any-return]

    def tell_apart(self, step: int, part: int) -> tuple[Tensor, ...]:
        # Every global generator is drawn from.
        real = self.discriminator(torch.randn(16, 1) + random.random() + float(np.random.rand()))
        return F.relu(1 - real).mean() + F.relu(
            1 + self.discriminator(self.made().detach())
        ).mean(), real.mean().detach()

    def deceive(self, step: int, part: int) -> tuple[Tensor, ...]:
        return (-self.discriminator(self.made()).mean(),)

    @torch.no_grad()
    def evaluate(self) -> Measured:
        return Measured({"bias": float(self.generator.bias)})


class Dropped(Game):
    """One player, whose loss draws from torch's global generator."""

    def __init__(self) -> None:
        self.module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 1))
        self.players = (Player("model", list(self.module.parameters()), self.loss, ("train_loss",)),)

    def loss(self, step: int, part: int) -> tuple[Tensor, ...]:
        return (self.module(torch.ones(4, 3)).square().mean(),)

    @torch.no_grad()
    def evaluate(self) -> Measured:
        return Measured({"output": self.module(torch.ones(1, 3)).item()})


@dataclass(frozen=True)
class Subject:
    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ()
    pack_keys: ClassVar[tuple[str, ...] | None] = ()
    task: str = "Game"
    slug: ClassVar[str] = "game"

    def check(self, settings: Settings) -> None: ...

    def build(self, settings: Settings, device: torch.device) -> Any:
        return {"Game": Game, "Dropped": Dropped}[self.task]()


def game(settings: Resolve, *words: str, task: str = "Game") -> Settings:
    return replace(settings("data=digits", *words), task=Subject(task=task), data=None)


def test_players_move_one_after_another_each_with_an_optimizer_of_its_own(settings: Resolve) -> None:
    chosen = game(settings, "optimizer=adam", "+optimizer.players.generator.lr=0.5", "schedule.decay=1")
    program = program_of(chosen)
    assert [type(o).__name__ for o in program.optimizers] == ["Adam", "Adam"]
    assert [o.param_groups[0]["lr"] for o in program.optimizers] == [0.001, 0.5]
    order: list[str] = []
    for player, optimizer in zip(program.task.players, program.optimizers, strict=True):
        optimizer.register_step_post_hook(lambda *_, name=player.name: order.append(name))  # type: ignore[misc]
    program.training_step(0, [1.0])
    assert order == ["discriminator", "generator"]
    (window,) = program.fetch_window(1)
    assert list(window.means) == ["d_loss", "d_real", "g_loss"]


def test_a_player_may_have_another_kind_of_optimizer(settings: Resolve) -> None:
    words = ["+optimizer.players.discriminator={target: torch.optim.SGD, momentum: 0.9}", "optimizer=fromage"]
    discriminator, generator = program_of(game(settings, *words)).optimizers
    assert (type(discriminator).__name__, type(generator).__name__) == ("SGD", "Fromage")
    assert discriminator.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "+optimizer.players.critic.lr=0.1",
            "optimizer.players.critic: no player of this task, which has discriminator",
        ),
        ("+optimizer.players.generator.lr=-1", "optimizer.players.generator.lr=-1: must be greater than 0"),
        (
            "+optimizer.players=[generator]",
            "optimizer.players=['generator']: must be keys of an optimizer by a player's",
        ),
        ("+optimizer.players.generator=3", "optimizer.players.generator=3: must be keys of an optimizer"),
        ("+optimizer.clip_norm=0", "optimizer.clip_norm=0: must be greater than 0"),
        ("trainer.accumulate=0", "trainer.accumulate=0: must be greater than or equal to 1"),
        ("trainer.accumulate=7", "trainer.accumulate=7: must divide training.batch_size=50"),
    ],
)
def test_a_wrong_setting_of_a_player_is_refused_by_name(settings: Resolve, words: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        run(game(settings, words))
    assert message in str(error.value)


@pytest.mark.parametrize("at", [30, 47])
def test_a_game_that_is_stopped_goes_on_to_the_bit(settings: Resolve, tmp_path: Path, at: int) -> None:
    words = ["optimizer=adam", "+optimizer.players.generator.target=reltrust.optim.Fromage"]
    whole = game(settings, *words, f"machine.results={tmp_path / 'whole'}")
    assert run(whole) is Status.FINISHED
    broken = game(settings, *words)
    with stopped(at):
        assert run(broken) is Status.PREEMPTED
    for generator in (random.random, np.random.rand, lambda: torch.rand(3)):
        generator()  # what else the process does in between
    assert run(broken) is Status.FINISHED
    assert metrics(broken) == metrics(whole)
    assert record_of(broken).summary["bias"] == record_of(whole).summary["bias"]


def test_a_loss_of_any_player_that_is_not_finite_ends_the_run_and_another_measure_does_not(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(
        Game, "deceive", lambda self, step, part: (self.generator.bias.sum() * (nan if step == 41 else 1),)
    )
    chosen = game(settings)
    assert run(chosen) is Status.DIVERGED
    assert record_of(chosen).summary["diverged_at"] == 41
    monkeypatch.undo()
    tell_apart = Game.tell_apart
    monkeypatch.setattr(Game, "tell_apart", lambda self, *step: (tell_apart(self, *step)[0], nan))
    assert run(game(settings, "seed=1")) is Status.FINISHED


def test_gradients_are_scaled_down_to_the_norm_that_is_asked_for(settings: Resolve) -> None:
    for clip_norm, moved in ((1e-3, 1e-3), (1e6, None)):
        words = ["optimizer=sgd", "optimizer.lr=1.0", f"+optimizer.clip_norm={clip_norm}", "schedule=constant"]
        program = program_of(settings(*words))
        before = torch.cat([p.detach().flatten().clone() for p in program.task.players[0].params])
        program.training_step(0, [1.0])
        after = torch.cat([p.detach().flatten() for p in program.task.players[0].params])
        norm = float((after - before).norm())
        assert norm == pytest.approx(moved, rel=1e-3) if moved else norm > 1e-2


def test_a_batch_in_parts_is_the_batch(settings: Resolve) -> None:
    words = ["optimizer=sgd", "training.log_every=60"]
    whole, parts = program_of(settings(*words)), program_of(settings(*words, "trainer.accumulate=5"))
    for step in range(60):
        whole.training_step(step, [1.0])
        parts.training_step(step, [1.0])
    (one,), (other,) = whole.fetch_window(60), parts.fetch_window(60)
    assert other.means == pytest.approx(one.means, rel=1e-4)


def test_clipping_and_parts_are_part_of_the_identity_and_their_absence_is_not(settings: Resolve) -> None:
    ids = [
        run_id(settings(*words))
        for words in (
            [],
            ["+optimizer.clip_norm=null", "trainer.accumulate=1", "+optimizer.players={}"],
            ["+optimizer.clip_norm=1.0"],
            ["trainer.accumulate=2"],
            ["+optimizer.players.model.lr=0.5"],
        )
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4


# --- generators ------------------------------------------------------------------------------------------------------


def test_a_run_that_draws_from_global_generators_is_the_same_every_time(settings: Resolve, tmp_path: Path) -> None:
    # Regression: seven attempts ended with seven losses.
    words = ["optimizer=integer_madam", "optimizer.init=random"]
    for make in (lambda *more: settings(*words, *more), lambda *more: game(settings, *more)):
        chosen = [make(f"machine.results={tmp_path / folder}") for folder in ("a", "b")]
        for one in chosen:
            torch.rand(3)
            np.random.rand()
            run(one)
        assert metrics(chosen[0]) == metrics(chosen[1])


def test_a_task_that_draws_from_a_global_generator_is_not_packed_and_told_why(
    settings: Resolve, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = [game(settings, f"seed={seed}", task="Dropped") for seed in range(2)]
    outcomes = run_pack(plan(chosen), max_members=None, memory_fraction=0.5)
    assert outcomes == [Status.FINISHED] * 2
    assert [record_of(one).provenance["attempts"][0]["members"] for one in chosen] == [1, 1]
    assert caplog.messages == [
        "2 runs are run one by one: its loss draws from torch's generator, which the members of a pack would share"
    ]


@pytest.mark.parametrize("words", ["+optimizer.clip_norm=1.0", "trainer.accumulate=2"])
def test_what_a_pack_cannot_do_is_done_alone_and_told(
    settings: Resolve, caplog: pytest.LogCaptureFixture, words: str
) -> None:
    chosen = [settings(words, f"seed={seed}") for seed in range(2)]
    assert run_pack(plan(chosen), max_members=None, memory_fraction=0.5) == [Status.FINISHED] * 2
    assert f"is run alone: {words.removeprefix('+')} does not pack" in caplog.text


def test_a_sweep_is_checked_for_the_optimizers_of_players_too(settings: Resolve) -> None:
    with pytest.raises(SettingsError, match=r"torch\.optim\.Nothing"):
        build.check([game(settings, "+optimizer.players.generator.target=torch.optim.Nothing")])
