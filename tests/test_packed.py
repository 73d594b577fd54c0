"""Packed runs are the same runs: the same numbers, records and checkpoints as alone, and none disturbs another."""

import gc
import json
import logging
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reltrust.data import images
from reltrust.data.order import BatchOrder, PackedBatchOrder
from reltrust.errors import BusyError, RecordError, SettingsError
from reltrust.models.mlp import MLP, packed_mlp
from reltrust.packing import size as pack_size
from reltrust.packing import workers as workers_module
from reltrust.packing.grouping import group_into_packs
from reltrust.packing.program import PackedProgram
from reltrust.packing.runner import Outcome, run_pack
from reltrust.packing.size import member_bytes, packing_gain
from reltrust.packing.workers import run_packs
from reltrust.records import checkpoint
from reltrust.records.store import RunRecord, Status
from reltrust.settings import Launcher, Settings
from reltrust.sweeps.plan import plan
from reltrust.training.program import Program
from reltrust.training.stopping import StopRequest
from runs import OPTIMIZERS, metrics, program_of, record_of, run

Resolve = Callable[..., Settings]
CPU = torch.device("cpu")
MIXED = [
    [f"optimizer={optimizer}", f"optimizer.lr={lr}", f"seed={seed}"]
    for optimizer in OPTIMIZERS
    for lr, seed in ((0.01, 0), (0.002, 1))
]
FEW_STEPS = ("training.steps=12", "training.log_every=3", "training.evaluate_every=6", "schedule.every=3")


@pytest.fixture(autouse=True)
def _packing_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it does on the machine of the moment is no matter of these tests."""
    monkeypatch.setattr(pack_size, "packing_gain", lambda *_: 2.0)


def together(runs: Sequence[Settings], **options: Any) -> list[Outcome]:
    return run_pack(plan(runs), **({"max_members": None, "memory_fraction": 0.5} | options))


def close(rows: list[dict[str, Any]], others: list[dict[str, Any]], rel: float = 1e-5) -> bool:
    pairs = zip(rows, others, strict=True)
    return all(row.keys() == other.keys() and other == pytest.approx(row, rel=rel) for row, other in pairs)


# --- the same numbers ------------------------------------------------------------------------------------------------


def test_packed_perceptrons_are_perceptrons() -> None:
    torch.manual_seed(0)
    models = [MLP(12, 8, 3, 5) for _ in range(4)]
    x = torch.randn(4, 6, 12)
    stacks = [torch.stack(list(params)) for params in zip(*(m.parameters() for m in models), strict=True)]
    expected = torch.stack([model(one) for model, one in zip(models, x, strict=True)])
    assert torch.allclose(packed_mlp(stacks, x), expected, rtol=1e-5, atol=1e-7)


def test_every_member_sees_its_examples_in_its_own_order() -> None:
    seeds, steps = (3, 4, 8), 17
    orders = [BatchOrder(50, 8, seed, CPU) for seed in seeds]
    packed = PackedBatchOrder([BatchOrder(50, 8, seed, CPU) for seed in seeds])
    for step in [*range(steps), 2, 40]:
        assert torch.equal(packed.batch(step), torch.stack([order.batch(step) for order in orders]))


def test_all_runs_of_a_process_read_one_copy_of_the_data(settings: Resolve) -> None:
    chosen = [settings(f"seed={seed}") for seed in (0, 1)]
    tasks: list[Any] = [program_of(one).task for one in chosen]
    loaded = images.load("digits", chosen[0].machine.data).train.images
    assert tasks[0].data.train.images is tasks[1].data.train.images is loaded


def test_over_a_hundred_steps_every_optimizer_measures_in_a_mixed_pack_what_it_does_alone(settings: Resolve) -> None:
    words = ["scale=quick", "task.hidden_layers=5", "training.log_every=100", "training.evaluate_every=100"]
    chosen = [settings(*words, *own) for own in MIXED]
    chosen = [c for c in chosen if not (c.optimizer.name == "signsgd" and c.optimizer.lr > 0.005)]  # that is chaos
    alone = [program_of(one) for one in chosen]
    packed = PackedProgram([program_of(one) for one in chosen], [repr(one.optimizer) for one in chosen])
    for step in range(100):
        for program in alone:
            program.training_step(step, [0.99**step])
        packed.training_step(step, [0.99**step] * len(chosen))
    for one, program, member in zip(chosen, alone, packed.state_dicts(), strict=True):
        # After 100 steps the rounding of the first has grown, by how much the optimizer and the learning rate decide.
        assert member["measured"][:, 0].tolist() == pytest.approx(program.measured[:, 0].tolist(), rel=1e-5), one
    assert packed.lrs == pytest.approx([program.lrs[0] for program in alone])


def test_a_run_of_a_thousand_steps_ends_with_the_same_accuracy(settings: Resolve, tmp_path: Path) -> None:
    words = ["scale=quick", "task.hidden_layers=2", "training.steps=1200"]
    kinds = [("sgd_momentum", 0.01), ("adam", 0.001), ("fromage", 0.01)]
    for folder, runner in (("packed", together), ("alone", lambda runs: [run(one) for one in runs])):
        chosen = [
            settings(*words, f"optimizer={name}", f"optimizer.lr={lr}", f"machine.results={tmp_path / folder}")
            for name, lr in kinds
        ]
        assert runner(chosen) == [Status.FINISHED] * 3
        if folder == "packed":
            packed = [record_of(one).summary for one in chosen]
    for summary, one in zip(packed, chosen, strict=True):
        alone = record_of(one).summary
        assert summary.keys() == alone.keys()
        for accuracy in ("train_accuracy", "test_accuracy"):
            assert summary[accuracy] == pytest.approx(alone[accuracy], abs=0.005)


def test_members_may_have_schedules_and_initial_weights_of_their_own(settings: Resolve, tmp_path: Path) -> None:
    kinds = [
        ["optimizer=adam", "optimizer.lr=0.001", "schedule.decay=0.5"],
        ["optimizer=adam", "optimizer.lr=0.001"],
        ["optimizer=fromage", "schedule.every=10"],
        ["optimizer=fromage", "task.init=he"],
    ]
    packed = [settings(*words) for words in kinds]
    alone = [settings(*words, f"machine.results={tmp_path / 'alone'}") for words in kinds]
    assert together(packed) == [Status.FINISHED] * 4
    for one, other in zip(packed, alone, strict=True):
        run(other)
        assert close(metrics(one), metrics(other), rel=1e-4)
    assert record_of(packed[0]).provenance["attempts"][0]["members"] == 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_is_that_of_the_settings_and_the_record_says_which(
    settings: Resolve, tmp_path: Path, precision: str
) -> None:
    words = [f"trainer.precision={precision}", "optimizer=fromage"]
    packed = [settings(*words, f"seed={seed}") for seed in range(2)]
    alone = settings(*words, "seed=1", f"machine.results={tmp_path / 'alone'}")
    together(packed)
    run(alone)
    assert record_of(packed[0]).config["trainer"]["precision"] == precision
    # bfloat16 has three digits
    assert close(metrics(packed[1]), metrics(alone), rel=1e-5 if precision == "fp32" else 0.1)
    full = metrics(settings("optimizer=fromage", "seed=1")) if precision == "bf16" else []
    assert full == [] or full != metrics(packed[1])


def test_tf32_needs_cuda(settings: Resolve) -> None:
    chosen = [settings("trainer.precision=tf32", f"seed={seed}") for seed in range(2)]
    for outcome in together(chosen):
        assert isinstance(outcome, SettingsError)
        assert "trainer.precision='tf32': needs machine.device=cuda" in str(outcome)
    assert not Path(chosen[0].machine.results).exists()


# --- the same records ------------------------------------------------------------------------------------------------


def test_a_member_leaves_the_record_of_a_run_alone(settings: Resolve, tmp_path: Path) -> None:
    packed = [settings(f"seed={seed}") for seed in range(3)]
    alone = settings("seed=1", f"machine.results={tmp_path / 'alone'}")
    together(packed)
    run(alone)
    one, other = record_of(packed[1]), record_of(alone)
    assert {p.name for p in one.path.iterdir()} == {p.name for p in other.path.iterdir()}
    assert one.path.name == other.path.name
    assert one.status is other.status is Status.FINISHED
    assert one.provenance.keys() == other.provenance.keys()
    assert one.provenance["id"] == other.provenance["id"]
    assert close(metrics(packed[1]), metrics(alone))
    assert one.summary.keys() == other.summary.keys()
    assert [row.keys() for row in one.metrics] == [row.keys() for row in other.metrics]


def test_the_time_of_a_pack_is_shared_among_its_members(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(4)]
    step, now = PackedProgram.training_step, [0.0]

    def slowly(self: PackedProgram, number: int, factors: Sequence[float]) -> None:
        step(self, number, factors)
        now[0] += 2.0

    monkeypatch.setattr(PackedProgram, "training_step", slowly)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    together(chosen)
    assert [record_of(one).summary["seconds"] for one in chosen] == pytest.approx([120 * 2 / 4] * 4)


def test_what_is_finished_is_not_run_again_and_a_store_may_be_filled_by_both(settings: Resolve) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(4)]
    run(chosen[1])
    before = record_of(chosen[1]).status_time
    assert together(chosen) == [Status.FINISHED] * 4
    assert record_of(chosen[1]).status_time == before
    assert [len(record_of(one).provenance["attempts"]) for one in chosen] == [1] * 4
    assert [record_of(one).provenance["attempts"][0]["members"] for one in chosen] == [3, 1, 3, 3]
    times = [record_of(one).status_time for one in chosen]
    assert together(chosen) == [Status.FINISHED] * 4
    assert times == [record_of(one).status_time for one in chosen]


def test_a_pack_shows_how_many_of_its_members_run_and_how_fast(
    settings: Resolve, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["machine.progress=true", "optimizer=sgd"]
    together([settings(*words, f"optimizer.lr={lr}") for lr in (0.1, 0.01, 1e30)])
    told = capsys.readouterr().err
    assert "3 runs, depth2-lr0.1-seed0" in told
    assert re.search(r"step 120/120 finished 2 diverged 1, [\d,]+ member-steps/s, 0 s left", told)


# --- members fail alone ----------------------------------------------------------------------------------------------


@pytest.mark.capability
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_member_that_diverges_ends_at_its_step_and_leaves_the_others_as_they_are_to_the_bit(
    settings: Resolve, tmp_path: Path, place: int
) -> None:
    good = [settings("optimizer=fromage", "seed=1"), settings("optimizer=adam", "optimizer.lr=0.001", "seed=2")]
    together(good)
    expected = [metrics(one) for one in good]

    where = f"machine.results={tmp_path / 'with'}"
    good = [
        settings("optimizer=fromage", "seed=1", where),
        settings("optimizer=adam", "optimizer.lr=0.001", "seed=2", where),
    ]
    bad = settings("optimizer=sgd", "optimizer.lr=1e30", where)
    company = [*good[:place], bad, *good[place:]]
    outcomes = together(company)
    assert outcomes[place] is Status.DIVERGED
    assert [metrics(one) for one in good] == expected

    alone = settings("optimizer=sgd", "optimizer.lr=1e30", f"machine.results={tmp_path / 'alone'}")
    run(alone)
    assert record_of(bad).summary["diverged_at"] == record_of(alone).summary["diverged_at"]
    assert metrics(bad) == metrics(alone)


@pytest.mark.capability
# After the first has left, every other stands elsewhere in memory.
@pytest.mark.parametrize(
    ("optimizer", "place"),
    [*((name, 0) for name in OPTIMIZERS), *product(("adam", "integer_madam", "novograd"), (1, 2))],
)
def test_a_member_that_leaves_changes_no_bit_of_those_it_shares_an_optimizer_with(
    settings: Resolve, optimizer: str, place: int
) -> None:
    words = ["training.log_every=60", f"optimizer={optimizer}", "optimizer.lr=0.01"]
    chosen = [settings(*words, f"seed={seed}") for seed in range(3)]
    others = [k for k in range(3) if k != place]
    packs = [PackedProgram([program_of(one) for one in chosen], ["same"] * 3) for _ in range(2)]
    seen: list[list[Any]] = [[], []]
    for step in range(180):
        if step == 60:
            packs[1].retain(others)
        for i, pack in enumerate(packs):
            pack.training_step(step, [0.99**step] * (2 if i and step >= 60 else 3))
            if step % 60 == 59:
                windows = pack.fetch_window(step + 1)
                seen[i] += [windows[k] for k in others] if len(windows) == 3 else windows
    assert seen[0] == seen[1]
    whole, kept = [packs[0].state_dicts()[k]["model"] for k in others], [s["model"] for s in packs[1].state_dicts()]
    for one, other in zip(whole, kept, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_pack_of_which_every_member_diverges_ends(settings: Resolve) -> None:
    chosen = [settings("optimizer=sgd", "optimizer.lr=1e30", f"seed={seed}") for seed in range(2)]
    assert together(chosen) == [Status.DIVERGED] * 2
    assert all(record_of(one).summary["steps"] == 30 for one in chosen)


def test_a_member_that_cannot_begin_leaves_the_others_alone(settings: Resolve) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(3)]
    other = RunRecord(record_of(chosen[1]).path)
    other.begin(chosen[1], "cpu")
    outcomes = together(chosen)
    assert isinstance(outcomes[1], BusyError)
    assert [outcomes[0], outcomes[2]] == [Status.FINISHED] * 2
    other.preempted()
    assert together(chosen) == [Status.FINISHED] * 3


def test_a_member_that_raises_an_error_fails_alone_and_tells_where(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = [settings("optimizer=sgd", f"optimizer.lr={lr}") for lr in (0.1, 0.03, 0.02, 0.01, 1e30)]
    evaluate = Program.evaluate

    def failing(self: Program) -> list[dict[str, float]]:
        if self.initial_lrs == [[0.02]]:
            raise ZeroDivisionError("as planned")
        return evaluate(self)

    monkeypatch.setattr(Program, "evaluate", failing)
    outcomes = together(chosen)
    assert [outcomes[i] for i in (0, 1, 3, 4)] == [*[Status.FINISHED] * 3, Status.DIVERGED]
    assert isinstance(outcomes[2], ZeroDivisionError)
    assert record_of(chosen[2]).status is Status.FAILED
    assert record_of(chosen[2]).error == "ZeroDivisionError: as planned"
    trace = json.loads((record_of(chosen[2]).path / "status.json").read_text())["traceback"]
    assert any("in failing" in line for line in trace)
    assert caplog.messages[0] == "ZeroDivisionError: as planned with 5 runs at once, going on with 3"
    monkeypatch.undo()
    assert together(chosen) == [*[Status.FINISHED] * 4, Status.DIVERGED]


def test_a_member_whose_record_is_gone_fails_alone(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(3)]
    append, gone = RunRecord.append, record_of(chosen[1]).path

    def appending(self: RunRecord, row: dict[str, Any]) -> None:
        if self.path == gone and row["step"] == 60:
            shutil.rmtree(gone)
        append(self, row)

    monkeypatch.setattr(RunRecord, "append", appending)
    outcomes = together(chosen)
    assert isinstance(outcomes[1], RecordError)
    assert [outcomes[0], outcomes[2]] == [Status.FINISHED] * 2
    monkeypatch.undo()
    assert together(chosen) == [Status.FINISHED] * 3


def test_what_is_wrong_with_runs_before_their_first_step_ends_no_other_run(settings: Resolve, tmp_path: Path) -> None:
    both = ["+optimizer.foreach=true", "+optimizer.fused=true"]  # Adam takes one of them
    chosen = [settings("optimizer=adam", *both), *(settings(f"optimizer={name}") for name in ("fromage", "lars"))]
    outcomes = together(chosen)
    assert isinstance(outcomes[0], SettingsError)
    assert outcomes[1:] == [Status.FINISHED] * 2


class UnreadableError(Exception):
    """Another process cannot read it: its constructor wants two arguments."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


def test_an_error_that_cannot_be_sent_to_another_process_is_told_in_words(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UnreadableError("no", "reason")

    monkeypatch.setattr(Program, "training_step", refuse)
    (outcome,) = together([settings()])
    assert isinstance(outcome, RuntimeError)
    assert str(pickle.loads(pickle.dumps(outcome))) == "UnreadableError: no: reason"


def test_a_member_that_has_left_is_not_kept_in_memory(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [settings("optimizer=adam", f"seed={seed}") for seed in range(3)]
    chosen.append(settings("optimizer=sgd", "optimizer.lr=1e30"))
    take, stacks = PackedProgram._stack, []

    def taking(self: PackedProgram) -> None:
        take(self)
        stacks.append([StorageWeakRef(weights.untyped_storage()) for weights in self._weights])

    def look(self: PackedProgram) -> list[dict[str, float]]:
        gc.collect()
        assert all(reference.expired() for stack in stacks[:-1] for reference in stack)
        return evaluate(self)

    evaluate = PackedProgram.evaluate
    monkeypatch.setattr(PackedProgram, "_stack", taking)
    monkeypatch.setattr(PackedProgram, "evaluate", look)
    assert together(chosen, require_packing=True) == [*[Status.FINISHED] * 3, Status.DIVERGED]
    assert len(stacks) == 2


# --- interruption ----------------------------------------------------------------------------------------------------


def interrupted(monkeypatch: pytest.MonkeyPatch, runs: Sequence[Settings], at: int) -> None:
    """The runs, asked to stop after so many steps."""
    step = PackedProgram.training_step

    def interrupting(self: PackedProgram, number: int, factors: Sequence[float]) -> None:
        step(self, number, factors)
        if number + 1 == at:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(PackedProgram, "training_step", interrupting)
        outcomes = together(runs)
    assert set(outcomes) <= {Status.PREEMPTED, Status.DIVERGED}
    assert Status.PREEMPTED in outcomes


@pytest.mark.capability
@pytest.mark.parametrize("at", [30, 47])
def test_a_pack_that_is_asked_to_stop_goes_on_as_if_undisturbed_to_the_bit(
    settings: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    kinds = [[f"optimizer={name}", "optimizer.lr=0.01"] for name in OPTIMIZERS]
    kinds.append(["optimizer=sgd", "optimizer.lr=1e30"])
    whole = [settings(*words, f"machine.results={tmp_path / 'whole'}") for words in kinds]
    together(whole)

    broken = [settings(*words) for words in kinds]
    interrupted(monkeypatch, broken, at)
    for one in broken[:-1]:
        record = record_of(one)
        assert record.status is Status.PREEMPTED
        assert record.checkpoint_path.stat().st_size < 3e5  # its own weights and state, and nobody else's
    assert record_of(broken[-1]).status is Status.DIVERGED if at == 30 else Status.PREEMPTED
    assert together(broken) == [*[Status.FINISHED] * len(OPTIMIZERS), Status.DIVERGED]
    for one, other in zip(broken, whole, strict=True):
        assert metrics(one) == metrics(other), one.optimizer
        assert not record_of(one).checkpoint_path.exists()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loaded", [False, True])
def test_a_members_checkpoint_is_that_of_the_run_alone(settings: Resolve, optimizer: str, loaded: bool) -> None:
    words = [f"optimizer={optimizer}", "optimizer.lr=0.004"]
    chosen = [settings(*words, f"seed={seed}") for seed in range(3)]
    alone = program_of(chosen[2])
    pack = PackedProgram([program_of(one) for one in chosen])
    for step in range(6):
        alone.training_step(step, [0.5])
        pack.training_step(step, [0.5] * 3)
    pack.retain([0, 2])
    if loaded:
        states = pack.state_dicts()
        pack = PackedProgram([program_of(one) for one in (chosen[0], chosen[2])])
        pack.load_state_dicts(states)
    (expected,), (_, state) = alone.state_dicts(), pack.state_dicts()
    assert pack.lrs == pytest.approx([0.002, 0.002])

    def compare(one: Any, other: Any) -> None:
        assert type(one) is type(other)
        if isinstance(one, torch.Tensor):
            assert one.shape == other.shape
            assert one.dtype == other.dtype
            assert torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-7)
            assert other.untyped_storage().nbytes() == other.numel() * other.element_size()
        elif isinstance(one, dict):
            assert one.keys() == other.keys()
            for key in one:
                compare(one[key], other[key])
        elif isinstance(one, list | tuple):
            assert len(one) == len(other)
            for a, b in zip(one, other, strict=True):
                compare(a, b)
        else:
            assert one == other

    compare(expected, state)


# What the members' checkpoints hold is compared for every optimizer above.
@pytest.mark.parametrize("optimizer", ["adam", "fromage", "integer_madam", "novograd"])
def test_a_run_goes_on_alone_from_a_packs_checkpoint_and_in_a_pack_from_its_own(
    settings: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    words = [f"optimizer={optimizer}", "optimizer.lr=0.005"]
    chosen = [settings(*words, f"seed={seed}") for seed in range(2)]
    whole = settings(*words, f"machine.results={tmp_path / 'whole'}")
    run(whole)

    interrupted(monkeypatch, chosen, 47)
    assert run(chosen[0]) is Status.FINISHED
    assert close(metrics(chosen[0]), metrics(whole), rel=1e-3)
    other = settings(*words, "seed=1", f"machine.results={tmp_path / 'other'}")
    run(other)
    assert together(chosen) == [Status.FINISHED] * 2  # the other one goes on, alone
    assert close(metrics(chosen[1]), metrics(other), rel=1e-3)


def test_runs_that_stopped_at_different_steps_are_packed_with_their_like(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(5)]
    interrupted(monkeypatch, chosen[:2], 30)
    interrupted(monkeypatch, chosen[2:4], 60)
    assert together(chosen) == [Status.FINISHED] * 5
    members = [record_of(one).provenance["attempts"][-1]["members"] for one in chosen]
    assert members == [2, 2, 2, 2, 1]


def test_what_was_to_come_after_an_interruption_is_not_begun(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(6)]
    step = PackedProgram.training_step

    def interrupting(self: PackedProgram, number: int, factors: Sequence[float]) -> None:
        step(self, number, factors)
        if number == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(PackedProgram, "training_step", interrupting)
    assert together(chosen, max_members=2) == [Status.PREEMPTED] * 6
    assert [record_of(one).status for one in chosen] == [Status.PREEMPTED] * 2 + [None] * 4


def test_once_asked_to_stop_nothing_is_even_measured(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_size, "packing_gain", lambda *_: pytest.fail("measured"))
    chosen = [settings(f"seed={seed}") for seed in range(3)]
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert together(chosen) == [Status.PREEMPTED] * 3


# --- memory ----------------------------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_pack_and_loses_no_result(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = [settings("optimizer=fromage", f"seed={seed}") for seed in range(5)]
    chosen.append(settings("optimizer=sgd", "optimizer.lr=1e30"))
    step = PackedProgram.training_step

    def greedy(self: PackedProgram, number: int, factors: Sequence[float]) -> None:
        if len(factors) > 3 and number == 45:  # after the last one has diverged
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self, number, factors)

    monkeypatch.setattr(PackedProgram, "training_step", greedy)
    with caplog.at_level(logging.WARNING):
        assert together(chosen) == [*[Status.FINISHED] * 5, Status.DIVERGED]
    assert [record.message for record in caplog.records] == ["out of memory with 6 runs at once, going on with 3"]
    assert [len(record_of(one).provenance["attempts"]) for one in chosen] == [2] * 5 + [1]
    assert [row["step"] for row in metrics(chosen[0])] == [30, 60, 90, 120]


def test_a_pack_that_ran_out_of_memory_is_gone_before_its_halves_begin(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, alive = PackedProgram._stack, weakref.WeakSet[PackedProgram]()

    def taking(self: PackedProgram) -> None:
        assert len(alive) == 0, "an earlier pack is still in memory"
        alive.add(self)
        take(self)
        if len(self._members) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PackedProgram, "_stack", taking)
    chosen = [settings(*FEW_STEPS, f"seed={seed}") for seed in range(4)]
    assert together(chosen) == [Status.FINISHED] * 4
    assert [len(record_of(one).provenance["attempts"]) for one in chosen] == [3] * 4


def test_out_of_memory_while_checkpoints_are_written_loses_no_run(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = "machine.checkpoint_minutes=1e-9"  # after every step
    chosen = [settings(often, *FEW_STEPS, f"seed={seed}") for seed in range(4)]
    save, saved = checkpoint.save, [0]

    def failing(path: Path, state: dict[str, Any]) -> None:
        saved[0] += 1
        if saved[0] == 6:
            raise MemoryError
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", failing)
    assert together(chosen) == [Status.FINISHED] * 4
    assert saved[0] > 6


def test_a_trial_that_runs_out_of_memory_is_repeated_with_fewer(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def trial(runs: Sequence[Settings], device: torch.device, most: int) -> float:
        asked.append(most)
        if most > 4:
            raise MemoryError
        return 2.0

    monkeypatch.setattr(pack_size, "packing_gain", trial)
    chosen = [settings(*FEW_STEPS, f"seed={seed}") for seed in range(12)]
    together(chosen)
    assert asked == [12, 4]
    assert [record_of(one).provenance["attempts"][0]["members"] for one in chosen] == [4] * 12


def test_a_run_whose_checkpoint_is_damaged_begins_from_the_start_among_the_others(
    settings: Resolve, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(3)]
    record_of(chosen[1]).path.mkdir(parents=True)
    record_of(chosen[1]).checkpoint_path.write_bytes(b"garbage")
    outcomes = together(chosen)
    assert outcomes == [Status.FINISHED] * 3
    assert "going on from the start" in caplog.text


def test_a_run_that_does_not_even_fit_alone_fails(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(2)]

    def refuse(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")

    monkeypatch.setattr(PackedProgram, "training_step", refuse)
    monkeypatch.setattr("reltrust.training.program.Program.training_step", refuse)
    assert [type(outcome) for outcome in together(chosen)] == [RuntimeError] * 2
    assert [record_of(one).status for one in chosen] == [Status.FAILED] * 2


def test_a_pack_is_as_large_as_the_share_of_the_memory_allows(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(6)]
    needed = member_bytes(program_of(chosen[0]))
    weights = sum(p.numel() * 4 for p in program_of(chosen[0]).task.players[0].params)
    assert 6 * weights < needed < 20 * weights
    monkeypatch.setattr(pack_size, "free_memory", lambda _: 8 * needed)
    together(chosen, memory_fraction=0.5)
    assert [record_of(one).provenance["attempts"][0]["members"] for one in chosen] == [3] * 6


def test_a_task_with_a_parameter_that_its_loss_does_not_use_is_not_packed(settings: Resolve) -> None:
    # Regression: the next parameter of its shape was moved by the wrong gradient.
    program = program_of(settings())
    (player,) = program.task.players
    player.params.append(torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(ValueError, match="does not use every parameter"):
        member_bytes(program)


# --- what is not packed ----------------------------------------------------------------------------------------------


def test_runs_are_run_one_by_one_where_packing_does_not_pay(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pack_size, "packing_gain", lambda *_: 0.8)
    chosen = [settings(f"seed={seed}") for seed in range(2)]
    assert together(chosen) == [Status.FINISHED] * 2
    assert [record_of(one).provenance["attempts"][0]["members"] for one in chosen] == [1, 1]
    assert caplog.messages == ["2 runs are run one by one: packed, a step would take 1.25 of its time"]
    chosen = [settings(f"seed={seed}") for seed in range(2, 4)]
    assert together(chosen, require_packing=True) == [Status.FINISHED] * 2
    assert [record_of(one).provenance["attempts"][0]["members"] for one in chosen] == [2, 2]


def test_the_gain_of_packing_is_measured_without_touching_a_record(settings: Resolve) -> None:
    words = ["training.log_every=1", "training.evaluate_every=1"]
    kinds = [f"optimizer={name}" for name in OPTIMIZERS]
    runs = [settings(kind, f"seed={seed}", *words) for kind in kinds for seed in range(2)]
    assert packing_gain(runs, CPU) > 0
    assert packing_gain(runs, CPU, most=2) > 0
    assert not Path(settings().machine.results).exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["optimizer=adam", "optimizer.target=torch.optim.Adamax"], "optimizer.target=torch.optim.Adamax does not"),
        (["optimizer=integer_madam", "optimizer.init=random"], "optimizer.init=random draws"),
    ],
)
def test_what_cannot_be_packed_is_run_alone_and_told_why(
    settings: Resolve, caplog: pytest.LogCaptureFixture, words: list[str], reason: str
) -> None:
    if "torch.optim.Adamax" in words[1]:
        words = [*words, "~optimizer.amsgrad"]
    chosen = [settings("optimizer=fromage", f"seed={seed}") for seed in range(2)] + [settings(*words)]
    assert together(chosen) == [Status.FINISHED] * 3
    assert [record_of(one).provenance["attempts"][0]["members"] for one in chosen] == [2, 2, 1]
    assert f"is run alone: {reason}" in caplog.text
    with pytest.raises(SettingsError, match=rf"launcher.require_packing=true, but {reason}"):
        run_packs(plan(chosen), Launcher(require_packing=True))


# --- who is packed with whom -----------------------------------------------------------------------------------------


def test_runs_of_one_shape_are_dealt_out_and_others_apart(settings: Resolve) -> None:
    runs = [
        settings(f"optimizer={name}", f"seed={seed}", f"task.hidden_layers={depth}")
        for depth in (5, 3)
        for name in ("sgd", "fromage")
        for seed in range(5)
    ]
    assert [len(pack) for pack in group_into_packs(runs, workers=1, max_members=None)] == [10, 10]
    assert [len(pack) for pack in group_into_packs(runs, workers=2, max_members=None)] == [5, 5, 5, 5]
    assert [len(pack) for pack in group_into_packs(runs[:10], workers=2, max_members=None)] == [5, 5]
    assert [len(pack) for pack in group_into_packs(runs * 3, workers=3, max_members=None)] == [10] * 6
    assert [len(pack) for pack in group_into_packs(runs, workers=16, max_members=None)] == [
        5,
        5,
        5,
        5,
    ]  # no smaller than pay
    assert [len(pack) for pack in group_into_packs(runs, workers=1, max_members=4)] == [4, 3, 3, 4, 3, 3]
    assert [len(pack) for pack in group_into_packs(runs, workers=1, max_members=None, alone={0, 3})] == [1, 8, 1, 10]
    for workers in (1, 2):
        dealt = group_into_packs(runs, workers=workers, max_members=None)
        assert sorted(i for pack in dealt for i in pack) == list(range(20))
        for pack in dealt:
            assert len({runs[i].task.hidden_layers for i in pack}) == 1
            names = [runs[i].optimizer.name for i in pack]
            assert names == sorted(names)  # neighbours are alike


@pytest.mark.parametrize(
    "words",
    [
        ["task.width=16"],
        ["training.batch_size=20"],
        ["training.steps=60"],
        ["training.log_every=15"],
        ["data=mnist5k"],
        ["trainer.precision=bf16"],
        ["machine.device=auto"],
    ],
)
def test_runs_that_differ_in_what_a_program_shares_are_not_packed(settings: Resolve, words: list[str]) -> None:
    assert len(group_into_packs([settings("seed=1"), settings(*words)], workers=1, max_members=None)) == 2


@pytest.mark.parametrize("words", [["optimizer=adam"], ["schedule.decay=0.5"], ["task.init=he"], ["optimizer.lr=1.0"]])
def test_runs_that_differ_in_what_a_member_has_for_itself_are(settings: Resolve, words: list[str]) -> None:
    assert len(group_into_packs([settings("seed=1"), settings(*words)], workers=1, max_members=None)) == 1


def test_what_becomes_of_runs_whose_process_died() -> None:
    died: Future[list[Outcome]] = Future()
    died.set_exception(RuntimeError("terminated abruptly"))
    stop = threading.Event()
    assert [str(outcome) for outcome in workers_module._outcomes_of(died, 2, stop)] == ["terminated abruptly"] * 2
    died = Future()
    died.set_exception(BrokenProcessPool("terminated abruptly"))
    (told, _) = workers_module._outcomes_of(died, 2, stop)
    assert "lower launcher.memory_fraction" in str(told)
    stop.set()  # it was asked to, before it could listen
    assert workers_module._outcomes_of(died, 2, stop) == [Status.PREEMPTED] * 2


def test_a_pool_that_is_broken_already_takes_a_pack_and_gives_it_back_as_failed() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(BrokenProcessPool):
            pool.submit(os._exit, 1).result()
        assert isinstance(workers_module._submit(pool, [], {}).exception(), BrokenProcessPool)


# --- CUDA ------------------------------------------------------------------------------------------------------------


class CpuWatch(TorchDispatchMode):
    """Notes every operation that has to do with a tensor in the CPU's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if any(x.device.type == "cpu" for x in tensors):
            self.seen.append(str(op))
        return out


DIFFERENT = {  # for each of our optimizers two members that differ in all that members of a group may differ in
    "fromage": ["optimizer.p_bound=2.0"],
    "lars": ["optimizer.p_bound=2.0"],
    "madam": ["optimizer.p_scale=2.0", "optimizer.g_bound=5.0", "optimizer.beta=0.9"],
    "integer_madam": ["optimizer.p_scale=2.0", "optimizer.g_bound=5.0", "optimizer.beta=0.9"],
    "novograd": ["optimizer.betas=[0.9,0.9]", "optimizer.eps=1e-6", "optimizer.weight_decay=0.1"],
    "signsgd": [],
}


@pytest.mark.parametrize("optimizer", DIFFERENT)
def test_a_step_waits_for_nothing_and_copies_nothing_from_the_cpu_as_a_graph_of_it_must_not(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    # Tensors of this device have no numbers: whoever reads one raises an error.
    monkeypatch.setattr("torch.is_autocast_enabled", lambda _: False)  # which does not know the device
    words = [f"optimizer={optimizer}", *(["optimizer.p_bound=3.0"] if optimizer in ("fromage", "lars") else [])]
    kinds = [words, [*words, "optimizer.lr=0.02", *DIFFERENT[optimizer]]]
    if optimizer == "integer_madam":  # each of these has a table of its own
        kinds += [[*words, f"optimizer.base_lr={n / 1000}"] for n in range(2, 20)]
    packed = PackedProgram([program_of(settings(*kind), "meta") for kind in kinds])
    for program, members in ((packed, len(kinds)), (program_of(settings(*words), "meta"), 1)):
        program.training_step(0, [1.0] * members)
        with CpuWatch() as watch:
            program.training_step(1, [1.0] * members)
        assert watch.seen == []


@pytest.mark.gpu
def test_a_captured_pack_measures_what_an_uncaptured_one_does(settings: Resolve) -> None:
    chosen = [settings("training.log_every=60", *words) for words in MIXED]
    keys = [repr(one.optimizer) for one in chosen]
    programs = [
        PackedProgram([program_of(one, "cuda") for one in chosen], keys, capture=capture) for capture in (True, False)
    ]
    for step in range(60):
        for program in programs:
            program.training_step(step, [0.97**step] * len(chosen))
    for one, other in zip(programs[0].state_dicts(), programs[1].state_dicts(), strict=True):
        assert torch.allclose(one["measured"], other["measured"], rtol=1e-4)
    assert programs[0].evaluate()[0] == pytest.approx(programs[1].evaluate()[0], rel=1e-2)
