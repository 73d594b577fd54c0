"""Ranks: two processes, joined by gloo as torchrun joins them, compute one run."""

import os
import random
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.data.order import BatchOrder
from reltrust.errors import SettingsError
from reltrust.experiment import Measured, Player
from reltrust.records.identity import run_id
from reltrust.records.store import Status
from reltrust.settings import Settings
from reltrust.training import ranks
from reltrust.training.program import Program
from reltrust.training.sharing import Sharing
from runs import program_of, record_of, run

Resolve = Callable[..., Settings]


class Regression:
    """A toy in float64, in which one process and two agree to 1e-10: in float32 deep networks part chaotically."""

    def __init__(self, parts: int, seed: int) -> None:
        self.parts = parts
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(64, 3, generator=generator, dtype=torch.float64)
        self.y = torch.randn(64, 1, generator=generator, dtype=torch.float64)
        self.order = BatchOrder(64, 16, seed, torch.device("cpu"))
        self.module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        self.players = (Player("model", list(self.module.parameters()), self.loss, ("train_loss",)),)

    def loss(self, step: int, part: int) -> tuple[Tensor, ...]:
        chosen = self.order.batch(step, part, self.parts)
        return (F.mse_loss(self.module(self.x[chosen]), self.y[chosen]),)

    @torch.no_grad()
    def evaluate(self) -> Measured:
        return Measured({"test_loss": float(F.mse_loss(self.module(self.x), self.y))}, {"sample.txt": b"a sample"})


class Noisy(Regression):
    """Draws from torch's global generator; each rank for itself."""

    def loss(self, step: int, part: int) -> tuple[Tensor, ...]:
        (loss,) = super().loss(step, part)
        return (loss * (1 + 0.1 * torch.rand(())),)


class Normalised(Regression):
    def __init__(self, parts: int, seed: int) -> None:
        super().__init__(parts, seed)
        self.module.append(nn.BatchNorm1d(1).double())


@dataclass(frozen=True)
class Subject:
    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ()
    pack_keys: ClassVar[tuple[str, ...] | None] = None
    slug: ClassVar[str] = "regression"
    task: str = "Regression"

    def check(self, settings: Settings) -> None: ...

    def build(self, settings: Settings, device: torch.device) -> Any:
        tasks = {"Regression": Regression, "Noisy": Noisy, "Normalised": Normalised}
        return tasks[self.task](settings.trainer.accumulate, settings.seed)


def toy(settings: Resolve, *words: str, task: str = "Regression") -> Settings:
    fixed = ["data=digits", "training.steps=60", "training.batch_size=16", "training.evaluate_every=30"]
    return replace(settings(*fixed, "training.log_every=10", *words), task=Subject(task=task), data=None)


def as_rank(rank: int, ports: Sequence[int], runs: Sequence[tuple[Settings, int | None]], answers: Any) -> None:
    """One rank's life: each run in turn; rank 1 alone gets a SIGTERM after the step that stands beside the run."""
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {key: str(value) for key, value in world.items()} | {"TORCHELASTIC_RUN_ID": "test"}
    torch.set_num_threads(1)
    training_step, at = Program.training_step, None

    def stopping(self: Program, step: int, factors: Sequence[float]) -> None:
        training_step(self, step, factors)
        if rank == 1 and step + 1 == at:
            os.kill(os.getpid(), signal.SIGTERM)

    Program.training_step = stopping  # type: ignore[method-assign]
    for (settings, at), port in zip(runs, ports, strict=True):  # noqa: B007 (`at` is read by the closure above)
        os.environ["MASTER_PORT"] = str(port)
        try:
            answers.put((rank, str(run(settings))))
        except Exception as error:  # what the parent is to see
            answers.put((rank, f"{type(error).__name__}: {error}"))


def free_ports(count: int) -> list[int]:
    """Below those that clients are given: one that waits for such a port may be given it, and connects to itself."""
    found: list[int] = []
    for port in random.Random().sample(range(10_000, 30_000), 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            break
    return found


def on_two_ranks(*runs: tuple[Settings, int | None]) -> tuple[list[str], list[str]]:
    """What each rank answers, run by run."""
    ports = free_ports(len(runs))
    context = get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=as_rank, args=(rank, ports, runs, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    given = [answers.get(timeout=300) for _ in range(2 * len(runs))]
    for process in processes:
        process.join(60)
    of_rank = [[answer for rank, answer in given if rank == wanted] for wanted in range(2)]
    return of_rank[0], of_rank[1]


@pytest.mark.timeout(600)
def test_two_ranks_compute_the_run_of_one_process_stop_together_and_resume(settings: Resolve, tmp_path: Path) -> None:
    # One test, since starting two processes takes longer than all that they compute.
    clipped = ["optimizer=adam", "+optimizer.clip_norm=0.5", "machine.keep=checkpoint"]
    alone = toy(settings, *clipped, f"machine.results={tmp_path / 'alone'}")
    together = toy(settings, *clipped, f"machine.results={tmp_path / 'together'}")
    stopped = toy(settings, *clipped, f"machine.results={tmp_path / 'stopped'}")
    noisy = [toy(settings, f"machine.results={tmp_path / name}", task="Noisy") for name in ("whole", "broken")]
    refused = [toy(settings, task="Normalised"), toy(settings, "trainer.accumulate=16")]
    assert run(alone) is Status.FINISHED
    answers = on_two_ranks(
        (together, None),
        (stopped, 33),
        (stopped, None),
        (noisy[0], None),
        (noisy[1], 27),
        (noisy[1], None),
        *((one, None) for one in refused),
    )
    for of_rank in answers:
        assert of_rank[:6] == ["finished", "preempted", "finished", "finished", "preempted", "finished"]
        assert of_rank[6] == (
            "SettingsError: 2 ranks: the task normalises over its batch, of which a rank sees a part; use one process"
        )
        assert of_rank[7] == (
            "SettingsError: training.batch_size=16: must be divisible by trainer.accumulate=16 times the 2 ranks"
        )

    # Equal to one process: the mean of the ranks' gradients is that of the whole batch, before it is clipped.
    kept = [torch.load(record_of(one).checkpoint_path)["state"]["program"] for one in (alone, together, stopped)]
    for model in (kept[1]["model"], kept[2]["model"]):
        torch.testing.assert_close(model, kept[0]["model"], rtol=0, atol=1e-10)
    for one in (together, stopped):
        assert record_of(one).metrics[-1]["train_loss"] == pytest.approx(record_of(alone).metrics[-1]["train_loss"])

    # Rank 0 alone writes: one row a step, one attempt a command; the world size is no part of the run's id.
    assert [row["step"] for row in record_of(stopped).metrics] == [10, 20, 30, 40, 50, 60]
    assert len(record_of(together).provenance["attempts"]) == 1
    assert len(record_of(stopped).provenance["attempts"]) == 2
    assert len(list((record_of(together).path / "files").iterdir())) == 2
    assert record_of(together).provenance["id"] == run_id(alone)
    assert run_id(toy(settings, "training.batch_size=8")) != run_id(toy(settings))
    for one in refused:
        assert not record_of(one).path.exists()

    # Ranks draw for themselves, and go on drawing what they would have drawn.
    rows = [[{**row, "seconds": 0} for row in record_of(one).metrics] for one in noisy]
    assert rows[0] == rows[1]


def test_without_torchrun_there_is_one_rank_whatever_the_environment_says(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Schedulers set WORLD_SIZE for their own ends.
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert run(toy(settings)) is Status.FINISHED


def test_a_share_of_a_rank_is_a_part_of_the_batch(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reltrust.training.ranks.count", lambda: 2)
    monkeypatch.setattr("reltrust.training.sharing.share", lambda task, device, shard: Sharing(task))
    assert program_of(toy(settings, "trainer.accumulate=4")).task.parts == 8  # type: ignore[attr-defined]
    with pytest.raises(SettingsError, match="times the 2 ranks"):
        program_of(toy(settings, "trainer.accumulate=16"))


def test_each_rank_draws_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # Regression: a CPU's generator leaves out the high half of a seed, and all ranks had one mask of dropout.
    def drawn(rank: int | None) -> list[float]:
        torch.manual_seed(5)
        if rank is not None:
            monkeypatch.setattr(ranks, "rank", lambda: rank)
            ranks.part_generators(torch.device("cpu"))
        return torch.rand(3).tolist()

    assert drawn(0) == drawn(None)
    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(rank)) for rank in range(4)}) == 4


def test_a_rank_that_there_was_not_before_draws_numbers_of_its_own(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = program_of(toy(settings))
    (state,) = program.state_dicts()

    def drawn(count: int, rank: int) -> list[float]:
        monkeypatch.setattr(ranks, "count", lambda: count)
        monkeypatch.setattr(ranks, "rank", lambda: rank)
        torch.set_rng_state(state["generators"][0])  # as the checkpoint's own is loaded, by every rank
        program.load_state_dicts([state])
        return torch.rand(3).tolist()

    alone = drawn(1, 0)
    assert drawn(2, 0) == alone
    assert drawn(2, 1) != alone
    state["generators"].append(torch.Generator().manual_seed(9).get_state())  # saved by two
    assert drawn(2, 1) == torch.rand(3, generator=torch.Generator().manual_seed(9)).tolist()
    assert drawn(2, 0) == drawn(1, 0) == alone
