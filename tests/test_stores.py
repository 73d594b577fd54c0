"""What is done with stores as a whole: their status, tables of runs that were started one by one, cleaning, merging."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reltrust.errors import BusyError
from reltrust.records.merging import TAKEN, merge_runs
from reltrust.records.store import RunRecord, Status, Store
from reltrust.settings import Settings
from runs import begun, record_of, run, stopped

Resolve = Callable[..., Settings]
Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def ended(settings: Resolve, tmp_path: Path) -> tuple[RunRecord, RunRecord]:
    """A finished run and a diverged one, in ``results``."""
    first, second = settings("seed=0", "machine.keep=checkpoint"), settings("optimizer=sgd", "optimizer.lr=1e30")
    assert (run(first), run(second)) == (Status.FINISHED, Status.DIVERGED)
    return record_of(first), record_of(second)


# --- status -----------------------------------------------------------------------------------------------------------


def test_the_status_counts_by_optimizer_and_tells_how_far_and_of_what(
    settings: Resolve, script: Script, ended: object, tmp_path: Path
) -> None:
    running, failed, asked = settings("seed=1"), settings("seed=2"), settings("seed=3")
    record = begun(running)
    record.append({"step": 30, "seconds": 60.0, "train_loss": 1.0})
    begun(failed).failed(ZeroDivisionError("as planned\nsecond line"))
    with stopped(40):
        assert run(asked) is Status.PREEMPTED
    told = script("status", "--results", str(tmp_path / "results")).stdout.splitlines()
    assert told[0].split() == ["running", "preempted", "failed", "finished", "diverged"]
    assert told[1].split() == ["mlp_depth/fromage", "1", "1", "1", "1", "0"]
    assert told[2].split() == ["mlp_depth/sgd", "0", "0", "0", "0", "1"]
    assert told[3].split() == ["all", "1", "1", "1", "1", "1"]
    lines = {line.split()[0]: line for line in told[4:]}
    assert "step 30/120 (25%), 3 min left" in lines["running"]
    assert lines["failed"].endswith("no step logged  ZeroDivisionError: as planned")
    assert "step 30/120 (25%)" in lines["preempted"]
    record.preempted()


def test_the_status_of_a_sweep_tells_what_is_missing(script: Script, settings: Resolve, tmp_path: Path) -> None:
    run(settings("seed=0"))
    words = ("scale=smoke", "seed=0,1,2", "tracking=none", "--results", str(tmp_path / "results"))
    told = script("status", *words)
    assert [line.split() for line in told.stdout.splitlines()] == [
        ["finished", "missing"],
        ["mlp_depth/fromage", "1", "2"],
    ]
    refused = script("status", "sweep=typo", "--results", str(tmp_path / "results"))
    assert refused.returncode == 2
    assert "error: sweep=typo: unknown, allowed are " in refused.stderr


# --- runs that were started one by one --------------------------------------------------------------------------------


def test_runs_that_were_started_one_by_one_are_collected_by_one_command(
    script: Script, ended: object, tmp_path: Path
) -> None:
    assert not (tmp_path / "results" / "summaries").exists()
    told = script("collect", "--results", str(tmp_path / "results"))
    assert told.returncode == 0, told.stderr
    table = pd.read_csv(tmp_path / "results" / "summaries" / "mlp_depth.csv")
    assert sorted(table["status"]) == ["diverged", "finished"]
    assert set(table["scale"]) == {"smoke"}
    curves = tmp_path / "results" / "summaries" / "mlp_depth-curves.csv"
    written = curves.read_text()
    curves.unlink()
    assert script("collect", "--results", str(tmp_path / "results")).returncode == 0
    assert curves.read_text() == written
    refused = script("collect", "typo", "--results", str(tmp_path / "results"))
    assert (refused.returncode, "experiments=typo: unknown" in refused.stderr) == (2, True)


# --- cleaning ---------------------------------------------------------------------------------------------------------


def test_cleaning_shows_what_it_frees_and_removes_it_only_when_told(
    script: Script,
    settings: Resolve,
    ended: tuple[RunRecord, RunRecord],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stopped(20):
        run(settings("seed=3"))
    going_on = record_of(settings("seed=3")).checkpoint_path
    words = ("--results", str(tmp_path / "results"))
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    told = script("clean", *words)
    assert (told.returncode, "nothing was removed" in told.stderr) == (1, True)
    assert f"MB  {ended[0].checkpoint_path}" in told.stdout
    assert "1 checkpoints" in told.stdout
    assert ended[0].checkpoint_path.exists()
    assert script("clean", "--yes", *words).returncode == 0
    assert not ended[0].checkpoint_path.exists()
    assert going_on.exists()
    assert ended[0].status is Status.FINISHED


# --- merging ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(settings: Resolve, tmp_path: Path) -> tuple[Path, Path]:
    """Two results folders: seeds 0 and 1 in ours, 1 and 2 in theirs."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, seeds in ((ours, (0, 1)), (theirs, (1, 2))):
        for seed in seeds:
            run(settings(f"seed={seed}", f"machine.results={folder}"))
    return ours, theirs


def names(results: Path) -> set[str]:
    return {record.path.name.split("-")[2] for record in Store(results).records()}


def test_the_runs_of_two_stores_are_one_store_and_the_same_run_is_one(script: Script, two: tuple[Path, Path]) -> None:
    ours, theirs = two
    told = script("merge", str(theirs), "--results", str(ours))
    assert told.returncode == 0, told.stdout + told.stderr
    assert "runs: 1 the same in both, 1 taken" in told.stdout
    assert names(ours) == {"seed0", "seed1", "seed2"}
    assert len(pd.read_csv(ours / "summaries" / "mlp_depth.csv")) == 3
    again = script("merge", str(theirs), "--results", str(ours))
    assert "runs: 2 the same in both" in again.stdout


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json"])
def test_one_run_that_measured_two_things_is_told_and_stays_as_it_is(
    script: Script, two: tuple[Path, Path], name: str
) -> None:
    ours, theirs = two
    (path,) = theirs.glob(f"runs/*/*/*seed1*/{name}")
    mine = (ours / path.relative_to(theirs)).read_bytes()
    path.write_text(path.read_text().replace('"train_loss": ', '"train_loss": 1'))
    told = script("merge", str(theirs), "--results", str(ours))
    assert told.returncode == 1
    assert "different: " in told.stdout
    assert "train_loss" in told.stdout
    assert "1 different" in told.stdout
    assert (ours / path.relative_to(theirs)).read_bytes() == mine
    assert names(ours) == {"seed0", "seed1", "seed2"}  # the other one was taken


def test_what_is_unfinished_gives_way_to_a_result_and_what_is_worked_on_to_nothing(
    script: Script, settings: Resolve, two: tuple[Path, Path]
) -> None:
    ours, theirs = two
    with stopped(20):
        run(settings("seed=2", f"machine.results={ours}"))
    held = begun(settings("seed=5", f"machine.results={theirs}"))
    shutil.copytree(held.path, ours / held.path.relative_to(theirs), ignore=shutil.ignore_patterns(".lease"))
    told = script("merge", str(theirs), "--results", str(ours))
    assert told.returncode == 0
    assert "left there: it is being worked on" in told.stdout
    (record,) = [record for record in Store(ours).records() if "seed2" in record.path.name]
    assert record.status is Status.FINISHED
    held.preempted()


def test_a_run_that_begins_while_the_other_stores_result_is_copied_goes_on(
    settings: Resolve, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = two
    mine = settings("seed=2", f"machine.results={ours}")
    copytree = shutil.copytree

    def slow(*words: Any, **options: Any) -> Any:
        copied = copytree(*words, **options)
        if "seed2" in str(words[0]):
            with pytest.raises(BusyError):
                begun(mine)
        return copied

    monkeypatch.setattr(shutil, "copytree", slow)
    assert [answer for answer, place in merge_runs(ours, theirs) if "seed2" in place] == [TAKEN]
    assert record_of(mine).status is Status.FINISHED
    assert not record_of(mine).lease.path.exists()
    assert not list(record_of(mine).path.parent.glob(".*"))


def test_a_damaged_record_is_not_taken(script: Script, two: tuple[Path, Path]) -> None:
    ours, theirs = two
    (path,) = theirs.glob("runs/*/*/*seed2*/summary.json")
    path.write_text("{")
    told = script("merge", str(theirs), "--results", str(ours))
    assert "summary.json: damaged" in told.stdout
    assert names(ours) == {"seed0", "seed1"}


def test_tables_without_their_runs_are_merged_row_by_row_and_never_mixed_with_records(
    script: Script, two: tuple[Path, Path], tmp_path: Path
) -> None:
    ours, theirs = two
    for folder in two:
        assert script("collect", "--results", str(folder)).returncode == 0
    tables = tmp_path / "tables"
    shutil.copytree(theirs / "summaries", tables / "summaries")
    left = script("merge", str(tables), "--results", str(ours))
    assert left.returncode == 0
    assert "records stand for this comparison here" in left.stdout
    assert len(pd.read_csv(ours / "summaries" / "mlp_depth.csv")) == 2

    shutil.rmtree(ours / "runs")
    taken = script("merge", str(tables), "--results", str(ours))
    assert taken.returncode == 0, taken.stdout
    assert "taken: 1 rows" in taken.stdout
    assert sorted(pd.read_csv(ours / "summaries" / "mlp_depth.csv")["seed"]) == [0, 1, 2]
    assert pd.read_csv(ours / "summaries" / "mlp_depth-curves.csv")["run"].nunique() == 3

    table = pd.read_csv(tables / "summaries" / "mlp_depth.csv")
    table.astype({"steps": float}).to_csv(tables / "summaries" / "mlp_depth.csv", index=False)  # as beside analyses
    assert script("merge", str(tables), "--results", str(ours)).returncode == 0
    table["train_loss"] += 1
    table.to_csv(tables / "summaries" / "mlp_depth.csv", index=False)
    different = script("merge", str(tables), "--results", str(ours))
    assert different.returncode == 1
    assert "train_loss" in different.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [("{ours} --results {ours}", "is --results itself"), ("{ours}/runs", "has neither"), ("{ours}/no", "no such")],
)
def test_what_is_no_other_store_is_refused(script: Script, two: tuple[Path, Path], words: str, said: str) -> None:
    refused = script("merge", *words.format(ours=two[0]).split())
    assert refused.returncode == 2
    assert said in refused.stderr


# --- where a result comes from ----------------------------------------------------------------------------------------


def test_a_record_tells_job_attempts_and_the_difference_from_the_commit(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_JOB_ID", "20")
    chosen = settings("seed=0")
    with stopped(20):
        run(chosen)
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    run(chosen)
    first, second = record_of(chosen).provenance["attempts"]
    assert (first["job"], second["job"]) == ("slurm 17_3", "slurm 20")  # one of an array, and one of its own
    assert (first["status"], second["status"]) == ("preempted", "finished")
    assert first["ended"] <= second["started"]
    assert second["code"]["dirty"] == (second["code"]["diff"] is not None)
    assert json.loads((record_of(chosen).path / "provenance.json").read_text())["config"]["seed"] == 0
