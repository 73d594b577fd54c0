"""What a finished run keeps, and longer runs that go on from what a shorter one kept."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reltrust.experiment import Measured
from reltrust.packing.runner import run_pack
from reltrust.records.store import Status
from reltrust.settings import Settings
from reltrust.sweeps.plan import plan
from reltrust.training.program import Program
from runs import metrics, program_of, record_of, run, stopped

Resolve = Callable[..., Settings]
SHORT, LONG = ("training.steps=120", "training.evaluate_every=60"), ("training.steps=240", "training.evaluate_every=60")


def test_nothing_is_kept_unless_it_is_asked_for(settings: Resolve) -> None:
    run(chosen := settings())
    assert not record_of(chosen).checkpoint_path.exists()
    assert not record_of(chosen).weights_path.exists()


def test_what_a_finished_run_has_not_kept_is_told(settings: Resolve, caplog: pytest.LogCaptureFixture) -> None:
    # Silence would let somebody wait for weights that never come: a finished run is not trained again.
    run(chosen := settings())
    assert not caplog.messages
    assert run(settings("machine.keep=weights")) is Status.FINISHED
    folder = record_of(chosen).path
    assert caplog.messages == [
        f"machine.keep=weights: 1 finished without it, remove them to train them again: {folder}"
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_kept_weights_are_those_of_the_last_step(settings: Resolve, packed: bool) -> None:
    chosen = [settings("machine.keep=weights", f"seed={seed}") for seed in range(2)]
    if packed:
        assert run_pack(plan(chosen), max_members=None, memory_fraction=0.5, require_packing=True) == ["finished"] * 2
    else:
        for one in chosen:
            run(one)
    for one in chosen:
        program = program_of(one)
        program.task.module.load_state_dict(load_file(record_of(one).weights_path))
        (measured,) = program.evaluate()
        assert measured.row["test_loss"] == pytest.approx(record_of(one).summary["test_loss"], rel=1e-5)
        assert not record_of(one).checkpoint_path.exists()


@pytest.mark.parametrize("optimizer", ["sgd_momentum", "integer_madam"])
def test_a_longer_run_begins_where_a_shorter_one_ended_to_the_bit(
    settings: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    words = [f"optimizer={optimizer}", "machine.keep=checkpoint"]
    run(whole := settings(*words, *LONG, f"machine.results={tmp_path / 'whole'}"))
    run(settings(*words, *SHORT))
    first, step = [], Program.training_step
    monkeypatch.setattr(Program, "training_step", lambda self, i, factors: (first.append(i), step(self, i, factors)))
    run(longer := settings(*words, *LONG))
    assert first[0] == 120  # the shorter run's steps were not made again
    assert metrics(longer) == metrics(whole)
    kept = [torch.load(record_of(one).checkpoint_path)["state"]["program"] for one in (longer, whole)]
    torch.testing.assert_close(kept[0]["model"], kept[1]["model"], rtol=0, atol=0)
    origin = record_of(longer).provenance
    assert origin["begun_from"] == {"run": "/".join(record_of(settings(*words, *SHORT)).path.parts[-2:]), "steps": 120}
    assert len(origin["attempts"]) == 1


def test_the_longest_shorter_run_is_taken_and_a_pack_takes_it_too(settings: Resolve) -> None:
    lengths = ("training.steps=60", *SHORT[1:]), SHORT
    for seed in range(2):
        for words in lengths:
            run(settings(*words, "machine.keep=checkpoint", f"seed={seed}"))
    longer = [settings(*LONG, f"seed={seed}") for seed in range(2)]
    run_pack(plan(longer), max_members=None, memory_fraction=0.5, require_packing=True)
    for one in longer:
        assert record_of(one).provenance["begun_from"]["steps"] == 120
        assert [row["step"] for row in metrics(one)] == list(range(30, 241, 30))


@pytest.mark.parametrize(
    ("shorter", "longer"),
    [
        # Each row: why the shorter run is no beginning of the longer one.
        ([*SHORT, "schedule=cosine"], [*LONG, "schedule=cosine"]),  # its schedule depends on the length
        ([*SHORT, "seed=1"], LONG),  # another run
        ([*SHORT, "optimizer.lr=0.02"], LONG),
        ([*SHORT, "training.log_every=60"], LONG),  # other rows
        (["training.steps=90", "training.evaluate_every=60"], LONG),  # it evaluated where the longer one does not
        (LONG, SHORT),  # it is the longer one
    ],
)
def test_a_run_that_is_not_its_beginning_is_no_beginning(
    settings: Resolve, shorter: list[str], longer: list[str]
) -> None:
    run(settings(*shorter, "machine.keep=checkpoint"))
    run(chosen := settings(*longer))
    assert "begun_from" not in record_of(chosen).provenance


def test_a_diverged_run_keeps_no_weights(settings: Resolve) -> None:
    chosen = settings("optimizer=sgd", "optimizer.lr=1e30", "machine.keep=checkpoint")
    assert run(chosen) is Status.DIVERGED
    assert not record_of(chosen).checkpoint_path.exists()


def test_files_of_evaluations_are_kept_with_their_step_also_of_a_run_that_was_stopped(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings("training.evaluate_every=30", "training.steps=120")
    monkeypatch.setattr(Program, "evaluate", lambda self: [Measured({"made": 1.0}, {"sample.txt": b"a sample"})])
    with stopped(at=45):
        assert run(chosen) is Status.PREEMPTED
    assert run(chosen) is Status.FINISHED
    record = record_of(chosen)
    names = [f"step{step:03d}-sample.txt" for step in (30, 60, 90, 120)]
    assert sorted(path.name for path in (record.path / "files").iterdir()) == names
    assert (record.path / "files" / names[0]).read_bytes() == b"a sample"
    assert record.summary["made"] == 1.0


def test_kept_weights_of_a_schedule_free_optimizer_are_those_that_it_is_evaluated_at(settings: Resolve) -> None:
    words = ["optimizer=signsgd", "~optimizer.style", "optimizer.target=pytorch_optimizer.ScheduleFreeSGD"]
    chosen = settings(*words, "optimizer.name=free", "machine.keep=weights")
    run(chosen)
    program = program_of(settings())
    program.task.module.load_state_dict(load_file(record_of(chosen).weights_path))
    (measured,) = program.evaluate()
    assert measured.row["test_loss"] == pytest.approx(record_of(chosen).summary["test_loss"], rel=1e-5)
