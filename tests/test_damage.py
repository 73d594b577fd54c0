"""Files that are not what was written: checkpoints, metrics, records. What is damaged costs itself and nothing else."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch
import yaml

from reltrust.errors import DamagedError, RecordError
from reltrust.packing.runner import run_pack
from reltrust.records import checkpoint, files
from reltrust.records.store import FORMAT, RunRecord, Status, Store
from reltrust.records.summaries import collect
from reltrust.settings import Settings
from reltrust.sweeps.plan import plan
from reltrust.sweeps.watch import SweepProgress
from reltrust.training.program import Program
from runs import begun, metrics, record_of, run, settings_of

Resolve = Callable[..., Settings]
Script = Callable[..., "subprocess.CompletedProcess[str]"]


pytestmark = pytest.mark.xdist_group("damage")  # one process makes what is damaged


# --- checkpoints -----------------------------------------------------------------------------------------------------


OFTEN = ("scale=smoke", "tracking=none", "machine.progress=false", "machine.device=cpu", "training.log_every=10")


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The results of a run that was interrupted after step 101, with a checkpoint of every step; the metrics of a whole
    one. Made once: what takes the time is to have every checkpoint on the disk.
    """
    folder = tmp_path_factory.mktemp("interrupted")
    run(whole := settings_of(*OFTEN, f"machine.results={folder / 'whole'}"))
    step = Program.training_step

    def stopping(self: Program, number: int, factors: list[float]) -> None:
        if number == 101:
            raise KeyboardInterrupt
        step(self, number, factors)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "training_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(settings_of(*OFTEN, "machine.checkpoint_minutes=0.000001", f"machine.results={folder / 'results'}"))
    return folder / "results", metrics(whole)


@pytest.fixture
def interrupted(left_behind: Any, settings: Resolve) -> tuple[Settings, list[dict[str, Any]]]:
    """A run that was interrupted after step 101, with checkpoints of the last two, and the metrics to come to."""
    results, expected = left_behind
    chosen = settings(*OFTEN)
    shutil.copytree(results, chosen.machine.results)
    return chosen, expected


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 0x10
    path.write_bytes(content)


def test_the_checkpoint_before_is_taken_where_the_last_one_is_damaged(
    interrupted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    chosen, expected = interrupted
    path = record_of(chosen).checkpoint_path
    flip(path, path.stat().st_size // 2)
    assert checkpoint.step(path) == 100
    # Regression: a flipped byte was loaded, and the run ended with other numbers.
    assert run(chosen) is Status.FINISHED
    assert metrics(chosen) == expected
    (line,) = [one.getMessage() for one in caplog.records]
    assert line.startswith(f"{path}: damaged: ")
    assert line.endswith("; going on from the checkpoint before, of step 100")
    assert not list(path.parent.glob("*.pt"))


def test_a_run_without_a_checkpoint_that_is_whole_begins_from_the_start(
    interrupted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    chosen, expected = interrupted
    path = record_of(chosen).checkpoint_path
    path.write_bytes(path.read_bytes()[:1000])
    flip(checkpoint.previous(path), 4000)
    assert checkpoint.step(path) == 0
    assert run(chosen) is Status.FINISHED
    assert metrics(chosen) == expected
    assert [one.getMessage().rpartition("; ")[2] for one in caplog.records] == ["going on from the start"]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: None,
        lambda lines: [],
        lambda lines: lines[:-1],
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines],
        lambda lines: [*lines[:4], lines[4].replace("1", "2"), *lines[5:]],
        lambda lines: [*lines[:4], "\0" * 40, *lines[5:]],
    ],
    ids=["removed", "emptied", "shortened", "beheaded", "doubled", "changed", "zeros"],
)
def test_metrics_that_are_not_those_of_the_checkpoint_are_made_again(
    interrupted: Any, change: Callable[[list[str]], list[str] | None], caplog: pytest.LogCaptureFixture
) -> None:
    # Regression: the run ended with a short file, and exit status 0.
    chosen, expected = interrupted
    path = record_of(chosen).path / "metrics.jsonl"
    lines = change(path.read_text().splitlines())
    path.unlink()
    if lines is not None:
        path.write_text("".join(f"{line}\n" for line in lines))
    assert run(chosen) is Status.FINISHED
    assert metrics(chosen) == expected
    assert f"{path}: lacks rows that checkpoint.pt was written after; going on from " in caplog.text


def test_what_a_dying_system_left_after_the_rows_of_the_checkpoint_is_cut_off(interrupted: Any) -> None:
    chosen, expected = interrupted
    with (record_of(chosen).path / "metrics.jsonl").open("ab") as file:
        file.write(b"\0" * 100 + b"\n{}\n[1]\n")
    assert run(chosen) is Status.FINISHED
    assert metrics(chosen) == expected


def test_a_checkpoint_from_before_there_were_checks_is_gone_on_from(interrupted: Any) -> None:
    chosen, expected = interrupted
    path = record_of(chosen).checkpoint_path
    content = torch.load(path)
    del content["rows"]
    torch.save(content, path)
    checkpoint.previous(path).unlink()
    assert run(chosen) is Status.FINISHED
    assert metrics(chosen) == expected
    assert len(record_of(chosen).provenance["attempts"]) == 2


def test_no_flipped_byte_of_a_checkpoint_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    state = {"step": 3, "weights": torch.arange(4.0), "name": "x"}
    checkpoint.save(path, state)
    whole = path.read_bytes()
    for place in [*range(0, len(whole), 101), len(whole) - 70]:
        path.write_bytes(whole)
        flip(path, place)
        loaded = checkpoint.load(path)
        assert (loaded is None) == (place not in range(len(whole) - 72, len(whole) - 64))
        if loaded is not None:  # what says that a checksum follows
            assert torch.equal(loaded.pop("weights"), state["weights"])
            assert loaded == {"step": 3, "name": "x"}


def test_rows_are_on_the_disk_before_the_checkpoint_that_implies_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    synced: list[str] = []
    monkeypatch.setattr("os.fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink().name))
    checkpoint.save(tmp_path / "checkpoint.pt", {"step": 1})
    assert synced[0] == "metrics.jsonl"
    assert synced[1].startswith(".checkpoint.pt.")


# --- records ---------------------------------------------------------------------------------------------------------

GARBAGE = {
    "empty": b"",
    "torn": b'{"status": "fin',
    "nul": b"\0" * 200,
    "latin": b'{"status": "\xff"}',
    "list": b"[1, 2]",
    "null": b"null",
    "other": b'{"status": "done", "attempts": [], "train_accuracy": "much"}',
}


def finished(settings: Settings) -> RunRecord:
    record = begun(settings)
    record.end(Status.FINISHED, {"steps": 120, "train_loss": 0.1, "train_accuracy": 0.5})
    return record


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("name", ["status.json", "provenance.json", "summary.json"])
def test_a_damaged_record_is_told_and_run_again_and_the_others_are_not(
    settings: Resolve,
    name: str,
    garbage: str,
    script: Script,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Regression: one damaged record ended status, collect and every sweep with a traceback.
    chosen = [settings(f"seed={seed}") for seed in range(3)]
    records = [finished(one) for one in chosen]
    path, results = records[1].path, chosen[0].machine.results
    (path / name).write_bytes(GARBAGE[garbage])

    shown = script("status", "--results", results).stdout
    assert f"{path / name}: damaged: " in shown
    assert [line.split() for line in shown.splitlines()[:2]] == [
        ["finished", "damaged"],
        ["mlp_depth/fromage", "2", "1"],
    ]
    table = collect(results, "mlp_depth", {})
    assert table is not None
    assert len(table.read_text().splitlines()) == 3
    (line,) = [one.getMessage() for one in caplog.records]
    assert line.startswith(f"{path / name}: damaged: ")
    assert "\n" not in line

    planned = plan(chosen)
    assert [one.action for one in planned] == ["finished", "run again", "finished"]
    with SweepProgress("sweep", [planned[1]], enabled=False):
        assert run(chosen[1]) is Status.FINISHED
    aside = path.with_name(f"{path.name}.damaged-1")
    assert (aside / name).read_bytes() == GARBAGE[garbage]
    assert f"set aside as {aside.name}" in caplog.messages[-1]
    assert [record.status for record in Store(results).records()] == [Status.FINISHED] * 3
    assert len(metrics(chosen[1])) == 4
    table = collect(results, "mlp_depth", {})
    assert table is not None
    assert len(table.read_text().splitlines()) == 4


def test_a_run_that_is_damaged_twice_is_set_aside_twice(settings: Resolve) -> None:
    record = finished(settings())
    for _ in range(2):
        (record.path / "status.json").write_text("")
        run(settings())
    names = sorted(path.name.rpartition(".")[2] for path in record.path.parent.iterdir())
    assert names == ["01-seed0-b3c3659d", "damaged-1", "damaged-2"]


def test_damaged_records_are_run_again_in_a_pack(settings: Resolve) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(3)]
    (finished(chosen[1]).path / "summary.json").unlink()
    outcomes = run_pack(plan(chosen), max_members=None, memory_fraction=0.5, require_packing=True)
    assert outcomes == [Status.FINISHED] * 3


def test_metrics_that_are_garbage_are_named_with_their_line(settings: Resolve) -> None:
    record = finished(settings())
    (record.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\0\0\n{"step": 3}\n')
    with pytest.raises(DamagedError, match=r"metrics\.jsonl: damaged: line 2: "):
        _ = record.metrics
    (record.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\0\0\n')
    assert record.last_step == 0


def test_a_record_from_before_its_settings_stood_in_it_has_them_from_its_yaml(settings: Resolve) -> None:
    record = finished(settings())
    old = record.provenance
    del old["config"], old["format"]
    (record.path / "provenance.json").write_text(json.dumps(old))
    assert record.status is Status.FINISHED
    assert record.config == yaml.safe_load((record.path / "config.yaml").read_text())
    for garbage in (b"{", b"\0", b"\xff", b"- 1\n"):
        (record.path / "config.yaml").write_bytes(garbage)
        assert record.status is Status.DAMAGED
        assert str(record.error).startswith(f"{record.path / 'config.yaml'}: damaged: ")
        assert "\n" not in str(record.error)


def test_a_record_of_a_newer_version_is_refused_by_name_and_left_alone(
    settings: Resolve,
    script: Script,
    caplog: pytest.LogCaptureFixture,
) -> None:
    chosen = settings()
    record = finished(chosen)
    newer = record.provenance | {"format": FORMAT + 1}
    (record.path / "provenance.json").write_text(json.dumps(newer))
    for read in (lambda: plan([chosen]), lambda: record.begin(chosen, "cpu")):
        with pytest.raises(RecordError, match=rf"provenance\.json: format {FORMAT + 1}, of a newer version"):
            read()
    assert not record.is_busy
    assert "of a newer version" in script("status", "--results", chosen.machine.results).stdout
    assert collect(chosen.machine.results, "mlp_depth", {}) is None
    assert "of a newer version" in caplog.text
    assert json.loads((record.path / "provenance.json").read_text()) == newer


def test_the_error_of_a_failed_run_is_one_line(settings: Resolve) -> None:
    record = begun(settings())
    record.failed(RuntimeError("first\nsecond\n"))
    assert record.error == "RuntimeError: first"
    stored = json.loads((record.path / "status.json").read_text())
    assert stored["error"] == "RuntimeError: first"
    assert "second" in "".join(stored["traceback"])


# --- what cannot be written ------------------------------------------------------------------------------------------


def test_a_full_disk_ends_a_run_in_one_line(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings("machine.checkpoint_minutes=0.000001")
    record, fdopen = record_of(chosen), files.os.fdopen
    full: list[bool] = []

    def opened(*words: Any) -> IO[bytes]:
        file = fdopen(*words)
        if Path(f"/proc/self/fd/{file.fileno()}").readlink().name.startswith(".checkpoint.pt.") or full:
            full.append(True)
            file.close()
            return Path("/dev/full").open("wb")  # whatever is written: no space left on device
        return file

    monkeypatch.setattr(files.os, "fdopen", opened)
    with pytest.raises(RecordError) as raised:
        run(chosen)
    assert str(raised.value) == f"{record.checkpoint_path}: cannot be written: No space left on device"
    assert not list(record.path.glob(".*"))  # neither a scrap nor a lease
    monkeypatch.undo()
    assert record.status is Status.RUNNING
    assert not record.is_busy
    assert run(chosen) is Status.FINISHED


def test_a_row_that_cannot_be_written_ends_a_run_in_one_line(settings: Resolve) -> None:
    record = begun(settings())
    (record.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(RecordError, match=r"metrics\.jsonl: cannot be written: No space left on device$"):
        record.append({"step": 1})
    record.preempted()


def test_scraps_of_a_killed_process_are_removed_by_the_next_attempt(settings: Resolve) -> None:
    chosen = settings()
    record = begun(chosen)
    record.preempted()

    def copy(_: IO[bytes]) -> None:  # as it is when the process is killed
        (scrap,) = record.path.glob(".checkpoint.pt.*")
        shutil.copy(scrap, scrap.with_name(scrap.name.replace(".scrap", "2.scrap")))

    files.write_atomically(record.checkpoint_path, copy)
    record.checkpoint_path.unlink()
    assert len(list(record.path.glob(".*"))) == 1
    assert run(chosen) is Status.FINISHED
    assert not list(record.path.glob(".*"))


def test_scraps_of_tables_are_removed_when_they_are_old(settings: Resolve) -> None:
    finished(settings())
    folder = Path(settings().machine.results, "summaries")
    folder.mkdir()
    for name, age in (("old", 7200), ("of_another_process", 0)):
        (folder / f".{name}.scrap").touch()
        os.utime(folder / f".{name}.scrap", (folder.stat().st_mtime - age,) * 2)
    collect(settings().machine.results, "mlp_depth", {})
    assert sorted(path.name for path in folder.iterdir()) == [".of_another_process.scrap", "mlp_depth.csv"]
