"""``launcher=ray`` on a cluster of this machine, whose processes are killed and asked to stop."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from reltrust.records.store import Status
from sweep_processes import (
    BREAKABLE,
    LONG,
    answer,
    going,
    has_rows,
    holder,
    jobs,
    measured,
    records,
    statuses,
    wait_until,
)  # fmt: skip

pytest.importorskip("ray", reason="launcher=ray is an extra")
pytestmark = pytest.mark.xdist_group("ray")
ON_RAY = ("-m", "launcher=ray", "launcher.local_cpus=2")


def test_runs_are_tasks_of_two_workers_and_a_killed_one_loses_nothing(tmp_path: Path, undisturbed: Path) -> None:
    words = (*ON_RAY, *LONG, "seed=0,1", "launcher.max_members=1", "machine.checkpoint_minutes=0.005")
    with going(tmp_path, *words) as sweep:
        wait_until(lambda: has_rows(tmp_path, 2))
        victim, other = records(tmp_path)
        assert holder(victim) != holder(other)
        wait_until(victim.checkpoint_path.exists)
        os.kill(holder(victim), signal.SIGKILL)
        _, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, errors
    assert statuses(tmp_path) == [Status.FINISHED] * 2
    assert [len(attempts) for attempts in jobs(tmp_path)] == [2, 1]
    assert all(job.startswith("ray ") for attempts in jobs(tmp_path) for job in attempts)
    assert measured(tmp_path) == measured(undisturbed)
    assert (tmp_path / "results/summaries/mlp_depth.csv").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_is_asked_to_stop_leaves_checkpoints_and_no_process(
    tmp_path: Path, undisturbed: Path, number: signal.Signals
) -> None:
    words = (*ON_RAY, *LONG, "seed=0,1", "launcher.max_members=1")
    with going(tmp_path, *words) as sweep:
        wait_until(lambda: has_rows(tmp_path, 2))
        family = psutil.Process(sweep.pid).children(recursive=True)
        assert len(family) > 3  # Ray's own and the two workers
        sweep.send_signal(number)
        _, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 128 + number, errors
    assert statuses(tmp_path) == [Status.PREEMPTED] * 2
    assert all(record.checkpoint_path.exists() for record in records(tmp_path))
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    again = answer(tmp_path, *words[:1], "launcher=serial", *words[3:-1])
    assert again.returncode == 0, again.stderr
    assert measured(tmp_path) == measured(undisturbed)


def test_a_process_that_somebody_else_asks_to_stop_is_followed_by_another(tmp_path: Path, undisturbed: Path) -> None:
    with going(tmp_path, *ON_RAY, *LONG, "seed=0,1", "launcher.packs_per_job=2", "launcher.max_members=1") as sweep:
        wait_until(lambda: has_rows(tmp_path))
        os.kill(holder(records(tmp_path)[0]), signal.SIGTERM)
        _, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, errors
    first, second = (record.provenance["attempts"] for record in records(tmp_path))
    assert [attempt["status"] for attempt in first] == ["preempted", "finished"]
    assert len(second) == 1  # the second had not begun
    assert measured(tmp_path) == measured(undisturbed)


def test_packs_go_to_tasks_and_a_run_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "mine.py").write_text(BREAKABLE)
    (tmp_path / "broken").touch()
    own = ("optimizer=sgd", "optimizer.name=mine", "optimizer.target=mine.Mine", "optimizer.lr=0.1,0.02")
    failed = answer(tmp_path, *ON_RAY, "scale=smoke", *own)
    assert failed.returncode == 1, failed.stderr
    assert "1 of 2 runs failed" in failed.stderr
    assert "ZeroDivisionError: as planned" in failed.stderr
    packed = answer(tmp_path, *ON_RAY, "scale=smoke", "seed=0,1,2", "launcher.require_packing=true")
    assert packed.returncode == 0, packed.stderr
    members = [record.provenance["attempts"][0]["members"] for record in records(tmp_path)]
    assert sorted(members) == [1, 1, 3, 3, 3]


@pytest.mark.parametrize("words", [["launcher.retries=-2"], ["launcher.partition=main"], ["launcher.cpus=0"]])
def test_a_wrong_setting_of_ray_is_refused_before_it_starts(tmp_path: Path, words: list[str]) -> None:
    refused = answer(tmp_path, *ON_RAY, "scale=smoke", "seed=0,1", *words)
    assert refused.returncode == 2
    assert f"error: {words[0]}: " in refused.stderr
    assert not (tmp_path / "results").exists()
