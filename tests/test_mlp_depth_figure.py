"""The depth figure: the published numbers, what is drawn from a table of runs, and which verdicts it may give."""

import io
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml
from hydra.types import RunMode
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from reltrust.experiments.mlp_depth import figure

import command_lines
from hydra_plugins.reltrust_plugins.composer import scales_by_comparison
from reltrust import experiment
from reltrust.records.identity import comparison_id
from reltrust.records.store import Status, Store
from reltrust.records.summaries import collect
from reltrust.reporting import report
from reltrust.reporting.selection import Selection, select
from reltrust.reporting.statistics import Outcomes
from reltrust.reporting.style import Styles
from reltrust.reporting.table import load, scales
from reltrust.settings import Settings
from runs import ROOT, hydra_loader, settings_of

Row = dict[str, Any]
Template = Callable[[str], Row]
Resolve = Callable[..., Settings]

VALUE_CLAIM = "trains up to this many hidden layers"
PUBLISHED_DEPTHS = {"sgd_momentum": 10, "adam": 22, "fromage": 50}
MEASURED = {"train_loss": 0.5, "train_accuracy": 0.5, "test_loss": 0.5, "test_accuracy": 0.5}
STYLES = {path.stem: yaml.safe_load(path.read_text())["style"] for path in (ROOT / "configs/optimizer").glob("*.yaml")}


def composed(scale: str) -> Settings:
    """The settings of ``experiment=mlp_depth`` at this scale, as the command line would come to them."""
    return settings_of("experiment=mlp_depth", f"scale={scale}")


@cache
def scale_names() -> dict[str, str]:
    """The scales by the comparison that each of them composes to."""
    return {comparison_id(composed(scale)): scale for scale in experiment.scales("mlp_depth")}


def finish(settings: Settings, results: Path, status: Status = Status.FINISHED, **measured: float) -> None:
    """A run in the store, as if it had been made."""
    record = Store(results).record(settings)
    record.begin(settings, "cpu")
    record.end(status, {"steps": settings.training.steps, "seconds": 1.0} | measured)


def collected(results: Path) -> pd.DataFrame:
    """The table of the store's runs, written by the collector and loaded as the figures load it."""
    assert collect(results, "mlp_depth", scale_names()) is not None
    return load(results, "mlp_depth")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The row that a finished run of a scale has in the table: written by the store and the collector themselves."""
    rows: dict[str, Row] = {}

    def row(scale: str) -> Row:
        if scale not in rows:
            results = tmp_path_factory.mktemp(scale)
            finish(composed(scale), results, **MEASURED)
            collected(results)
            table = pd.read_csv(results / "summaries" / "mlp_depth.csv", dtype={"comparison": str})
            (rows[scale],) = table.to_dict("records")
        return dict(rows[scale])

    return row


def run_of(base: Row, optimizer: str, depth: int, accuracy: float, *, lr: float = 0.01, seed: int = 0) -> Row:
    changes = {"optimizer": optimizer, "hidden_layers": depth, "lr": lr, "seed": seed, "train_accuracy": accuracy}
    look = {"style": json.dumps(STYLES.get(optimizer, {}))}
    return {**base, **changes, **look, "train_loss": 1 - accuracy, "run": f"{optimizer}/depth{depth}-lr{lr}-seed{seed}"}


def reaching(
    base: Row,
    reached: dict[str, int],
    *,
    seeds: int = 1,
    depths: tuple[int, ...] = (2, 4, 8),
    lrs: tuple[float, ...] = (0.01,),
) -> list[Row]:
    """Runs of each optimizer that train up to a depth and not further."""
    return [
        run_of(base, optimizer, depth, 0.8 if depth <= deepest else 0.11, seed=seed, lr=lr)
        for optimizer, deepest in reached.items()
        for depth in depths
        for lr in lrs
        for seed in range(seeds)
    ]


def like_the_published(base: Row) -> list[Row]:
    """The authors' numbers as if they were ours."""
    return [
        run_of(base, row.optimizer, row.hidden_layers, row.train_accuracy, lr=row.lr)
        for row in figure.RUNS.itertuples(index=False)
    ]


def write(results: Path, rows: list[Row]) -> Path:
    (results / "summaries").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(results / "summaries" / "mlp_depth.csv", index=False)
    return results


def selected(results: Path) -> Selection:
    """Where the table has one comparison."""
    ((scale, runs),) = scales(load(results, "mlp_depth"))
    return select(runs, figure.DEPTH, scale)


def judged(results: Path) -> dict[str, tuple[str, str, str]]:
    """(published, ours, verdict) of each claim that states the scale, where the table has one comparison."""
    ours = selected(results)
    found = [claim.judged(ours) for claim in figure.REPORT.claims if ours.scale in claim.scales]
    return {judgement.claim: (judgement.published, judgement.ours, str(judgement.verdict)) for judgement in found}


def printed(text: str) -> dict[str, tuple[str, str, str]]:
    """The same, read from the text of a report on one scale."""
    cells = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    return {row[0]: (row[1], row[2], row[3]) for row in cells if len(row) == 4 and row[0] != "claim"}


def axes_of(results: Path, draw: Callable[[Selection, Styles], Any] = figure.fromage_figure_3_left) -> Any:
    """The first axes of a figure, closed."""
    drawn = draw(selected(results), Styles(load(results, "mlp_depth"), also=figure.RUNS["arm"].unique()))
    plt.close(drawn)
    return drawn.axes[0]


def files(results: Path) -> list[str]:
    return sorted(path.name for path in (results / "figures").iterdir())


def names_of(scale: str) -> list[str]:
    return [f"mlp_depth-{scale}{end}.{kind}" for end in ("-lr", "") for kind in ("pdf", "png")]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and none is drawn, where only their names matter."""
    monkeypatch.setattr(FigureCanvasPdf, "print_pdf", lambda self, content, **_: content.write(b"a figure"))
    monkeypatch.setattr(FigureCanvasAgg, "print_png", lambda self, content, **_: content.write(b"a figure"))


# --- the published numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "depth"), PUBLISHED_DEPTHS.items())
def test_the_published_runs_reach_the_published_depths(optimizer: str, depth: int) -> None:
    theirs = Outcomes.of(select(figure.RUNS, figure.DEPTH, "published"), optimizer)
    assert theirs is not None
    assert theirs.statistic(figure.trainable_depth) == depth


def test_of_the_published_runs_nothing_is_left_out() -> None:
    assert select(figure.RUNS, figure.DEPTH, "published").left_out == ()


def test_every_published_number_has_a_source_and_is_a_share() -> None:
    table = figure.PUBLISHED
    assert set(table["quantity"]) == {"run", "figure"}
    assert sum(map(len, figure.AFTER.values())) + len(figure.DRAWN) == len(table)
    assert list(figure.AFTER) == [10, 20, 100]
    assert table["source"].notna().all()
    assert table["source"].str.strip().ne("").all()
    assert table["train_accuracy"].between(0, 1).all()


def test_a_published_run_has_a_learning_rate_and_stands_there_once() -> None:
    assert (figure.RUNS["lr"] > 0).all()
    assert figure.RUNS.groupby(["optimizer", "hidden_layers"])["lr"].nunique().eq(3).all()
    assert not figure.PUBLISHED.duplicated(["quantity", "optimizer", "hidden_layers", "lr", "epoch"]).any()


def test_what_the_authors_drew_is_never_below_their_best_run() -> None:
    cell = ["optimizer", "hidden_layers"]
    best = figure.RUNS.groupby(cell)["train_accuracy"].max()
    as_drawn = figure.DRAWN.set_index(cell)["train_accuracy"]
    assert len(as_drawn) == 66
    assert (as_drawn >= best.loc[as_drawn.index] - 1e-6).all()


# --- trainable depth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depths", "accuracies", "deepest"),
    [
        ([2, 4, 6], [1.0, 0.9, 0.8], 6),
        ([2, 4, 6], [1.0, 0.9, 0.1], 4),
        ([2, 4, 6], [1.0, 0.1, 0.9], 2),  # a hole in the middle
        ([2, 4, 6], [0.1, 1.0, 1.0], 0),
        ([2, 4, 6], [1.0, 0.5, 0.499], 4),  # the threshold itself counts
        ([6, 2, 4], [0.1, 1.0, 0.9], 4),
        ([], [], 0),
    ],
)
def test_the_trainable_depth_is_the_last_before_the_first_failure(
    depths: list[int], accuracies: list[float], deepest: int
) -> None:
    assert figure.trainable_depth(depths, accuracies) == deepest


def test_depths_and_accuracies_must_belong_together() -> None:
    with pytest.raises(ValueError, match="zip"):
        figure.trainable_depth([2, 4], [1.0])


# --- scales ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["paper", "quick", "smoke"])
def test_a_run_to_the_letter_of_a_scale_bears_its_name(scale: str, template: Template) -> None:
    assert template(scale)["scale"] == scale


def test_the_scales_have_a_comparison_each_whatever_the_command_line_says() -> None:
    assert sorted(scale_names().values()) == experiment.scales("mlp_depth")
    words = ["sweep=mlp_depth", "scale=smoke", "task.width=7", "data=mnist5k", "optimizer=adam", "seed=4"]
    with hydra_loader() as loader:
        for overrides in ([], words):
            config = loader.load_configuration("run", overrides, RunMode.MULTIRUN)
            assert scales_by_comparison(loader, config, "mlp_depth") == scale_names()


@pytest.mark.parametrize(
    "words",
    [
        "task.width=16",
        "task.init=he",
        "data=mnist5k",
        "training.batch_size=30",
        "training.steps=240",
        "training.evaluate_every=30",
        "schedule.every=60",
        "trainer.precision=tf32",
    ],
)
def test_a_run_with_one_changed_setting_does_not_bear_the_name_of_a_scale(
    words: str, settings: Resolve, tmp_path: Path
) -> None:
    changed = settings(words)
    finish(changed, tmp_path, **MEASURED)
    (row,) = collected(tmp_path).to_dict("records")
    assert row["scale"] == row["comparison"] == comparison_id(changed)[:8]


@pytest.mark.parametrize(
    "words", ["optimizer=adam", "optimizer.lr=0.3", "seed=7", "task.hidden_layers=4", "machine.threads=2"]
)
def test_what_the_figure_varies_and_where_a_run_was_made_is_no_matter_of_the_scale(
    words: str, settings: Resolve, tmp_path: Path
) -> None:
    finish(settings(words), tmp_path, **MEASURED)
    assert collected(tmp_path)["scale"].tolist() == ["smoke"]


@pytest.mark.usefixtures("undrawn")
def test_runs_with_a_changed_setting_are_drawn_under_the_id_of_their_comparison(
    settings: Resolve, tmp_path: Path
) -> None:
    other = settings("task.width=16")
    for run in (other, settings("task.width=16", "seed=1"), settings()):
        finish(run, tmp_path, **MEASURED)
    collected(tmp_path)
    other_id = comparison_id(other)[:8]
    text = report.write(tmp_path, "mlp_depth", only=other_id)
    assert text.startswith(f"mlp_depth, scale {other_id}\nno claim can be judged at this scale\n")
    assert files(tmp_path) == names_of(other_id)
    report.write(tmp_path, "mlp_depth")
    assert files(tmp_path) == sorted(names_of(other_id) + names_of("smoke"))


def test_a_run_that_diverged_early_bears_the_name_of_its_scale(settings: Resolve, tmp_path: Path) -> None:
    finish(settings("optimizer.lr=9"), tmp_path, Status.DIVERGED, diverged_at=7, steps=30)
    finish(settings(), tmp_path, **MEASURED)
    assert collected(tmp_path)["scale"].tolist() == ["smoke", "smoke"]
    assert figure.title(selected(tmp_path)).endswith("batch 50, 120 steps, torch init, 1 seed")


def test_older_rows_without_a_scale_get_its_name_when_the_table_is_written_again(
    template: Template, settings: Resolve, tmp_path: Path
) -> None:
    unknown = {**template("paper"), "comparison": "01234567"}
    older = [run_of(base, "adam", 2, 0.9) for base in (template("quick"), unknown)]
    write(tmp_path, [{key: value for key, value in row.items() if key not in ("scale", "style")} for row in older])
    assert load(tmp_path, "mlp_depth")["scale"].tolist() == ["b6def528", "01234567"]
    finish(settings(), tmp_path, **MEASURED)
    assert sorted(collected(tmp_path)["scale"]) == ["01234567", "quick", "smoke"]
    assert sorted(collected(tmp_path)["scale"]) == ["01234567", "quick", "smoke"]  # and keep it


def test_the_style_of_an_optimizers_config_is_a_column_of_the_table(settings: Resolve, tmp_path: Path) -> None:
    for name in ("adam", "fromage"):
        finish(settings(f"optimizer={name}"), tmp_path, **MEASURED)
    finish(settings("optimizer=sgd", "optimizer.name=mine", "optimizer.style={label: Mine}"), tmp_path, **MEASURED)
    styles = Styles(collected(tmp_path))
    assert [styles.label(arm) for arm in ("adam", "fromage", "mine")] == ["Adam", "Fromage", "Mine"]
    assert [styles.line(arm)["color"] for arm in ("adam", "fromage")] == ["#0072B2", "#D55E00"]


def test_a_sweep_at_a_scale_is_drawn_under_its_name(
    reltrust: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    answer = reltrust("-m", "scale=smoke", "optimizer=adam", "optimizer.lr=0.01", "seed=0", "machine.device=cpu")
    assert answer.returncode == 0, answer.stderr
    text = report.write(tmp_path / "results", "mlp_depth")
    assert text.startswith("mlp_depth, scale smoke\n")
    assert files(tmp_path / "results") == names_of("smoke")


@pytest.mark.parametrize("earlier", [{}, {"precision": None}, {"precision": "fp32"}], ids=["absent", "empty", "fp32"])
def test_the_title_says_how_runs_were_made_and_a_precision_that_is_not_the_published_one(
    earlier: Row, template: Template, tmp_path: Path
) -> None:
    rows = [run_of(template("quick"), "fromage", 2, 0.9), run_of(template("quick"), "adam", 2, 0.9)]
    old = [{key: value for key, value in row.items() if key != "precision"} | earlier for row in rows]
    facts = "digits, width 64, batch 50, 4,800 steps, torch init"
    assert figure.title(selected(write(tmp_path, old))) == f"quick protocol: {facts}, 1 seed"
    other = [
        {**row, "precision": "tf32", "seed": seed, "run": row["run"][:-1] + str(seed)}
        for row in rows
        for seed in (0, 1)
    ]
    assert figure.title(selected(write(tmp_path, other))) == f"quick protocol: {facts}, tf32, 2 seeds"


# --- figures ---------------------------------------------------------------------------------------------------------


def test_both_figures_are_drawn_and_drawn_again_with_the_same_bytes(template: Template, tmp_path: Path) -> None:
    results = write(tmp_path, reaching(template("quick"), {"fromage": 8, "adam": 4, "sgd_momentum": 2}))
    text = report.write(results, "mlp_depth")
    names = names_of("quick")
    assert files(results) == names
    first = {name: (results / "figures" / name).read_bytes() for name in names}
    assert all(first.values())
    assert all(str(results / "figures" / name) in text for name in names)
    assert report.write(results, "mlp_depth") == text
    assert {name: (results / "figures" / name).read_bytes() for name in names} == first


def test_other_numbers_give_another_figure(template: Template, tmp_path: Path) -> None:
    pictures = []
    for folder, depth in (("a", 2), ("b", 4)):
        results = write(tmp_path / folder, reaching(template("quick"), {"adam": depth}))
        report.write(results, "mlp_depth")
        pictures.append((results / "figures" / "mlp_depth-quick.png").read_bytes())
    assert pictures[0] != pictures[1]


@pytest.mark.usefixtures("undrawn")
def test_every_scale_in_the_table_has_figures_and_only_limits_them_to_one(template: Template, tmp_path: Path) -> None:
    rows = reaching(template("quick"), {"adam": 4}) + reaching(template("smoke"), {"adam": 4})
    results = write(tmp_path, rows)
    alone = report.write(results, "mlp_depth", only="smoke")
    assert "scale smoke" in alone
    assert "scale quick" not in alone
    assert files(results) == names_of("smoke")
    both = report.write(results, "mlp_depth")
    assert "scale smoke" in both
    assert "scale quick" in both
    assert files(results) == names_of("quick") + names_of("smoke")


def test_a_scale_without_runs_is_said_to_have_none(template: Template, tmp_path: Path) -> None:
    results = write(tmp_path, reaching(template("quick"), {"adam": 4}))
    said = report.write(results, "mlp_depth", only="paper")
    assert said == f"mlp_depth: no runs of the scale paper in {results}/summaries"
    assert not (results / "figures").exists()


def test_the_published_points_are_drawn_beside_runs_of_their_scale_only(template: Template, tmp_path: Path) -> None:
    legends = {}
    for scale in ("paper", "quick"):
        axes = axes_of(write(tmp_path / scale, reaching(template(scale), {"fromage": 4})))
        legends[scale] = axes.get_legend_handles_labels()[1]
    assert legends == {"paper": ["as published", "Fromage"], "quick": ["Fromage"]}


def test_a_published_optimizer_without_runs_of_ours_is_drawn_too(template: Template, tmp_path: Path) -> None:
    results = write(tmp_path, reaching(template("paper"), {"fromage": 4}))
    hollow = [line for line in axes_of(results).get_lines() if line.get_markerfacecolor() == "none"]
    points = {len(line.get_xdata()) for line in hollow}
    assert len(hollow) == len(PUBLISHED_DEPTHS) + 1  # and the legend's
    assert points == {0, *figure.DRAWN.groupby("arm").size()}


def test_the_line_goes_through_the_means_at_the_chosen_learning_rates(template: Template, tmp_path: Path) -> None:
    base = template("quick")
    cells = {(2, 0.1): (0.9, 0.7), (2, 0.01): (0.1, 0.2), (4, 0.1): (0.0, 0.0), (4, 0.01): (0.5, 0.7)}
    rows = [
        run_of(base, "adam", depth, accuracy, lr=lr, seed=seed)
        for (depth, lr), accuracies in cells.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    (line,) = [line for line in axes_of(write(tmp_path, rows)).get_lines() if line.get_label() == "Adam"]
    assert line.get_xydata().tolist() == [[2, pytest.approx(0.8)], [4, pytest.approx(0.6)]]


@pytest.mark.parametrize("count", [3, 7])
def test_every_learning_rate_has_a_line(count: int, template: Template, tmp_path: Path) -> None:
    lrs = [10.0**-power for power in range(count)]
    rows = [run_of(template("quick"), "adam", depth, 0.9, lr=lr) for depth in (2, 4) for lr in lrs]
    axes = axes_of(write(tmp_path, rows), figure.fromage_figure_3_left_at_every_learning_rate)
    assert axes.get_legend_handles_labels()[1] == [f"{lr:g}" for lr in lrs]


def test_runs_that_all_diverged_are_drawn_as_zeros(template: Template, tmp_path: Path) -> None:
    rows = [
        {key: value for key, value in row.items() if key not in MEASURED} | {"status": "diverged", "steps": 30}
        for row in reaching(template("quick"), {"adam": 4})
    ]  # what the collector writes if no run came to an accuracy: the columns are not there
    results = write(tmp_path, rows)
    assert selected(results).best["value"].eq(0.0).all()
    report.write(results, "mlp_depth")
    assert len(files(results)) == 4


def test_every_cell_stands_beside_its_published_number(template: Template, tmp_path: Path) -> None:
    rows = [run_of(template("paper"), "adam", 20, accuracy, seed=seed) for seed, accuracy in enumerate((0.5, 0.7))]
    report.write(write(tmp_path, rows), "mlp_depth")
    (cell,) = pd.read_csv(tmp_path / "summaries" / "mlp_depth-paper-selected.csv").to_dict("records")
    assert (cell["n"], cell["mean"], cell["published"], cell["published_lr"]) == (2, 0.6, 0.9999, 0.0001)
    assert cell["std"] == pytest.approx(0.2 / 2**0.5)


@pytest.mark.parametrize(
    ("depth", "lr", "accuracy", "line"),
    [
        # Regression: a point of the line and a row of the table, but no part of the verdict.
        (8, 0.03, 1.0, "left out: 1 run of adam at hidden_layers=8: lr=0.03 with seed 0 cannot be compared"),
        # Regression: a depth that ended the depths that train.
        (3, 0.01, 0.11, "left out: 1 run of adam at hidden_layers=3: 1 of 3 values of lr"),
    ],
    ids=["learning rate", "depth"],
)
def test_a_stray_run_changes_neither_figure_nor_table_nor_verdict_and_is_named(
    depth: int, lr: float, accuracy: float, line: str, template: Template, tmp_path: Path
) -> None:
    grid = reaching(template("quick"), {"fromage": 8, "adam": 4}, seeds=3, lrs=(0.1, 0.01, 0.001))
    stray = run_of(template("quick"), "adam", depth, accuracy, lr=lr)
    texts, written = [], []
    for folder, rows in (("without", grid), ("with", [*grid, stray])):
        results = write(tmp_path / folder, rows)
        texts.append(report.write(results, "mlp_depth"))
        paths = [*(results / "figures").iterdir(), results / "summaries" / "mlp_depth-quick-selected.csv"]
        written.append({path.name: path.read_bytes() for path in paths})
    assert len(written[0]) == 5
    assert written[0] == written[1]
    assert printed(texts[0]) == printed(texts[1])
    assert printed(texts[0])["Fromage trains deeper perceptrons than Adam"][1].startswith("8 > 4 (n=3,")
    assert "left out" not in texts[0]
    assert [said[: len(line)] for said in texts[1].splitlines() if said.startswith("left out")] == [line]


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_the_published_numbers_fed_as_ours_reproduce_every_claim(template: Template, tmp_path: Path) -> None:
    found = judged(write(tmp_path, like_the_published(template("paper"))))
    assert len(found) == 6
    assert {verdict for _, _, verdict in found.values()} == {"reproduced"}
    values = {claim: cells for claim, cells in found.items() if VALUE_CLAIM in claim}
    # In whatever order the claims stand.
    assert sorted(cells[:2] for cells in values.values()) == [
        ("10", "10 (seeds that train: 1 of 1 at 10, 0 of 1 at 11)"),
        ("22", "22 (seeds that train: 1 of 1 at 22, 0 of 1 at 23)"),
        ("50 (the deepest tried)", "50, the deepest run (seeds that train: 1 of 1 at 50)"),
    ]
    orders = [cells[:2] for claim, cells in found.items() if VALUE_CLAIM not in claim]
    assert orders == [("50 > 22", "50 > 22 (n=1)"), ("50 > 10", "50 > 10 (n=1)"), ("22 > 10", "22 > 10 (n=1)")]


def test_a_depth_above_the_published_one_is_partly_it_where_no_deeper_one_was_run(
    template: Template, tmp_path: Path
) -> None:
    # Regression: 30 layers, the deepest run, were 27 reproduced.
    base = template("paper")
    deepest = reaching(base, {"adam": 23}, depths=(20, 22, 23))
    claim = "Adam trains up to this many hidden layers of width 784"
    assert judged(write(tmp_path / "a", deepest))[claim][1:] == (
        "23, the deepest run (seeds that train: 1 of 1 at 23)",
        "partly",
    )
    deeper = [*deepest, *reaching(base, {"adam": 23}, depths=(24,))]
    assert judged(write(tmp_path / "b", deeper))[claim][1:] == (
        "23 (seeds that train: 1 of 1 at 23, 0 of 1 at 24)",
        "reproduced",
    )


@pytest.mark.usefixtures("undrawn")
def test_the_quick_scale_is_compared_in_order_and_never_in_value(template: Template, tmp_path: Path) -> None:
    found = printed(report.write(write(tmp_path, like_the_published(template("quick"))), "mlp_depth"))
    assert len(found) == 3
    assert not [claim for claim in found if VALUE_CLAIM in claim]
    assert {verdict for _, _, verdict in found.values()} == {"reproduced"}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("other", [{"scale": "smoke"}, {"scale": None, "comparison": "01234567", "width": 512}])
def test_under_a_scale_that_no_claim_names_nothing_is_judged(other: Row, template: Template, tmp_path: Path) -> None:
    # As 120 steps of a smoke run prove nothing, and a protocol of one's own is not the published one.
    text = report.write(write(tmp_path, like_the_published({**template("paper"), **other})), "mlp_depth")
    assert "no claim can be judged at this scale" in text
    assert printed(text) == {}
    assert len(files(tmp_path)) == 4


def test_claims_of_scales_without_runs_are_not_run(template: Template, tmp_path: Path) -> None:
    def verdicts() -> dict[str, list[str]]:
        found = {scale: figure.REPORT.not_run(scale) for scale in ("paper20", "quick", "paper")}
        for one in report.evaluate(tmp_path, "mlp_depth", figure.REPORT):
            if one.scale in found:
                found[one.scale] = one.judgements
        for judgement in itertools.chain(*found.values()):
            assert (judgement.ours == "-") == (judgement.verdict == "not run")
        return {scale: [str(one.verdict) for one in judgements] for scale, judgements in found.items()}

    nothing = {"paper20": ["not run"] * 8, "quick": ["not run"] * 3, "paper": ["not run"] * 6}
    assert verdicts() == nothing
    write(tmp_path, like_the_published(template("smoke")))
    assert verdicts() == nothing
    write(tmp_path, like_the_published(template("quick")))
    assert verdicts() == {**nothing, "quick": ["reproduced"] * 3}
    write(tmp_path, like_the_published(template("quick")) + like_the_published(template("paper")))
    assert verdicts() == {**nothing, "quick": ["reproduced"] * 3, "paper": ["reproduced"] * 6}


def test_the_wrong_order_and_wrong_depths_are_not_reproduced(template: Template, tmp_path: Path) -> None:
    depths = (1, 5, 10, 20, 22, 30, 50)
    rows = reaching(template("paper"), {"fromage": 1, "adam": 50, "sgd_momentum": 5}, depths=depths)
    found = [cells[1:] for cells in judged(write(tmp_path, rows)).values()]
    assert found == [
        ("1 vs 50 (n=1)", "not reproduced"),
        ("1 vs 5 (n=1)", "not reproduced"),
        ("50 > 5 (n=1)", "reproduced"),
        ("1 (seeds that train: 1 of 1 at 1, 0 of 1 at 5)", "not reproduced"),
        ("50, the deepest run (seeds that train: 1 of 1 at 50)", "not reproduced"),
        ("5 (seeds that train: 1 of 1 at 5, 0 of 1 at 10)", "not reproduced"),
    ]


def test_an_optimizer_that_trains_no_depth_at_all_is_judged_too(template: Template, tmp_path: Path) -> None:
    found = judged(write(tmp_path, reaching(template("paper"), {"adam": 0, "fromage": 8})))
    (adam,) = [cells for claim, cells in found.items() if VALUE_CLAIM in claim and claim.startswith("Adam")]
    assert adam == ("22", "0 (seeds that train: 0 of 1 at 2)", "not reproduced")


def test_what_was_not_run_is_not_judged(template: Template, tmp_path: Path) -> None:
    found = judged(write(tmp_path, reaching(template("paper"), {"fromage": 8, "adam": 4})))
    unjudged = [claim for claim, cells in found.items() if cells[1:] == ("-", "not run")]
    assert len(found) == 6
    assert unjudged == [claim for claim in found if "SGD" in claim]
    assert len(unjudged) == 3


def test_several_seeds_give_an_interval(template: Template, tmp_path: Path) -> None:
    rows = reaching(template("quick"), {"fromage": 8, "adam": 2, "sgd_momentum": 2}, seeds=2)
    assert [cells[1:] for cells in judged(write(tmp_path, rows)).values()] == [
        ("8 > 2 (n=2, difference in [6, 6])", "reproduced"),
        ("8 > 2 (n=2, difference in [6, 6])", "reproduced"),
        ("2 vs 2 (n=2, difference in [0, 0])", "partly"),
    ]


def test_more_seeds_at_some_depths_than_at_others_are_judged_by_all_of_them(template: Template, tmp_path: Path) -> None:
    # Regression: only the seeds that ran the whole grid counted, here one, and there was no interval.
    base = template("quick")
    rows = reaching(base, {"fromage": 8}, depths=(2, 4), seeds=3) + reaching(base, {"fromage": 8}, depths=(8,))
    # Adam at depth 4: 0.57 over three seeds, below the threshold where the third is drawn twice.
    adam = {2: (0.8, 0.8, 0.8), 4: (0.8, 0.8, 0.11), 8: (0.11,)}
    rows += [run_of(base, "adam", depth, one, seed=seed) for depth, own in adam.items() for seed, one in enumerate(own)]
    first = judged(write(tmp_path, rows))
    ours, verdict = first["Fromage trains deeper perceptrons than Adam"][1:]
    assert (ours, verdict) == ("8 > 4 (n=1, difference in [4, 6])", "reproduced")
    assert judged(tmp_path) == first


def test_runs_with_other_hyperparameters_are_not_taken_for_seeds_of_the_same_optimizer(
    template: Template, tmp_path: Path
) -> None:
    """Momentum 0.5 beside 0.9: the same optimizer's name, learning rate, depth and seed, yet another run."""
    base = {**template("quick"), "hyperparameters": json.dumps({"momentum": 0.9})}
    rows = reaching(base, {"sgd_momentum": 8, "adam": 4})
    before = judged(write(tmp_path / "before", rows))
    variant = {**base, "hyperparameters": json.dumps({"momentum": 0.5})}
    rows += [{**row, "run": f"{row['run']}-variant"} for row in reaching(variant, {"sgd_momentum": 0}, depths=(2, 4))]
    assert judged(write(tmp_path / "after", rows)) == before
    labels = axes_of(tmp_path / "after").get_legend_handles_labels()[1]
    assert labels == ["Adam", "SGD (momentum 0.9)", "SGD (momentum 0.9) (momentum=0.5)"]


# --- the committed runs ----------------------------------------------------------------------------------------------


def committed(name: str) -> pd.DataFrame:
    """Of the committed results: a reader's own may have replaced those in the working tree."""
    shown = ["git", "show", f"HEAD:results/summaries/{name}.csv"]
    text = subprocess.run(shown, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return pd.read_csv(io.StringIO(text), dtype={"comparison": str})


def test_the_committed_runs_keep_their_verdicts_and_their_numbers(tmp_path: Path) -> None:
    table = committed("mlp_depth")
    quick = table[table["comparison"] == "b6def528"].assign(scale="quick")
    text = report.write(write(tmp_path, quick.to_dict("records")), "mlp_depth")
    assert "left out" not in text
    assert list(printed(text).values()) == [
        ("50 > 22", "40 > 16 (n=3, difference in [8, 24])", "reproduced"),
        ("50 > 10", "40 > 6 (n=3, difference in [18, 34])", "reproduced"),
        ("22 > 10", "16 > 6 (n=3, difference in [10, 18])", "reproduced"),
    ]
    cells = pd.read_csv(tmp_path / "summaries" / "mlp_depth-quick-selected.csv")
    before = committed("mlp_depth-quick-selected")
    pd.testing.assert_frame_equal(cells[before.columns], before, check_dtype=False, rtol=1e-6)


# --- the command -----------------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import os, runpy, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("there is no torch on this machine")

sys.meta_path.insert(0, NoTorch())
try:
    import torch
except ImportError:
    pass
else:
    sys.exit("torch could be imported: this test shows nothing")
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))  # as for a script
runpy.run_path(sys.argv[0], run_name="__main__")
"""


FIGURES = str(ROOT / "scripts" / "figures.py")


def test_the_figures_are_redrawn_where_torch_cannot_be_imported(template: Template, tmp_path: Path) -> None:
    write(tmp_path, reaching(template("quick"), {"fromage": 8, "adam": 4}))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, FIGURES, "mlp_depth", "--results", str(tmp_path), "--scale", "quick"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Fromage trains deeper perceptrons than Adam" in done.stdout
    assert files(tmp_path) == names_of("quick")
    assert all((tmp_path / "figures" / name).stat().st_size > 1000 for name in files(tmp_path))


def test_without_a_table_the_figures_command_says_so(tmp_path: Path) -> None:
    done = command_lines.answer([FIGURES, "--results", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert f"mlp_depth: nothing in {tmp_path}/summaries yet" in done.stdout


def test_an_unknown_experiment_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    done = command_lines.answer([FIGURES, "mlp_depht", "--results", str(tmp_path)])
    assert done.returncode == 2
    assert "experiments=mlp_depht: unknown, allowed are" in done.stderr
