"""Processes that are killed or asked to stop at any moment, and two that do the same."""

import math
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from fault_sweep import SWEEP, activity
from fault_table import Fault

from reltrust.records.store import Status
from sweep_processes import answer, ask_slurm, command, jobs, records, slurm_is_up, wait_until

New = Callable[[str], Fault]
pytestmark = pytest.mark.timeout(3600)  # as often as the form says, each time a few seconds
LAUNCHERS = {
    "serial": ("launcher=serial",),
    "processes": ("launcher=processes", "launcher.workers=2"),
    "packed": ("launcher=packed", "launcher.workers=2", "launcher.require_packing=true"),
    "ray": ("launcher=ray", "launcher.local_cpus=2", "launcher.max_members=1"),
}


def started(folder: Path, *words: str) -> "subprocess.Popen[bytes]":
    """The sweep, once a run of it has logged something new; perhaps it has ended by then."""
    before = activity(folder)
    sweep = subprocess.Popen(
        command(*SWEEP, *words),
        cwd=folder,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: activity(folder) != before or sweep.poll() is not None, seconds=150)
    return sweep


@pytest.mark.parametrize("half", [1, 2])  # a whole one would be by far the longest test, and others wait for its end
@pytest.mark.parametrize("launcher", ["serial", "processes"])
def test_a_sweep_that_is_killed_at_any_moment_comes_to_what_it_would_have_come_to(
    tmp_path: Path, undisturbed: Path, fault: New, kills: int, chance: random.Random, launcher: str,
    half: int,
) -> None:  # fmt: skip
    row, tries, number = fault(f"kill -9, {launcher}, {half} of 2"), math.ceil(kills / 4), 0
    while row.tries < tries:
        folder = tmp_path / f"sweep{number}"
        folder.mkdir()
        while row.tries < tries:
            sweep = started(folder, *LAUNCHERS[launcher])
            time.sleep(chance.uniform(0, 0.6))
            if sweep.poll() is not None:
                break
            os.killpg(sweep.pid, signal.SIGKILL)  # all its processes
            sweep.wait()
            row.tries += 1
        done = answer(folder, *SWEEP, *LAUNCHERS[launcher])
        assert done.returncode == 0, done.stderr
        row.compare(folder, undisturbed)
        number += 1
    row.note = f"in {number} sweeps of 4 runs"
    row.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_that_is_asked_to_stop_leaves_checkpoints_and_no_process(
    tmp_path: Path, undisturbed: Path, fault: New, signals: int, chance: random.Random, launcher: str,
    number: signal.Signals,
) -> None:  # fmt: skip
    if launcher == "ray":
        pytest.importorskip("ray")
    row, sweeps = fault(f"{number.name}, {launcher}"), 0
    while row.tries < signals:
        folder = tmp_path / f"sweep{sweeps}"
        folder.mkdir()
        while row.tries < signals:
            sweep = started(folder, *LAUNCHERS[launcher])
            time.sleep(chance.uniform(0, 0.3))
            if sweep.poll() is not None:
                break
            family = psutil.Process(sweep.pid).children(recursive=True)
            # A terminal's Ctrl-C is for all processes of the command.
            os.killpg(sweep.pid, number) if number == signal.SIGINT else sweep.send_signal(number)
            code = sweep.wait(timeout=60)
            _, alive = psutil.wait_procs(family, timeout=20)
            row.left_behind += len(alive)
            if code in (0, -number):  # it was at its end
                assert [record.status for record in records(folder)] == [Status.FINISHED] * 4
                break
            assert code == 128 + number
            assert {record.status for record in records(folder)} <= {Status.FINISHED, Status.PREEMPTED}
            row.tries += 1
        done = answer(folder, *SWEEP, *LAUNCHERS[launcher])
        assert done.returncode == 0, done.stderr
        # What is packed with others after it was stopped is equal up to rounding.
        row.compare(folder, undisturbed, tolerance=1e-4 if launcher == "packed" else 0.0)
        sweeps += 1
    row.check()


@pytest.mark.skipif(not slurm_is_up(), reason="there is no SLURM here: scripts/local_slurm.sh starts one")
@pytest.mark.xdist_group("slurm")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_jobs_of_slurm_go_on_without_the_command_that_waits_for_them(
    tmp_path: Path, undisturbed: Path, fault: New, signals: int, chance: random.Random, number: signal.Signals
) -> None:
    row, sweeps = fault(f"{number.name}, slurm"), 0
    words = ("launcher=slurm", "launcher.memory_gb=1", "launcher.max_members=1", "launcher.packs_per_job=2")
    while row.tries < signals:
        folder = tmp_path / f"sweep{sweeps}"
        folder.mkdir()
        while row.tries < signals:
            sweep = started(folder, *words)
            time.sleep(chance.uniform(0, 0.3))
            if sweep.poll() is not None:
                break
            sweep.send_signal(number)
            code = sweep.wait(timeout=60)
            if code in (0, -number):  # it was at its end
                break
            assert code == 128 + number
            row.tries += 1
        done = answer(folder, *SWEEP, *words)
        assert done.returncode == 0, done.stderr
        row.compare(folder, undisturbed)
        assert [len(attempts) for attempts in jobs(folder)] == [1] * 4  # nothing was submitted twice
        sweeps += 1
    wait_until(lambda: "reltrust" not in ask_slurm("squeue", "--noheader"), seconds=60)  # the last are completing
    row.check()


def test_of_two_commands_for_one_sweep_each_run_is_made_by_one(tmp_path: Path, undisturbed: Path, fault: New) -> None:
    row = fault("two commands at once")
    both = [
        subprocess.Popen(command(*SWEEP, *LAUNCHERS["processes"]), cwd=tmp_path, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    codes = {sweep.wait(timeout=240) for sweep in both}
    row.tries = 1
    assert codes <= {0, 3}  # 3: the other one was working on the rest
    assert answer(tmp_path, *SWEEP).returncode == 0
    row.twice += sum(len(record.provenance["attempts"]) > 1 for record in records(tmp_path))
    row.compare(tmp_path, undisturbed)
    row.check()


def test_a_clock_that_is_set_back_changes_nothing(tmp_path: Path, undisturbed: Path, fault: New) -> None:
    if (faketime := shutil.which("faketime")) is None:
        pytest.skip("there is no faketime here (Debian: apt-get install faketime)")
    row = fault("clock set back by two hours")
    sweep = started(tmp_path, "launcher=serial")
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    back = [faketime, "-f", "-2h", *command(*SWEEP, "launcher=serial")]
    done = subprocess.run(back, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row.tries = 1
    row.compare(tmp_path, undisturbed)
    row.check()
