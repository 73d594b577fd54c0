"""Tables of results as they are read: what no run can have measured is refused, and the line says where it stands."""

import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from reltrust.errors import DamagedError
from reltrust.records import summaries
from reltrust.records.store import Result, RunRecord, Status
from reltrust.records.summaries import collect
from reltrust.reporting.report import load_report
from reltrust.reporting.selection import Comparison, Measure
from reltrust.reporting.table import load
from reltrust.settings import Settings
from runs import ROOT, begun, record_of

Resolve = Callable[..., Settings]
Script = Callable[..., "subprocess.CompletedProcess[str]"]
TABLE = ROOT / "results" / "summaries" / "mlp_depth.csv"


def changed(**values: str) -> Callable[[str], str]:
    """The committed table with other values in its third line."""

    def change(text: str) -> str:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        for column, value in values.items():
            table.loc[1, column] = value
        return str(table.to_csv(index=False))

    return change


DAMAGES: dict[str, tuple[Callable[[str], str], str]] = {
    "empty": (lambda text: "", "empty"),
    "header": (lambda text: text.splitlines(keepends=True)[0], "no rows"),
    "torn": (lambda text: text[: len(text) // 2], "damaged"),
    "unfinished": (lambda text: text.rstrip("\n"), "no end of its last line"),
    "nul": (lambda text: text + "\0" * 100 + "\n", "values, and the header"),
    "no column": (lambda text: text.replace("train_accuracy", "accuracy", 1), "the column train_accuracy is missing"),
    "no seed": (lambda text: text.replace(",seed,", ",sead,", 1), "the column seed is missing"),
    "doubled": (lambda text: text + text.splitlines(keepends=True)[5], "is of the same run as line 6"),
    "text": (changed(train_accuracy="good"), "line 3: train_accuracy='good': must be a number in [0, 1]"),
    "nothing": (changed(train_accuracy=""), "line 3: train_accuracy='': must be a number in [0, 1]"),
    "nan": (changed(train_accuracy="nan"), "line 3: train_accuracy='nan': must be a number in [0, 1]"),
    "7.3": (changed(train_accuracy="7.3"), "line 3: train_accuracy='7.3': must be a number in [0, 1]"),
    "tie": (changed(train_loss="inf"), "line 3: train_loss='inf': must be a number"),
    "place": (changed(hidden_layers="deep"), "line 3: hidden_layers='deep': must be a number"),
    "seed": (changed(seed="-1"), "line 3: seed='-1': must be an integer from 0 on"),
    "half a seed": (changed(seed="0.5"), "line 3: seed='0.5': must be an integer from 0 on"),
    "lr": (changed(lr="-0.1"), "line 3: lr='-0.1': must be a number above 0"),
    "lr in words": (changed(lr="small"), "line 3: lr='small': must be a number above 0"),
    "status": (changed(status="done"), "line 3: status='done': must be finished or diverged"),
    "comparison": (changed(comparison="quick"), "line 3: comparison='quick': must be 8 hexadecimal digits"),
    "hyperparameters": (changed(hyperparameters="{"), "line 3: hyperparameters='{': must be an object of JSON"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_refused_in_one_line_that_says_where_it_is_wrong(
    damage: str, tmp_path: Path, script: Script
) -> None:
    # Regression: it changed verdicts with exit status 0, or ended in a traceback.
    change, message = DAMAGES[damage]
    path = tmp_path / "summaries" / "mlp_depth.csv"
    path.parent.mkdir()
    path.write_text(change(TABLE.read_text()))
    answer = script("figures", "mlp_depth", "--results", str(tmp_path))
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert line.startswith(f"error: {path}: damaged: ")
    assert message in line


@pytest.mark.parametrize(
    ("experiment", "values", "message"),
    [
        # Regression: the rule of a place took that of the learning rate away, and verdicts became "not run".
        ("transformer_lm", {"lr": "-0.01"}, "line 3: lr='-0.01': must be a number above 0"),
        # Regression: these ended in a traceback.
        ("transformer_lm", {"steps": "many"}, "line 3: steps='many': must be an integer from 0 on"),
        ("cifar_gan", {"style": "{"}, "line 3: style='{': must be an object of JSON"),
        ("cifar_gan", {"schedule": "{"}, "line 3: schedule='{': must be an object of JSON"),
        ("cifar_gan", {"norm_growth_min": ""}, "line 3: norm_growth_min='': must be a number"),
        ("mlp_curvature", {"train_lr": "x"}, "line 3: train_lr='x': must be a number"),
        ("madam_weights", {"sign_changes": ""}, "line 3: sign_changes='': must be a number"),
        ("mlp_depth_init", {"init_spread": "x"}, "line 3: init_spread='x': must be a number"),
    ],
)
def test_a_column_has_to_be_right_for_all_that_read_it(
    experiment: str, values: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "summaries" / f"{experiment}.csv"
    path.parent.mkdir()
    text = (TABLE.parent / path.name).read_text()
    path.write_text(changed(**values)(text))
    with pytest.raises(DamagedError) as error:
        load(tmp_path, experiment, load_report(experiment).compared)
    assert message in str(error.value)


def test_the_committed_table_is_read_as_it_always_was() -> None:
    table = load(ROOT / "results", "mlp_depth", load_report("mlp_depth").compared)
    expected = pd.read_csv(TABLE, dtype={"comparison": str, "scale": str})
    shared = [column for column in expected.columns if column not in ("precision", "scale", "style", "optimizer")]
    pd.testing.assert_frame_equal(table[shared], expected[shared])


def test_a_run_needs_the_numbers_that_its_own_scale_compares(tmp_path: Path) -> None:
    """An analysis and a training in one table do not measure the same."""
    rows = [
        {"comparison": "aaaaaaaa", "scale": "one", "run": "1", "x": 1, "own": 0.5, "other": ""},
        {"comparison": "bbbbbbbb", "scale": "", "run": "2", "x": "", "own": "", "other": 2.0},
    ]
    path = tmp_path / "summaries" / "made_up.csv"
    path.parent.mkdir()
    table = pd.DataFrame(rows).assign(status="finished", seed=0, lr="", hyperparameters="{}", optimizer="adam")
    table.to_csv(path, index=False)

    def compared(scale: str) -> list[Comparison]:
        found = {"one": ("own", "x"), "bbbbbbbb": ("other", "seed")}  # by the comparison, where a scale has no name
        column, x = found[scale]
        return [Comparison(Measure(column, column, best="min", diverged=9.0, ties=column, bounds=(0, 1)), x=x)]

    with pytest.raises(DamagedError, match=r"line 3: other='2.0': must be a number in \[0, 1\]"):
        load(tmp_path, "made_up", compared)
    table.assign(other=["", 0.5]).to_csv(path, index=False)
    assert load(tmp_path, "made_up", compared)["scale"].tolist() == ["one", "bbbbbbbb"]
    table.assign(other=["", 0.5], x="").to_csv(path, index=False)
    with pytest.raises(DamagedError, match="line 2: x='': must be a number"):
        load(tmp_path, "made_up", compared)
    table.drop(columns="own").assign(other=["", 0.5]).to_csv(path, index=False)
    with pytest.raises(DamagedError, match="the column own is missing"):
        load(tmp_path, "made_up", compared)


def finish(settings: Settings) -> Path | None:
    begun(settings).end(Status.FINISHED, {"steps": 120, "train_loss": 0.1, "train_accuracy": 0.5})
    return collect(settings.machine.results, "mlp_depth", {})


def test_rows_are_not_added_to_a_damaged_table(settings: Resolve) -> None:
    path = finish(settings("seed=0"))
    assert path is not None
    path.write_text(path.read_text()[:-20])
    damaged = path.read_text()
    with pytest.raises(DamagedError, match=r"mlp_depth\.csv: damaged"):
        finish(settings("seed=1"))
    assert path.read_text() == damaged


def test_what_is_measured_under_the_name_of_a_setting_is_refused_and_not_written_over_it(
    settings: Resolve, caplog: pytest.LogCaptureFixture
) -> None:
    # Regression: the precision of a GAN's samples stood where that of the matrix products should.
    chosen = settings("seed=0")
    begun(chosen).end(Status.FINISHED, {"steps": 120, "precision": 0.5})
    assert collect(chosen.machine.results, "mlp_depth", {}) is None
    assert "precision is measured, and it is a setting" in caplog.text


def test_a_table_is_collected_again_when_something_has_changed_and_only_then(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: ten thousand records were read at the end of every sweep, also where there had been nothing to do.
    read: list[object] = []
    row_of = summaries._row

    def counted(record: RunRecord, result: Result) -> object:
        read.append(record)
        return row_of(record, result)

    monkeypatch.setattr(summaries, "_row", counted)
    chosen = settings("seed=0")
    results, path = chosen.machine.results, finish(chosen)
    assert path is not None
    text = path.read_text()
    assert len(read) == 1
    assert collect(results, "mlp_depth", {}) == path
    assert len(read) == 1

    path.write_text(text.replace("finished", "diverged"))  # a table from elsewhere
    collect(results, "mlp_depth", {})
    assert (len(read), path.read_text()) == (2, text)
    collect(results, "mlp_depth", {text.splitlines()[1][:8]: "mine"})
    assert len(read) == 3
    assert path.read_text() != text
    finish(settings("seed=1"))
    assert len(read) == 5
    summary = record_of(chosen).path / "summary.json"
    summary.write_text(summary.read_text().replace("0.5", "0.75"))
    collect(results, "mlp_depth", {})
    assert len(read) == 7
    assert sorted(pd.read_csv(path)["train_accuracy"]) == [0.5, 0.75]
