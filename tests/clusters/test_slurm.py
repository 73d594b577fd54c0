"""``launcher=slurm`` on a SLURM of this machine (scripts/local_slurm.sh), which requeues, preempts and ends jobs."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from reltrust.clusters import slurm
from reltrust.clusters.slurm import _states
from reltrust.records.store import Status
from sweep_processes import (
    BREAKABLE,
    LONG,
    answer,
    ask_slurm,
    going,
    has_rows,
    holder,
    jobs,
    measured,
    records,
    slurm_is_up,
    statuses,
    wait_until,
)  # fmt: skip

pytestmark = [
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(not slurm_is_up(), reason="there is no SLURM here: scripts/local_slurm.sh starts one"),
]
ON_SLURM = ("-m", "launcher=slurm", "launcher.memory_gb=1")


@pytest.mark.parametrize("packed", [False, True])
def test_eight_runs_are_an_array_of_jobs_that_take_two_runs_or_a_pack(tmp_path: Path, packed: bool) -> None:
    words = ("scale=smoke", "task.hidden_layers=2,3", "seed=0,1,2,3", "tracking=none", "machine.device=cpu")
    kind = ("launcher.require_packing=true",) if packed else ("launcher.max_members=1", "launcher.packs_per_job=2")
    told = answer(tmp_path, *ON_SLURM, *words, *kind, "dry_run=true")
    assert told.returncode == 0, told.stderr
    assert f"jobs of slurm: {2 if packed else 4}, of {4 if packed else 2} runs each" in told.stdout
    assert not (tmp_path / "results").exists()

    ran = answer(tmp_path, *ON_SLURM, *words, *kind)
    assert ran.returncode == 0, ran.stderr
    assert statuses(tmp_path) == [Status.FINISHED] * 8
    assert (tmp_path / "results/summaries/mlp_depth.csv").exists()
    names = [name for (name,) in jobs(tmp_path)]
    assert len(set(names)) == (2 if packed else 4)  # each of one array, and each had runs
    assert {name.partition("_")[0] for name in names} == {names[0].partition("_")[0]}
    members = {record.provenance["attempts"][0]["members"] for record in records(tmp_path)}
    assert members == {4 if packed else 1}

    alone = tmp_path / "alone"
    alone.mkdir()
    local = ("launcher=packed", "launcher.require_packing=true") if packed else ("launcher=serial",)
    assert answer(alone, "-m", *words, *local).returncode == 0
    assert measured(alone) == measured(tmp_path)


@pytest.mark.parametrize("disturbance", ["requeue", "preempted"])
def test_a_job_that_has_to_stop_goes_on_at_its_next_turn_as_if_undisturbed(
    tmp_path: Path, undisturbed: Path, disturbance: str
) -> None:
    with going(tmp_path, *ON_SLURM, *LONG, "seed=0,1", "launcher.max_members=1") as sweep:
        wait_until(lambda: has_rows(tmp_path, 2))
        ids = [attempts[0].removeprefix("slurm ") for attempts in jobs(tmp_path)]
        if disturbance == "requeue":
            ask_slurm("scontrol", "requeue", ids[0])
        else:
            ask_slurm("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
        _, errors = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, errors
    assert statuses(tmp_path) == [Status.FINISHED] * 2
    attempts = [record.provenance["attempts"] for record in records(tmp_path)]
    disturbed = [one for one in attempts if len(one) > 1]
    assert len(disturbed) == (1 if disturbance == "requeue" else 2)
    for one in disturbed:
        assert one[0]["status"] == "preempted"
        assert {attempt["job"] for attempt in one} == {one[0]["job"]}  # the same job's next turn
    assert measured(tmp_path) == measured(undisturbed)


def test_a_job_whose_time_ends_goes_on_at_its_next_turn(tmp_path: Path) -> None:
    # More steps than any machine makes in this test. SLURM may announce the end up to a minute earlier than asked.
    short = ("training.steps=100000000", "launcher.minutes=2", "launcher.warn_seconds=80")
    with going(tmp_path, *ON_SLURM, *LONG, *short, "seed=0,1", "launcher.max_members=1") as sweep:
        try:
            wait_until(lambda: [len(one) > 1 for one in jobs(tmp_path)] == [True] * 2, seconds=200)
            rows = [len(record.metrics) for record in records(tmp_path)]
            for record in records(tmp_path):
                first, second, *_ = record.provenance["attempts"]
                assert first["status"] == "preempted"
                assert first["job"] == second["job"]
            wait_until(lambda: all(len(one.metrics) > n for one, n in zip(records(tmp_path), rows, strict=True)))
            steps = [[row["step"] for row in record.metrics] for record in records(tmp_path)]
            assert steps == [sorted(set(one)) for one in steps]  # nothing twice
            sweep.send_signal(signal.SIGINT)
            sweep.communicate(timeout=60)
        finally:
            ask_slurm("scancel", *{attempts[0].removeprefix("slurm ") for attempts in jobs(tmp_path)})
    assert sweep.returncode == 130


def test_a_job_that_raises_is_told_with_its_log_and_run_again_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "mine.py").write_text(BREAKABLE)
    (tmp_path / "broken").touch()
    words = (*ON_SLURM, "scale=smoke", "optimizer=sgd", "optimizer.name=mine", "optimizer.target=mine.Mine",
             "optimizer.lr=0.1,0.02", "launcher.max_members=1")  # fmt: skip
    failed = answer(tmp_path, *words)
    assert failed.returncode == 1, failed.stderr
    assert "1 of 2 runs failed" in failed.stderr
    assert "ZeroDivisionError: as planned" in failed.stderr
    log = Path(failed.stderr.partition("(log: ")[2].partition(")")[0])
    assert log.is_file()
    assert (tmp_path / "results/summaries/mlp_depth.csv").read_text().count("\n") == 2  # the other one's row

    left = answer(tmp_path, *words, "retry_failed=false")
    assert left.returncode == 1
    assert "1 finished, 1 failed" in left.stderr or "1 failed, 1 finished" in left.stderr
    (tmp_path / "broken").unlink()
    again = answer(tmp_path, *words, "--retry-failed")
    assert again.returncode == 0, again.stderr
    assert sorted(len(one) for one in jobs(tmp_path)) == [1, 2]


def test_a_job_that_is_killed_is_found_out_and_does_not_stop_the_others(tmp_path: Path, undisturbed: Path) -> None:
    words = (*ON_SLURM, *LONG, "seed=0,1", "launcher.max_members=1", "machine.checkpoint_minutes=0.01")
    with going(tmp_path, *words) as sweep:
        wait_until(lambda: has_rows(tmp_path, 2))
        victim, other = records(tmp_path)
        os.kill(holder(victim), signal.SIGKILL)
        _, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 1
    (number,) = [attempts[0].removeprefix("slurm ") for attempts in jobs(tmp_path)[:1]]
    assert f"job {number} (FAILED" in errors
    assert "left the run running (log: " in errors
    assert (victim.status, other.status) == (Status.RUNNING, Status.FINISHED)
    again = answer(tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert measured(tmp_path) == measured(undisturbed)


def test_jobs_that_nobody_waits_for_are_not_submitted_twice_and_can_be_waited_for_later(tmp_path: Path) -> None:
    words = (*ON_SLURM, *LONG, "seed=0,1", "launcher.max_members=1")
    ask_slurm("scontrol", "update", "partition=main", "state=down")  # they are to wait in the queue
    try:
        left = answer(tmp_path, *words, "launcher.wait=false")
        assert left.returncode == 0, left.stderr
        assert "submitted: 2 runs in 2 jobs of SLURM" in left.stderr
        assert not (tmp_path / "results").exists()
        with going(tmp_path, *words) as sweep:
            assert sweep.stderr is not None
            while "jobs of SLURM" not in (line := sweep.stderr.readline()):
                assert sweep.poll() is None, line
            assert line == left.stderr.splitlines(keepends=True)[-1]  # the same jobs
            sweep.send_signal(signal.SIGINT)
            sweep.communicate(timeout=60)
        assert sweep.returncode == 130
        assert ask_slurm("squeue", "--noheader", "--array").count("reltrust") == 2  # they go on without it
        with going(tmp_path, *words) as sweep:
            ask_slurm("scontrol", "update", "partition=main", "state=up")
            _, errors = sweep.communicate(timeout=120)
        assert sweep.returncode == 0, errors
        assert [len(attempts) for attempts in jobs(tmp_path)] == [1, 1]
    finally:
        ask_slurm("scontrol", "update", "partition=main", "state=up")


def test_a_job_has_the_devices_and_the_shell_commands_that_were_asked_for(tmp_path: Path) -> None:
    words = (
        "scale=smoke",
        "seed=0",
        "launcher.gpus=1",
        "machine.device=cpu",
        "launcher.options=['--comment=two words']",
    )
    setup = "launcher.setup=['echo \"$CUDA_VISIBLE_DEVICES\" > devices', 'export RELTRUST_SEEN=1']"
    ran = answer(tmp_path, *ON_SLURM, *words, setup)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "devices").read_text().strip() in ("0", "1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launcher.partition=nope"], "launcher=slurm: sbatch: error: "),
        (["launcher.options=[--no-such-option]"], "launcher=slurm: sbatch: unrecognized option"),
        (["launcher.options=[constraint]"], "launcher.options.0='constraint': must match"),
        (["launcher.minutes=0"], "launcher.minutes=0: must be greater than or equal to 1"),
        (["launcher.local_cpus=2"], "launcher.local_cpus=2: unknown key, allowed are account"),
        (["optimizer=sgd", "optimizer.momentum=-1"], "optimizer.target='torch.optim.SGD' with lr="),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_submitted(
    tmp_path: Path, words: list[str], message: str
) -> None:
    refused = answer(tmp_path, *ON_SLURM, "scale=smoke", "seed=0,1", *words)
    assert refused.returncode == 2, refused.stderr
    assert f"error: {message}" in refused.stderr
    assert not (tmp_path / "results").exists()


def test_of_several_arrays_none_is_left_where_one_is_refused(tmp_path: Path) -> None:
    commands = {
        "scontrol": "echo 'MaxArraySize = 2'",  # an array of one job
        "sbatch": 'test ! -e once || { echo "sbatch: error: no more" >&2; exit 1; }; touch once; exec {} "$@"',
    }
    for name, text in commands.items():
        there = shutil.which(name)
        assert there is not None
        (tmp_path / name).write_text("#!/bin/sh\n" + text.replace("{}", there) + "\n")
        (tmp_path / name).chmod(0o755)
    ask_slurm("scontrol", "update", "partition=main", "state=down")  # they are to wait in the queue
    try:
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        words = (*ON_SLURM, *LONG, "seed=0,1", "launcher.max_members=1")
        refused = answer(tmp_path, *words, PATH=path)
        assert refused.returncode == 2, refused.stderr
        assert "launcher=slurm: sbatch: error: no more" in refused.stderr
        assert "reltrust" not in ask_slurm("squeue", "--noheader", "--array")
    finally:
        ask_slurm("scontrol", "update", "partition=main", "state=up")


def test_a_job_that_slurm_has_forgotten_has_no_state() -> None:
    assert _states(["999999_0"]) == {}


def test_a_controller_that_does_not_answer_is_no_job_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slurm.conf").write_text("no such key\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert slurm._states(["1_0"]) is None
