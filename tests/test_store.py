"""The store: what is written is whole, what is taken is locked, what is cut off is read up to the cut."""

import json
import multiprocessing
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reltrust.errors import BusyError, DamagedError, RecordError
from reltrust.records import provenance
from reltrust.records.files import read_json_lines, write_text
from reltrust.records.store import RunRecord, Status, Store
from reltrust.records.summaries import collect
from reltrust.reporting.table import load
from reltrust.settings import Settings

Resolve = Callable[..., Settings]


def begun(settings: Settings) -> RunRecord:
    record = Store(settings.machine.results).record(settings)
    record.begin(settings, "cpu")
    return record


def begin_and_die(settings: Settings) -> None:
    begun(settings)


def test_a_run_that_was_never_begun_has_no_status_and_leaves_no_trace(settings: Resolve) -> None:
    chosen = settings()
    record = Store(chosen.machine.results).record(chosen)
    assert record.status is None
    assert not record.is_busy
    assert record.metrics == []
    assert not Path(chosen.machine.results).exists()


def test_a_run_that_is_taken_cannot_be_taken_again(settings: Resolve) -> None:
    chosen = settings()
    record = begun(chosen)
    assert record.is_busy
    with pytest.raises(BusyError, match="another process"):
        begun(chosen)
    record.preempted()
    assert not record.is_busy
    begun(chosen).preempted()
    assert len(record.provenance["attempts"]) == 2


def test_a_process_that_dies_gives_its_run_free(settings: Resolve) -> None:
    chosen = settings()
    process = multiprocessing.get_context("spawn").Process(target=begin_and_die, args=(chosen,))
    process.start()
    process.join()
    record = Store(chosen.machine.results).record(chosen)
    assert record.status is Status.RUNNING
    assert not record.is_busy
    begun(chosen).preempted()


def test_a_directory_of_other_settings_is_not_taken(settings: Resolve) -> None:
    chosen = settings()
    record = begun(chosen)
    record.preempted()
    origin = record.provenance | {"id": "0" * 64}
    (record.path / "provenance.json").write_text(json.dumps(origin))
    with pytest.raises(RuntimeError, match="belongs to another run"):
        begun(chosen)
    assert not record.is_busy


def test_a_line_that_was_cut_off_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in read_json_lines(path)] == [1, 2]


def test_rewinding_drops_the_rows_after_a_step_and_a_line_that_was_cut_off(settings: Resolve) -> None:
    record = begun(settings())
    for step in (30, 60, 90):
        record.append({"step": step})
    with (record.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12')
    record.rewind(60)
    record.append({"step": 90})
    assert [row["step"] for row in record.metrics] == [30, 60, 90]


def test_a_file_that_cannot_be_replaced_stays_and_leaves_no_scrap(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(RecordError, match=r"target: cannot be written: Is a directory$"):
        write_text(tmp_path / "target", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_each_ending_is_told_by_the_status(settings: Resolve) -> None:
    for seed, (status, end) in enumerate(
        {
            Status.FINISHED: lambda record: record.end(Status.FINISHED, {"train_accuracy": 1.0}),
            Status.DIVERGED: lambda record: record.end(Status.DIVERGED, {"diverged_at": 3}),
            Status.PREEMPTED: lambda record: record.preempted(),
            Status.FAILED: lambda record: record.failed(OSError("disk full")),
        }.items()
    ):
        record = begun(settings(f"seed={seed}"))
        assert record.status is Status.RUNNING
        end(record)
        assert record.status is status
        assert record.status.is_result == (status in (Status.FINISHED, Status.DIVERGED))
        assert record.error == ("OSError: disk full" if status is Status.FAILED else None)


def test_a_run_whose_end_cannot_be_written_is_given_free(settings: Resolve) -> None:
    record = begun(settings())
    (record.path / "provenance.json").unlink()
    with pytest.raises(DamagedError, match=r"provenance\.json"):
        record.preempted()
    assert not record.is_busy


def test_the_command_is_kept_without_the_path_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/src/reltrust/__main__.py", "seed=1", "task={a: b}"])
    assert provenance.attempt("cpu")["command"] == "python -m reltrust seed=1 'task={a: b}'"


def finish(settings: Settings, accuracy: float) -> None:
    begun(settings).end(Status.FINISHED, {"steps": 120, "train_loss": 0.1, "train_accuracy": accuracy})


def test_a_table_takes_the_runs_of_one_comparison_from_one_store(settings: Resolve, tmp_path: Path) -> None:
    import pandas as pd

    results = tmp_path / "results"
    finish(settings("seed=0"), 0.5)
    finish(settings("seed=1"), 0.6)
    finish(settings("seed=0", "task.width=16"), 0.7)
    path = collect(results, "mlp_depth", {})
    assert path is not None
    assert sorted(pd.read_csv(path)["train_accuracy"]) == [0.5, 0.6, 0.7]

    # Another store, with one run of the first comparison: its rows replace those, the other comparison's stay.
    elsewhere = tmp_path / "elsewhere"
    finish(settings("seed=0", f"machine.results={elsewhere}"), 0.9)
    (elsewhere / "summaries").mkdir()
    (elsewhere / "summaries" / path.name).write_bytes(path.read_bytes())
    merged = pd.read_csv(collect(elsewhere, "mlp_depth", {}))
    assert sorted(merged["train_accuracy"]) == [0.7, 0.9]


@pytest.mark.parametrize(
    "words", ["optimizer.target=torch.optim.Adamax", "+optimizer.clip_norm=1.0", "+optimizer.players.model.lr=0.5"]
)
def test_runs_whose_optimizers_differ_in_anything_are_not_taken_for_seeds(
    settings: Resolve, tmp_path: Path, words: str
) -> None:
    # Regression: those that differed in the target alone were averaged.
    finish(settings("optimizer=adam", "seed=0"), 0.5)
    finish(settings("optimizer=adam", "seed=1"), 0.6)
    finish(settings("optimizer=adam", "seed=0", words), 0.7)
    collect(tmp_path / "results", "mlp_depth", {})
    arms = load(tmp_path / "results", "mlp_depth").groupby("arm")["seed"].nunique()
    assert sorted(arms) == [1, 2]
    # The ones that most have go without saying, also where that is to have something that the others lack.
    finish(settings("optimizer=adam", "seed=1", words), 0.7)
    finish(settings("optimizer=adam", "seed=2", words), 0.7)
    collect(tmp_path / "results", "mlp_depth", {})
    arms = load(tmp_path / "results", "mlp_depth").groupby("arm")["seed"].nunique()
    assert sorted(arms) == [2, 3]
    assert words.removeprefix("+optimizer.").removeprefix("optimizer.").partition("=")[0].partition(".")[0] in str(arms)


def test_a_table_holds_results_only(settings: Resolve, tmp_path: Path) -> None:
    import pandas as pd

    begun(settings("seed=0")).preempted()
    assert collect(tmp_path / "results", "mlp_depth", {}) is None
    begun(settings("seed=1")).end(Status.DIVERGED, {"diverged_at": 7, "steps": 30})
    table = pd.read_csv(collect(tmp_path / "results", "mlp_depth", {}))
    assert table[["seed", "status", "diverged_at"]].to_numpy().tolist() == [[1, "diverged", 7]]


def test_who_has_lost_a_run_writes_nothing_more_to_it(settings: Resolve) -> None:
    chosen = settings()
    lost = begun(chosen)
    lost.lease.path.unlink()
    taken = begun(chosen)
    taken.append({"step": 1})
    for write in (lambda: lost.rewind(0), lambda: lost.write_file("a.txt", b"a"), lambda: lost.append({"step": 2})):
        with pytest.raises(BusyError, match="has taken this run over"):
            write()
    assert taken.metrics == [{"step": 1}]
    assert taken.files == []
    taken.preempted()


def test_what_an_interrupted_merge_has_left_is_no_run(settings: Resolve) -> None:
    chosen = settings()
    record = begun(chosen)
    record.preempted()
    shutil.copytree(record.path, record.path.with_name(f".{record.path.name}.scrap"))
    assert [one.path for one in Store(chosen.machine.results).records()] == [record.path]


def test_new_code_that_no_commit_knows_differs_from_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        own = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *own, *words], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / "src" / "provenance.py"
    package.parent.mkdir()
    package.write_text("")
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(package))
    code = provenance.code.__wrapped__
    (tmp_path / "results").mkdir()
    for name in ("ignored.py", "notes.txt", "results/mine.py"):
        (tmp_path / name).write_text("1")
    assert (code()["dirty"], code()["diff"]) == (False, None)
    (tmp_path / "mine.py").write_text("1")
    first = code()
    assert first["dirty"]
    (tmp_path / "mine.py").write_text("2")
    assert code()["diff"] not in (None, first["diff"])
