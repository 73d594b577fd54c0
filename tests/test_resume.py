"""A run that is stopped or killed goes on as if undisturbed; its checkpoint has all that it needs for that.

Of packs, games of several players, analyses and sweeps that are stopped see their own files.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from reltrust.records import checkpoint
from reltrust.records.store import Status
from reltrust.settings import Settings
from runs import metrics, record_of, run, stopped

Resolve = Callable[..., Settings]


@pytest.mark.parametrize("optimizer", ["sgd_momentum", "adam", "fromage", "madam"])
@pytest.mark.parametrize("stop_at", [30, 47])
def test_a_run_that_is_asked_to_stop_goes_on_as_if_undisturbed(
    settings: Resolve, tmp_path: Path, optimizer: str, stop_at: int
) -> None:
    whole = settings(f"optimizer={optimizer}", f"machine.results={tmp_path / 'whole'}")
    run(whole)

    broken = settings(f"optimizer={optimizer}", f"machine.results={tmp_path / 'broken'}")
    with stopped(stop_at):
        assert run(broken) is Status.PREEMPTED
    assert record_of(broken).status is Status.PREEMPTED
    assert torch.load(record_of(broken).checkpoint_path)["state"]["step"] == stop_at
    assert run(broken) is Status.FINISHED

    assert metrics(broken) == metrics(whole)
    assert not record_of(broken).checkpoint_path.exists()
    assert len(record_of(broken).provenance["attempts"]) == 2


def test_a_killed_process_loses_nothing_but_the_time_since_its_checkpoint(settings: Resolve, tmp_path: Path) -> None:
    words = ["scale=smoke", "tracking=none", "training.steps=3000", "schedule.every=750", "training.evaluate_every=300"]
    chosen = settings(*words, f"machine.results={tmp_path / 'results'}")
    command = [sys.executable, "-m", "reltrust", *words, "machine.checkpoint_minutes=0.001"]
    process = subprocess.Popen(command, cwd=tmp_path)
    record = record_of(chosen)
    while not record.checkpoint_path.exists():
        assert process.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert record.status is Status.RUNNING
    assert not record.is_busy

    assert run(chosen) is Status.FINISHED
    whole = settings(*words, f"machine.results={tmp_path / 'whole'}")
    run(whole)
    assert metrics(chosen) == metrics(whole)


def test_a_signal_handler_of_others_is_called_and_put_back(settings: Resolve) -> None:
    heard: list[int] = []
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with stopped(at=3):
            assert run(settings()) is Status.PREEMPTED
        assert heard == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_a_checkpoint_brings_the_random_numbers_back(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 3})
    expected = torch.rand(5)
    assert checkpoint.load(path) == {"step": 3}
    assert torch.equal(torch.rand(5), expected)


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 3})
    with pytest.raises(checkpoint.StateError):
        checkpoint.save(path, {"step": lambda: None})
    assert checkpoint.load(path) == {"step": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
