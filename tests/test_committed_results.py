"""What is committed below ``results/`` is what the committed tables make: nothing there is typed by hand."""

import io
import itertools
import json
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml

from reltrust.errors import DamagedError
from reltrust.records.artifacts import read_published
from reltrust.reporting import report
from reltrust.reporting.report import evaluate, load_report
from runs import ROOT

pytestmark = [
    pytest.mark.xdist_group("committed"),  # one process draws what all of these look at
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables and pictures as they are committed: a reader's own runs may have replaced those in the working tree."""
    folder = tmp_path_factory.mktemp("committed")
    wanted = ["git", "archive", "HEAD", "results/summaries", "results/pictures"]
    archive = subprocess.run(wanted, cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as content:
        content.extractall(folder, filter="data")
    return folder / "results"


@pytest.fixture(scope="module")
def drawn(committed: Path) -> dict[str, Any]:
    """By the name of its file, every figure that the tables make, as matplotlib has it; tables are written anew."""
    figures: dict[str, Any] = {}

    def kept(figure: Any, results: object, name: str) -> list[Path]:
        figures[name] = figure
        return []

    plt.rcParams["figure.max_open_warning"] = 0
    for path in (committed / "summaries").glob("*-selected.csv"):
        path.rename(path.with_suffix(".committed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "save", kept)
        patch.setattr("reltrust.reporting.report.plt.close", lambda figure: None)
        for name in report.names():
            report.write(committed, name)
    return figures


def test_the_tables_of_selected_cells_are_made_again_to_the_last_digit(committed: Path, drawn: dict[str, Any]) -> None:
    before = {path.stem: pd.read_csv(path) for path in (committed / "summaries").glob("*-selected.committed")}
    after = {path.stem: pd.read_csv(path) for path in (committed / "summaries").glob("*-selected.csv")}
    assert set(before) == set(after)
    assert len(before) > 10
    for name, table in before.items():
        table = table.rename(columns={table.columns[0]: after[name].columns[0]})  # the arm
        pd.testing.assert_frame_equal(after[name][table.columns], table, check_dtype=False, rtol=1e-9)


def test_every_committed_figure_is_one_that_the_tables_make_and_there_is_no_other(drawn: dict[str, Any]) -> None:
    listed = ["git", "ls-files", "results/figures"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {Path(name).stem for name in names} == set(drawn)
    assert sorted(Path(name).suffix for name in names) == sorted([".pdf", ".png"] * len(drawn))


@pytest.mark.parametrize(
    "name",
    ["mlp_depth-quick", "mlp_depth-paper20", "cifar_classifier-quick", "transformer_lm-quick"],
)
def test_lines_go_through_the_means_of_the_committed_tables(name: str, committed: Path, drawn: dict[str, Any]) -> None:
    cells = pd.read_csv(committed / "summaries" / f"{name}-selected.committed")
    x = str(cells.columns[1])
    experiment, _, scale = name.partition("-")
    (found,) = evaluate(committed, experiment, load_report(experiment), lambda own: own == scale)
    lines = {line.get_label(): line for line in drawn[name].axes[0].lines}
    assert cells["optimizer"].nunique() > 1
    for arm, own in cells.groupby("optimizer"):
        line = lines[found.styles.label(str(arm))]
        assert list(line.get_xdata()) == own[x].tolist()
        assert list(line.get_ydata()) == pytest.approx(own["mean"].tolist(), rel=1e-6)


def test_every_figure_says_of_how_many_seeds_it_is_and_what_was_selected(drawn: dict[str, Any]) -> None:
    for name, figure in drawn.items():
        said = " ".join(figure._supxlabel.get_text().split())
        assert " seed" in said, name
        assert "mean over seeds" in said or "is selected" in said, name


def test_points_of_the_depth_figure_do_not_lie_on_each_other(drawn: dict[str, Any]) -> None:
    # Regression: 2, 3, 4 and 6 layers of 40 were one blot.
    figure = drawn["mlp_depth-quick"]
    figure.canvas.draw()
    axes = figure.axes[0]
    places = sorted({float(x) for line in axes.lines if len(line.get_xdata()) > 2 for x in line.get_xdata()})
    pixels = [axes.transData.transform((x, 0))[0] * 72 / figure.dpi for x in places]
    assert len(places) == 8
    assert min(after - before for before, after in itertools.pairwise(pixels)) > 10  # points


@cache
def stated() -> dict[str, Any]:
    return {
        path.stem: yaml.safe_load(path.read_text())["style"] for path in (ROOT / "configs/optimizer").glob("*.yaml")
    }


@pytest.mark.parametrize("name", report.names())
def test_an_optimizer_has_the_colour_of_its_config_in_every_experiment(name: str, committed: Path) -> None:
    for one in evaluate(committed, name, load_report(name)):
        for optimizer in set(one.runs["optimizer"]) & set(stated()):
            if optimizer in set(one.runs["arm"]):
                look = one.styles.line(optimizer)
                assert (look["color"], look["marker"]) == (stated()[optimizer]["color"], stated()[optimizer]["marker"])


def test_rows_that_state_a_style_state_that_of_the_config(committed: Path) -> None:
    for path in (committed / "summaries").glob("*.csv"):
        table = pd.read_csv(path)
        if "style" not in table:
            continue
        for optimizer, style in table[["optimizer", "style"]].drop_duplicates().dropna().itertuples(index=False):
            said = json.loads(style)
            if said and optimizer in stated():
                expected = {key: stated()[optimizer][key] for key in ("label", "color", "marker")}
                assert {key: said[key] for key in expected} == expected, path.name


# --- published numbers -----------------------------------------------------------------------------------------------

HEAD = "paper,optimizer,lr,perplexity,note,source\n"
GOOD = "fromage,sgd,1.0,167.7,,code\n"


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*/published.csv")), ids=lambda path: path.parent.name)
def test_every_published_row_has_a_source(path: Path) -> None:
    assert len(read_published(path)) == len(path.read_text().splitlines()) - 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (GOOD + "fromage,adam,1.0,167.7,,\n", "line 3: source='': must be where the number was published"),
        (GOOD + "fromage,adam,1.0,167.7,,  \n", "line 3: source='  ': must be where"),
        (GOOD + "fromage,adamm,1.0,167.7,,code\n", "line 3: optimizer='adamm': unknown, allowed are adam, adamw, "),
        (GOOD + "fromage,adam,1.0,code\n", "line 3 has 4 values, and the header 6"),
        (GOOD + GOOD, "line 3 is of the same run as line 2"),
        (GOOD[:-1], "no end of its last line"),
        ("", "it has no rows"),
    ],
)
def test_a_wrong_published_row_is_one_line_with_its_file_and_its_line(rows: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_text(HEAD + rows)
    with pytest.raises(DamagedError) as raised:
        read_published(path)
    text = str(raised.value)
    assert text.startswith(f"{path}: damaged: ")
    assert said in text
    assert len(text.splitlines()) == 1


def test_a_table_without_sources_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_text("optimizer,lr\nsgd,1.0\n")
    with pytest.raises(DamagedError, match="the column source is missing"):
        read_published(path)


def test_a_row_of_an_optimizer_that_nobody_knows_is_one_line_with_its_file_and_its_line(
    committed: Path, tmp_path: Path
) -> None:
    (tmp_path / "summaries").mkdir()
    path = tmp_path / "summaries" / "mlp_depth.csv"
    lines = (committed / "summaries" / "mlp_depth.csv").read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:5], lines[5].replace(",adam,", ",adma,", 1), *lines[6:]]))
    with pytest.raises(DamagedError) as raised:
        report.write(tmp_path, "mlp_depth")
    assert f"{path}: damaged: line 6: optimizer='adma': unknown, allowed are adam, " in str(raised.value)
    assert not (tmp_path / "figures").exists()


def test_an_optimizer_without_a_config_that_names_its_class_is_known(committed: Path, tmp_path: Path) -> None:
    (tmp_path / "summaries").mkdir()
    table = pd.read_csv(committed / "summaries" / "transformer_lm.csv", dtype={"comparison": str})
    own = table[table["optimizer"] == "adam"].assign(optimizer="adafactor")
    pd.concat([table, own.assign(run=own["run"] + "-mine")]).to_csv(
        tmp_path / "summaries" / "transformer_lm.csv", index=False
    )
    (found,) = evaluate(tmp_path, "transformer_lm", load_report("transformer_lm"))
    assert "adafactor" in found.main.arms
