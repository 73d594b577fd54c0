"""Disks that are full, files that are damaged, results that disappear."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_sweep import SWEEP
from fault_table import FORM, Fault
from test_processes import started

from reltrust.records.store import Status
from sweep_processes import answer, records

New = Callable[[str], Fault]
KINDS: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda content: content[: len(content) // 2],
    "a flipped bit": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 4]) + content[len(content) // 2 + 1 :]
    ),
    "empty": lambda content: b"",
}


@contextmanager
def small_disk(path: Path, kilobytes: int) -> Iterator[None]:
    """A file system of this size at the path; skips the test where none may be mounted."""
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


# The first has no room for what is written first, the others for some rows, for a checkpoint, for some runs.
@pytest.mark.parametrize("kilobytes", [16, 32, 64, 128] if FORM != "short" else [64])
def test_a_full_disk_ends_a_run_in_one_line_and_the_sweep_goes_on_once_there_is_room(
    tmp_path: Path, undisturbed: Path, fault: New, kilobytes: int
) -> None:
    row = fault(f"a disk of {kilobytes} kB")
    with small_disk(tmp_path / "results", kilobytes):
        full = answer(tmp_path, *SWEEP, "launcher=serial")
        assert full.returncode == 1, full.stderr
        assert "No space left on device" in full.stderr
        assert "Traceback" not in full.stderr
        left = {record.status for record in records(tmp_path)}
        assert left <= {Status.FAILED, Status.FINISHED, Status.RUNNING}  # the last: no room even for the word
        room = ["mount", "-o", "remount,size=64m", str(tmp_path / "results")]
        subprocess.run(room, check=True)
        done = answer(tmp_path, *SWEEP, "launcher=serial")
        assert done.returncode == 0, done.stderr
        row.tries = 1
        row.compare(tmp_path, undisturbed)
    row.check()


def test_a_table_that_there_is_no_room_for_costs_no_run(tmp_path: Path, undisturbed: Path, fault: New) -> None:
    row = fault("no room for the tables")
    summaries = tmp_path / "results" / "summaries"
    with small_disk(summaries, 4):
        (summaries / "all").write_bytes(b"." * 4096)
        full = answer(tmp_path, *SWEEP, "launcher=serial")
        assert full.returncode == 1
        assert "mlp_depth" in full.stderr.splitlines()[-1]
        assert "cannot be written: No space left on device" in full.stderr.splitlines()[-1]
    done = answer(tmp_path, *SWEEP, "launcher=serial")
    assert done.returncode == 0, done.stderr
    assert "4 runs: 4 finished" in done.stderr  # and none was made again
    row.tries = 1
    row.compare(tmp_path, undisturbed)
    row.check()


@pytest.mark.parametrize("kind", KINDS if FORM != "short" else ["a flipped bit"])
@pytest.mark.parametrize("name", ["checkpoint.pt", "status.json", "provenance.json", "metrics.jsonl", "summary.json"])
def test_a_damaged_file_costs_at_most_its_own_run_again(
    tmp_path: Path, undisturbed: Path, fault: New, name: str, kind: str
) -> None:
    row = fault(f"{name}: {kind}")
    if name == "summary.json":
        shutil.copytree(undisturbed / "results", tmp_path / "results")
    else:
        sweep = started(tmp_path, "launcher=serial")
        os.killpg(sweep.pid, signal.SIGTERM)
        sweep.wait(timeout=60)
    *_, path = [path for record in records(tmp_path) if (path := record.path / name).exists() and path.stat().st_size]
    path.write_bytes(KINDS[kind](path.read_bytes()))
    again = answer(tmp_path, *SWEEP, "launcher=serial")
    assert again.returncode == 0, again.stderr
    row.tries = 1
    row.compare(tmp_path, undisturbed)
    row.check()


def test_results_that_are_removed_in_mid_run_end_it_in_one_line(tmp_path: Path, undisturbed: Path, fault: New) -> None:
    row = fault("results removed in mid-run")
    sweep = started(tmp_path, "launcher=serial")
    shutil.rmtree((tmp_path / "results").rename(tmp_path / "removed"))  # at once: the sweep writes to it all the time
    assert sweep.wait(timeout=120) == 1
    done = answer(tmp_path, *SWEEP, "launcher=serial")
    assert done.returncode == 0, done.stderr
    row.tries = 1
    row.compare(tmp_path, undisturbed)
    row.check()


def test_a_folder_that_may_not_be_written_to_is_refused_before_anything_starts(tmp_path: Path, fault: New) -> None:
    row = fault("results on a disk that is read only")
    with small_disk(tmp_path / "results", 64):
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "results")], check=True)
        refused = answer(tmp_path, *SWEEP, "launcher=serial")
    assert refused.returncode == 2, refused.stderr
    assert "machine.results='results'" in refused.stderr
    assert "Traceback" not in refused.stderr
    row.tries = 1
