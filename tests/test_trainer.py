"""The loop: the same numbers every time; divergence is a result. What is stopped and goes on is in test_resume.py."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from reltrust import build
from reltrust.records.store import Status
from reltrust.settings import Settings
from reltrust.training.program import Program
from reltrust.training.trainer import Stopwatch
from runs import OPTIMIZERS, metrics, program_of, record_of, run, settings_of

Resolve = Callable[..., Settings]
GOLDEN = Path(__file__).parent / "golden" / "first_losses.json"


def test_a_run_leaves_a_whole_record(settings: Resolve) -> None:
    chosen = settings()
    assert run(chosen) is Status.FINISHED
    record = record_of(chosen)
    assert {path.name for path in record.path.iterdir()} == {
        "config.yaml",
        "provenance.json",
        "status.json",
        "metrics.jsonl",
        "summary.json",
    }
    assert [row["step"] for row in record.metrics] == [30, 60, 90, 120]
    assert [("test_accuracy" in row) for row in record.metrics] == [False, True, False, True]
    assert record.summary["train_accuracy"] == record.metrics[-1]["train_accuracy"] > 0.5
    attempt = record.provenance["attempts"][-1]
    assert attempt["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"commit", "dirty", "diff"} == set(attempt["code"])
    assert attempt["hardware"]["cpu"]
    assert attempt["ended"] >= attempt["started"]


def test_the_schedule_multiplies_the_learning_rate(settings: Resolve) -> None:
    chosen = settings("optimizer.lr=0.02")
    run(chosen)
    assert [row["lr"] for row in record_of(chosen).metrics] == pytest.approx([0.02 * 0.95**k for k in range(4)])


@pytest.mark.parametrize(("precision", "able", "told"), [("bf16", False, 1), ("bf16", True, 0), ("fp32", False, 0)])
def test_a_cpu_that_bfloat16_would_slow_down_is_told_once(
    settings: Resolve,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    precision: str,
    able: bool,
    told: int,
) -> None:
    monkeypatch.setattr(build, "multiplies_bf16", lambda: able)
    build._warn.cache_clear()
    for _ in range(2):
        build.device(settings(f"trainer.precision={precision}"))
    assert caplog.text.count("this CPU does not multiply in bfloat16") == told


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_seed_gives_the_same_metrics_to_the_bit(settings: Resolve, tmp_path: Path, optimizer: str) -> None:
    rows = []
    for folder in ("a", "b"):
        chosen = settings(f"optimizer={optimizer}", f"machine.results={tmp_path / folder}")
        run(chosen)
        rows.append(metrics(chosen))
    assert rows[0] == rows[1]


def test_another_seed_gives_other_metrics(settings: Resolve) -> None:
    first, second = settings("seed=0"), settings("seed=1")
    run(first)
    run(second)
    assert metrics(first) != metrics(second)


def test_a_non_finite_loss_ends_the_run_as_diverged_at_its_step(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings("optimizer=sgd")
    step = Program.training_step

    def breaking(self: Program, number: int, factors: list[float]) -> None:
        if number == 41:
            self.task.players[0].params[0].data.fill_(float("inf"))
        step(self, number, factors)

    monkeypatch.setattr(Program, "training_step", breaking)
    assert run(chosen) is Status.DIVERGED
    record = record_of(chosen)
    assert record.summary["diverged_at"] == 41
    assert [row["step"] for row in record.metrics] == [30]
    monkeypatch.setattr(Program, "training_step", step)
    assert run(chosen) is Status.DIVERGED  # a result: not run again
    assert len(record.provenance["attempts"]) == 1


def test_a_run_whose_last_update_breaks_the_weights_has_diverged(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: no loss came after it, and the run was finished, with measures that are no numbers.
    chosen = settings("optimizer=sgd", "machine.keep=weights")
    step, steps = Program.training_step, chosen.training.steps if chosen.training else 0

    def breaking(self: Program, number: int, factors: list[float]) -> None:
        step(self, number, factors)
        if number == steps - 1:
            self.task.players[0].params[0].data.fill_(float("nan"))

    monkeypatch.setattr(Program, "training_step", breaking)
    assert run(chosen) is Status.DIVERGED
    record = record_of(chosen)
    assert record.summary["diverged_at"] == record.summary["steps"] == record.metrics[-1]["step"] == steps
    assert not record.weights_path.exists()


def test_a_huge_learning_rate_diverges_without_an_error(settings: Resolve) -> None:
    chosen = settings("optimizer=sgd", "optimizer.lr=1e12")
    assert run(chosen) is Status.DIVERGED


def test_an_error_in_a_run_is_recorded_with_its_traceback_and_the_run_can_be_repeated(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings()
    monkeypatch.setattr(Program, "evaluate", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(chosen)
    record = record_of(chosen)
    assert record.status is Status.FAILED
    assert record.error == "ZeroDivisionError: division by zero"
    assert not record.is_busy
    monkeypatch.undo()
    assert run(chosen) is Status.FINISHED


def test_the_watcher_of_a_run_that_failed_is_told(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    # Regression: W&B's run stayed open, and took the rows of the next one in the process.
    ended: list[str] = []
    monkeypatch.setattr("reltrust.records.tracking.NoTracker.finish", lambda self, status, _: ended.append(status))
    monkeypatch.setattr(Program, "evaluate", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(settings())
    assert ended == ["failed"]


def test_the_clock_stands_still_during_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Stopwatch()

    def later(seconds: float) -> dict[str, Any]:
        now[0] += seconds
        return {}

    later(1.0)
    clock.stopped(lambda: later(1000.0))
    later(2.0)
    assert clock.lap() == pytest.approx(3.0)
    later(4.0)
    assert clock.lap() == pytest.approx(4.0)


def test_a_run_works_outside_the_main_thread_where_no_signal_arrives(settings: Resolve) -> None:
    statuses: list[Status] = []
    chosen = settings()
    thread = threading.Thread(target=lambda: statuses.append(run(chosen)))
    thread.start()
    thread.join()
    assert statuses == [Status.FINISHED]


def first_losses(settings: Settings, steps: int = 20) -> list[float]:
    program = program_of(settings)
    losses = []
    for step in range(steps):
        program.training_step(step, [1.0])
        losses.append(program.fetch_window(step + 1)[0].means["train_loss"])
    return losses


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_first_losses_are_the_golden_ones(settings: Resolve, optimizer: str) -> None:
    """A change of the code that is meant to change nothing shows here; one that is meant to raises the protocol and
    renews the file: ``python tests/test_trainer.py``."""
    golden = json.loads(GOLDEN.read_text())[optimizer]
    assert first_losses(settings("scale=quick", f"optimizer={optimizer}", "task.hidden_layers=5")) == pytest.approx(
        golden, rel=2e-4
    )


@pytest.mark.capability
@pytest.mark.parametrize("experiment", ["mlp_depth", "transformer_lm"])
def test_a_compiled_model_learns_the_same_up_to_rounding(settings: Resolve, tmp_path: Path, experiment: str) -> None:
    """Of the one the task calls its module itself, of the other a part of it."""
    words = [f"experiment={experiment}", "training.steps=6", "training.log_every=2", "training.evaluate_every=6"]
    if experiment == "transformer_lm":  # dropout draws other masks when compiled
        words += ["task.dropout=0", "task.width=8", "task.layers=1", "task.heads=1", "task.hidden=8", "task.bptt=5"]
    found = []
    counters.clear()
    for compiled in (False, True):
        chosen = settings(*words, f"machine.compile={compiled}", f"machine.results={tmp_path / str(compiled)}")
        assert run(chosen) is Status.FINISHED
        found.append([row["train_loss"] for row in metrics(chosen)] + [record_of(chosen).summary["test_loss"]])
        assert (counters["stats"]["unique_graphs"] > 0) is compiled
    assert found[0] == pytest.approx(found[1], rel=1e-4)


if __name__ == "__main__":
    chosen = {name: settings_of("scale=quick", f"optimizer={name}", "task.hidden_layers=5") for name in OPTIMIZERS}
    losses = {name: first_losses(settings) for name, settings in chosen.items()}
    GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
