"""One run, one writer: who holds a run, who may take it over, and who finds that it was taken."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from reltrust.errors import BusyError, RecordError
from reltrust.experiment import Measured
from reltrust.packing.runner import run_pack
from reltrust.records import lease as leases
from reltrust.records.lease import Lease, held
from reltrust.records.store import Status, busy
from reltrust.settings import Settings
from reltrust.sweeps.plan import plan
from reltrust.training.program import Program
from runs import begun, record_of
from runs import run as run_again

Resolve = Callable[..., Settings]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(leases, "PATIENCE_SECONDS", 0.2)


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    return Lease(tmp_path / ".lease")


def held_by(path: Path, **changes: object) -> None:
    """A lease of this process, changed."""
    other = Lease(path)
    other.acquire()
    content = json.loads(path.read_text()) | changes
    other.release()
    path.write_text(json.dumps(content))


def test_a_lease_is_held_once_and_given_back(lease: Lease) -> None:
    lease.acquire()
    other = Lease(lease.path)
    assert held([other]) == [True]
    with pytest.raises(BusyError, match="another process is working on this run"):
        other.acquire()
    lease.release()
    assert held([other]) == [False]
    assert list(lease.path.parent.iterdir()) == []
    other.acquire()
    other.release()


def test_the_lease_of_a_killed_process_is_taken_at_once_though_nobody_has_reaped_it(lease: Lease) -> None:
    program = f"from reltrust.records.lease import *; Lease(Path({str(lease.path)!r})).acquire(); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program])
    while not lease.path.exists() or not lease.path.read_text():
        time.sleep(0.01)
    assert held([lease]) == [True]
    process.kill()
    while held([lease])[0]:  # until the signal has reached it
        time.sleep(0.01)
    lease.acquire()
    lease.check()
    process.wait()
    lease.release()


def test_another_process_with_the_number_of_a_dead_holder_is_not_taken_for_it(lease: Lease) -> None:
    held_by(lease.path, process="0")
    assert held([lease]) == [False]
    lease.acquire()
    lease.release()


def test_a_holder_elsewhere_that_stands_still_is_dead_whatever_its_clock_says(lease: Lease) -> None:
    held_by(lease.path, host="elsewhere")
    os.utime(lease.path, (2e9, 2e9))  # an hour, a year ahead: it does not matter
    assert held([lease]) == [False]
    lease.acquire()
    lease.release()


def test_a_holder_elsewhere_whose_lease_changes_is_alive_whatever_its_clock_says(
    lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "PATIENCE_SECONDS", 30.0)  # it does not wait so long
    held_by(lease.path, host="elsewhere")
    stop = threading.Event()

    def beat() -> None:
        second = 1
        while not stop.wait(0.01):
            os.utime(lease.path, (second, second))  # long ago
            second += 1

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(BusyError):
            lease.acquire()
    finally:
        stop.set()
        thread.join()


def test_many_dead_holders_elsewhere_are_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    real = time.sleep

    def sleep(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            waited.append(seconds)
        else:
            real(seconds)  # between two beats

    many = [Lease(tmp_path / str(i)) for i in range(20)]
    for one in many:
        held_by(one.path, host="elsewhere")
    monkeypatch.setattr(leases, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: sum(waited)))
    assert held(many) == [False] * 20
    total = sum(waited)
    assert 0.2 <= total < 0.4
    for one in many:  # what has been seen dead is taken without another look
        one.acquire()
    assert sum(waited) == total
    for one in many:
        one.release()


def test_an_empty_lease_is_taken_once_nothing_has_touched_it_for_a_while(lease: Lease) -> None:
    lease.path.touch()  # its holder's machine stopped before the content was on the disk
    lease.acquire()
    lease.release()


def test_of_several_that_find_the_holder_dead_one_gets_the_run(tmp_path: Path) -> None:
    path = tmp_path / ".lease"
    for _ in range(20):
        held_by(path, process="0")
        taken: list[Lease] = []
        refused: list[BusyError] = []
        barrier = threading.Barrier(4)

        def contend(barrier: threading.Barrier = barrier, taken: list[Lease] = taken) -> None:
            one = Lease(path)
            barrier.wait()
            try:
                one.acquire()
                taken.append(one)
            except BusyError as error:
                refused.append(error)  # noqa: B023

        threads = [threading.Thread(target=contend) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        taken[0].check()
        taken[0].release()
        assert list(tmp_path.iterdir()) == []


def test_one_that_judged_a_holder_dead_does_not_take_the_lease_of_the_next_one(lease: Lease) -> None:
    held_by(lease.path, process="0")
    assert held([lease]) == [False]
    other = Lease(lease.path)
    other.acquire()  # in the meantime
    lease._remove_dead()  # what it would do next
    other.check()
    with pytest.raises(BusyError):
        lease.acquire()
    other.release()


def test_leases_are_touched_while_they_are_held(lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_heart", None)
    lease.acquire()
    os.utime(lease.path, (1, 1))
    deadline = time.monotonic() + 10
    while lease.path.stat().st_mtime == 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lease.release()


def test_a_holder_that_was_taken_for_dead_writes_nothing_more(settings: Resolve) -> None:
    chosen = settings()
    record, successor = record_of(chosen), record_of(chosen)
    record.begin(chosen, "cpu")
    record.lease.path.unlink()
    successor.begin(chosen, "cpu")
    for write in (lambda: record.append({"step": 1}), record.preempted, lambda: record.end(Status.FINISHED, {})):
        with pytest.raises(BusyError, match="another process has taken this run over"):
            write()
    assert successor.status is Status.RUNNING
    assert successor.is_busy
    successor.preempted()


def test_a_run_whose_directory_is_gone_ends_in_one_line(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings()
    record = record_of(chosen)

    def evaluate(self: Program) -> list[Measured]:
        record.path.rename(f"{record.path}.gone")
        return [Measured({})]

    monkeypatch.setattr(Program, "evaluate", evaluate)
    with pytest.raises(RecordError) as raised:
        run_again(chosen)
    assert str(raised.value).splitlines() == [f"{record.path}: was removed while the run was going on"]


@pytest.mark.parametrize("packed", [False, True])
def test_what_another_process_finishes_between_the_plan_and_the_start_is_not_run_again(
    settings: Resolve, packed: bool
) -> None:
    # Regression: the same command twice, a second apart, trained a finished run again.
    chosen = [settings(f"seed={seed}") for seed in range(2)]
    planned = plan(chosen)
    build, record = Program.__init__, record_of(chosen[0])

    def meanwhile(self: Program, *words: object) -> None:
        if record.status is None:
            record.begin(chosen[0], "cpu")
            record.end(Status.FINISHED, {"train_accuracy": 1.0})
        build(self, *words)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "__init__", meanwhile)
        if packed:
            outcomes = run_pack(planned, max_members=None, memory_fraction=0.5, require_packing=True)
            assert outcomes == [Status.FINISHED] * 2
        else:
            assert run_again(chosen[0]) is Status.FINISHED
    assert record.summary == {"train_accuracy": 1.0}
    assert len(record.provenance["attempts"]) == 1


def test_reading_writes_nothing(settings: Resolve) -> None:
    chosen = settings()
    record = begun(chosen)
    record.preempted()
    held_by(record.lease.path, process="0")
    before = {path: path.stat().st_mtime_ns for path in [record.path, *record.path.iterdir()]}
    (planned,) = plan([chosen])
    assert planned.action == "run again"
    assert busy([record]) == [False]
    assert before == {path: path.stat().st_mtime_ns for path in [record.path, *record.path.iterdir()]}


# --- processes of a sweep ---------------------------------------------------------------------------------------------


def test_the_processes_of_a_sweep_end_with_the_first_one(tmp_path: Path) -> None:
    # Regression: they went on training, and the repeated sweep said "running elsewhere".
    program = f"import orphan; orphan.start_one({str(tmp_path)!r})"
    first = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parent)
    while not (tmp_path / "worker").exists() or not (tmp_path / "worker").read_text():
        assert first.poll() is None
        time.sleep(0.05)
    worker = psutil.Process(int((tmp_path / "worker").read_text()))
    first.kill()
    first.wait()
    worker.wait(timeout=60)
    assert (tmp_path / "checkpoint").exists()  # it was asked first
    assert not (tmp_path / ".lease").exists()


# A holder in a namespace of its own: another host name, another numbering of processes, and a clock five minutes ahead.
ELSEWHERE = """
import os, socket, sys, time
from pathlib import Path
socket.sethostname("another-host")
touch, now, ahead = os.utime, time.time, float(sys.argv[2])
time.time = lambda: now() + ahead
os.utime = lambda path: touch(path, (now() + ahead, now() + ahead))  # as its file server's clock would have it
from reltrust.errors import BusyError
from reltrust.records import lease
lease.BEAT_SECONDS, lease.PATIENCE_SECONDS = 0.2, 2.0
held = lease.Lease(Path(sys.argv[1]))
try:
    held.acquire()
except BusyError:
    sys.exit(3)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("ahead", [300.0, -300.0])
def test_two_hosts_that_share_a_folder_and_no_clock_take_turns(
    lease: Lease, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(leases, "PATIENCE_SECONDS", 2.0)
    host = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*host, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces may be made here")
    elsewhere = [*host, sys.executable, "-c", ELSEWHERE, str(lease.path), str(ahead)]
    with subprocess.Popen(elsewhere, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert json.loads(lease.path.read_text())["host"].startswith("another-host ")
        assert held([Lease(lease.path)]) == [True]
        with pytest.raises(BusyError):
            Lease(lease.path).acquire()
        other.kill()  # with all its processes: nobody gives the lease back
    lease.acquire()  # once it has stood still
    refused = subprocess.run(elsewhere, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    assert refused.returncode == 3  # and the other host sees that it is held here
    lease.release()
