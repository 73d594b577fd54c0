"""Several processes share a run, with all parameters each or a share of them; and memory that is computed again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from reltrust.data.order import BatchOrder
from reltrust.errors import DamagedError
from reltrust.experiment import Measured, Player
from reltrust.models.decoder import Decoder
from reltrust.records import checkpoint
from reltrust.records.store import Status
from reltrust.settings import Settings
from runs import record_of, run, stopped
from test_ranks import on_two_ranks

Resolve = Callable[..., Settings]
VOCABULARY, LENGTH = 11, 6


class TinyLM:
    """A decoder of two blocks on numbers that were drawn, in float64 or float32."""

    def __init__(self, parts: int, seed: int, dtype: torch.dtype) -> None:
        self.parts = parts
        self.rows = torch.randint(VOCABULARY, (48, LENGTH + 1), generator=torch.Generator().manual_seed(1))
        self.order = BatchOrder(48, 8, seed, torch.device("cpu"))
        # The vocabulary is odd, so that shares are of unequal sizes.
        self.module = Decoder(VOCABULARY, width=12, layers=2, heads=2, positions=LENGTH).to(dtype)
        self.blocks = list(self.module.blocks)
        self.players = (Player("model", list(self.module.parameters()), self.loss, ("train_loss",)),)

    def loss(self, step: int, part: int) -> tuple[Tensor, ...]:
        rows = self.rows[self.order.batch(step, part, self.parts)]
        return (self.module(rows[:, :-1], rows[:, 1:]),)

    @torch.no_grad()
    def evaluate(self) -> Measured:
        return Measured({"test_loss": float(self.module(self.rows[:, :-1], self.rows[:, 1:]))})


class TwoPlayers(TinyLM):
    def __init__(self, parts: int, seed: int, dtype: torch.dtype) -> None:
        super().__init__(parts, seed, dtype)
        (player,) = self.players
        self.players = (replace(player, name="one", params=player.params[:2]), replace(player, name="two"))  # type: ignore[assignment]


@dataclass(frozen=True)
class Subject:
    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ()
    pack_keys: ClassVar[tuple[str, ...] | None] = None
    slug: ClassVar[str] = "tiny"
    dtype: str = "float64"
    players: int = 1

    def check(self, settings: Settings) -> None: ...

    def build(self, settings: Settings, device: torch.device) -> Any:
        kind = TinyLM if self.players == 1 else TwoPlayers
        return kind(settings.trainer.accumulate, settings.seed, getattr(torch, self.dtype))


STEPS = 10
# Of sharded Muon, which orthogonalises in bfloat16, where the order of a sum counts.
MUON_LOSSES, MUON_WEIGHTS = 1e-4, 2e-3
OPTIMIZERS = {
    "fromage": [], "madam": [], "adamw": [], "muon": [],
    "integer_madam": ["optimizer.base_lr=0.001"],
    "sgd": ["+optimizer.clip_norm=0.5"],
}  # fmt: skip
RESUMED = [("madam", "sharded"), ("muon", "sharded"), ("sgd", "sharded"), ("integer_madam", "replicated")]
SHARED = {"replicated": [], "sharded": ["machine.shard=true"]}


@dataclass(frozen=True)
class Runs:
    """Settings of a small run in a results folder of its name."""

    settings: Resolve
    folder: Path

    def __call__(self, name: str, *words: str, **subject: Any) -> Settings:
        fixed = ["data=digits", f"training.steps={STEPS}", "training.batch_size=8", "training.evaluate_every=1"]
        fixed += ["training.log_every=1", "trainer.accumulate=2", f"machine.results={self.folder / name}"]
        return replace(self.settings(*fixed, *words), task=Subject(**subject), data=None)


@pytest.fixture
def of(settings: Resolve, tmp_path: Path) -> Runs:
    return Runs(settings, tmp_path)


def losses(one: Settings) -> list[float]:
    """After each step, of all rows, in float64; a training loss has seven digits in a record."""
    return [row["test_loss"] for row in record_of(one).metrics]


def kept(one: Settings) -> dict[str, Any]:
    state = checkpoint.load(record_of(one).checkpoint_path)
    assert state is not None
    return state


@pytest.mark.timeout(1800)
def test_two_processes_compute_what_one_does_and_go_on_with_what_the_other_left(of: Runs) -> None:
    # One test, since starting two processes takes longer than all that they compute.
    words = {name: [f"optimizer={name}", *own, "machine.keep=checkpoint"] for name, own in OPTIMIZERS.items()}
    alone = {name: of(f"alone {name}", *own) for name, own in words.items()}
    together = {
        (name, how): of(f"{how} {name}", *own, *shared) for name, own in words.items() for how, shared in SHARED.items()
    }
    single = {name: of(f"single {name}", *words[name], dtype="float32") for name in ("sgd", "fromage")}
    both = {
        (name, how): of(f"single {how} {name}", *words[name], *shared, dtype="float32")
        for name in single
        for how, shared in SHARED.items()
    }
    # Stopped on two, to be resumed on one, and the other way round.
    from_two = {(name, how): of(f"two-one {how} {name}", *words[name], *SHARED[how]) for name, how in RESUMED}
    from_one = {(name, how): of(f"one-two {how} {name}", *words[name], *SHARED[how]) for name, how in RESUMED}
    for one in (*alone.values(), *single.values()):
        assert run(one) is Status.FINISHED
    for one in from_one.values():
        with stopped(at=4):
            assert run(one) is Status.PREEMPTED
    refused = of("refused", "machine.shard=true", players=2)
    given = on_two_ranks(
        *((one, None) for one in (*together.values(), *both.values())),
        *((one, 4) for one in from_two.values()),
        *((one, None) for one in from_one.values()),
        (refused, None),
    )
    expected = ["finished"] * (len(together) + len(both)) + ["preempted"] * len(from_two) + ["finished"] * len(from_one)
    said = "SettingsError: machine.shard=true: only for a task of one player, this one has one, two"
    for answers in given:
        assert answers == [*expected, said]
    for (name, how), one in from_two.items():
        path = record_of(one).path
        assert len(list(path.glob("checkpoint-4-0.shards/*.distcp"))) == (2 if how == "sharded" else 0)
        assert run(one) is Status.FINISHED, (name, how)

    for (name, how), one in [*together.items(), *from_two.items(), *from_one.items()]:
        assert [row["step"] for row in record_of(one).metrics] == list(range(1, STEPS + 1))
        bfloat16 = (name, how) == ("muon", "sharded")
        off = MUON_LOSSES if bfloat16 else 1e-10
        assert losses(one) == pytest.approx(losses(alone[name]), rel=0, abs=off), (name, how)
        assert kept(one)["step"] == STEPS
        models = [kept(run)["program"]["model"] for run in (one, alone[name])]
        torch.testing.assert_close(*models, rtol=0, atol=MUON_WEIGHTS if bfloat16 else 1e-10)
    for (name, _), one in both.items():
        assert losses(one) == pytest.approx(losses(single[name]), rel=0, abs=1e-5)

    # What is kept of a sharded run is as of any other: whole tensors under the same names, and no folder of the past.
    for (name, how), one in together.items():
        tolerance = MUON_WEIGHTS if (name, how) == ("muon", "sharded") else 1e-10
        for own, other in zip(optimizers(one), optimizers(alone[name]), strict=True):
            # The dtype of shared levels is one that collectives know.
            torch.testing.assert_close(own["state"], other["state"], rtol=0, atol=tolerance, check_dtype=False)
            # Shares have no fused SGD.
            assert [dict(g, fused=None) for g in own["param_groups"]] == [
                dict(g, fused=None) for g in other["param_groups"]
            ]
        shards = sorted(path.name for path in record_of(one).path.glob("*.shards"))
        assert shards == (["checkpoint-10-0.shards"] if how == "sharded" else [])
        assert record_of(one).provenance["attempts"][0]["processes"] == 2
    damage_one_share(together["fromage", "sharded"])


def optimizers(one: Settings) -> list[dict[str, Any]]:
    """The states of all that a run's optimizer is made of."""
    return [part for whole in kept(one)["program"]["optimizers"] for part in whole.get("parts", [whole])]


def damage_one_share(one: Settings) -> None:
    """A share that is not what was written is found out, by name."""
    path = record_of(one).checkpoint_path
    (share, *_) = sorted(path.parent.glob("*.shards/*.distcp"))
    content = bytearray(share.read_bytes())
    content[len(content) // 2] ^= 1
    share.write_bytes(content)
    assert checkpoint.step(path) == 0  # as if there were none
    share.unlink()
    with pytest.raises(DamagedError, match=rf"{share.name}: damaged: its checksum is another, or it is missing"):
        checkpoint._read(path, False)
