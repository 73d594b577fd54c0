"""From a table of runs to figures and verdicts: what is loaded, what may be claimed, how it looks, what is written."""

import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml

from reltrust import experiment
from reltrust.reporting import report, style
from reltrust.reporting.claims import Claim, Judgement, Verdict, as_text, judge_grid_value, judge_order
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Measure, Selection, select
from reltrust.reporting.style import Styles
from reltrust.reporting.table import load, scales
from runs import CONFIGS, FINISHED, ROOT

Row = dict[str, Any]


def write(folder: Path, rows: list[Row]) -> Path:
    (folder / "summaries").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "summaries" / "mlp_depth.csv", index=False)
    return folder


# --- loading ---------------------------------------------------------------------------------------------------------

MOMENTUM = {momentum: json.dumps({"momentum": momentum, "nesterov": False}) for momentum in (0.9, 0.5)}


def test_a_comparison_whose_name_looks_like_a_number_stays_a_name(tmp_path: Path) -> None:
    rows = [{**FINISHED, "comparison": name, "scale": None} for name in ("01234567", "12345e67")]
    table = load(write(tmp_path, rows), "mlp_depth")
    assert table["comparison"].tolist() == table["scale"].tolist() == ["01234567", "12345e67"]


def test_a_table_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path, "mlp_depth")


def test_an_optimizer_with_one_set_of_hyperparameters_is_an_arm_by_its_own_name(tmp_path: Path) -> None:
    variant = json.dumps({"target": "theirs.Mine", "momentum": 0.5})
    rows = [{**FINISHED, "optimizer": name, "hyperparameters": variant} for name in ("sgd_momentum", "mine")]
    assert load(write(tmp_path, rows), "mlp_depth")["arm"].tolist() == ["sgd_momentum", "mine"]


def test_hyperparameters_that_fewer_runs_have_are_another_arm_that_names_them(tmp_path: Path) -> None:
    rows = [{**FINISHED, "optimizer": "sgd_momentum", "hyperparameters": MOMENTUM[0.9], "seed": n} for n in (0, 1)]
    rows.append({**rows[0], "hyperparameters": MOMENTUM[0.5]})
    table = load(write(tmp_path, rows), "mlp_depth")
    assert table["arm"].tolist() == ["sgd_momentum", "sgd_momentum", "sgd_momentum (momentum=0.5)"]
    assert set(table["optimizer"]) == {"sgd_momentum"}


def test_of_several_sets_of_hyperparameters_none_goes_without_saying_if_none_is_the_commonest(tmp_path: Path) -> None:
    # An arm without a name of its own would be one of them at random, by the hash of its run.
    sets = [{"momentum": momentum, "nesterov": False} for momentum in (0.9, 0.5, 0.0)]
    rows = [{**FINISHED, "optimizer": "sgd_momentum", "hyperparameters": json.dumps(one)} for one in sets]
    rows = [{**row, "run": str(i)} for i, row in enumerate(rows)]
    arms = [f"sgd_momentum (momentum={momentum})" for momentum in (0.9, 0.5, 0.0)]
    assert load(write(tmp_path, rows), "mlp_depth")["arm"].tolist() == arms
    assert load(write(tmp_path, rows[:2]), "mlp_depth")["arm"].tolist() == arms[:2]
    rows.append({**rows[0], "seed": 1, "run": "again"})
    assert load(write(tmp_path, rows), "mlp_depth")["arm"].tolist() == ["sgd_momentum", *arms[1:], "sgd_momentum"]


def test_what_goes_without_saying_is_decided_in_each_comparison_alone(tmp_path: Path) -> None:
    rows = [{**FINISHED, "optimizer": "sgd_momentum", "hyperparameters": MOMENTUM[0.9], "seed": n} for n in (0, 1)]
    rows.append({**rows[0], "hyperparameters": MOMENTUM[0.5], "comparison": "01234567", "scale": None})
    assert set(load(write(tmp_path, rows), "mlp_depth")["arm"]) == {"sgd_momentum"}


@pytest.mark.parametrize("absent", [["precision"], ["scale"], ["style"], ["precision", "scale", "style"]])
def test_rows_from_before_a_column_was_written_have_it_too(absent: list[str], tmp_path: Path) -> None:
    rows = [{**FINISHED, "precision": "fp32"}, {**FINISHED, "precision": "fp32", "seed": 1}]
    filled = {"precision": "fp32", "scale": "b6def528", "style": "{}"}
    old = [{key: value for key, value in row.items() if key not in absent} for row in rows]
    for written in (old, [old[0], rows[1]]):  # a table without the column, and one that was added to later
        first = load(write(tmp_path, written), "mlp_depth").iloc[0]
        assert {key: first[key] for key in absent} == {key: filled[key] for key in absent}


def test_what_a_row_says_of_itself_is_not_filled_in(tmp_path: Path) -> None:
    said = {"precision": "tf32", "scale": "quick", "style": '{"label": "Adam"}'}
    (row,) = load(write(tmp_path, [{**FINISHED, **said}]), "mlp_depth").to_dict("records")
    assert {key: row[key] for key in said} == said


def test_rows_are_compared_with_those_of_their_comparison_under_the_name_of_its_scale(tmp_path: Path) -> None:
    rows = [FINISHED, {**FINISHED, "seed": 1}, {**FINISHED, "comparison": "01234567", "scale": None}]
    found = scales(load(write(tmp_path, rows), "mlp_depth"))
    assert [(name, runs["seed"].tolist()) for name, runs in found] == [("01234567", [0]), ("quick", [0, 1])]


# --- claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "interval", "verdict"),
    [
        (None, None, Verdict.NOT_RUN),
        (5, None, Verdict.REPRODUCED),
        (5, (1, 9), Verdict.REPRODUCED),
        (5, (0, 9), Verdict.PARTLY),
        (5, (-1, 9), Verdict.PARTLY),
        (0, None, Verdict.PARTLY),
        (0, (0, 0), Verdict.PARTLY),
        (0, (-3, 3), Verdict.PARTLY),
        (-1, None, Verdict.NOT_REPRODUCED),
        (-1, (-9, 9), Verdict.NOT_REPRODUCED),
        (-1, (-2, -1), Verdict.NOT_REPRODUCED),
    ],
)
def test_an_order_is_judged_by_its_sign_and_by_its_whole_interval(
    difference: float | None, interval: tuple[float, float] | None, verdict: Verdict
) -> None:
    assert judge_order(difference, interval) is verdict


@pytest.mark.parametrize(
    ("ours", "published", "verdict"),
    [
        (None, 5, Verdict.NOT_RUN),
        (5, 5, Verdict.REPRODUCED),
        (2, 5, Verdict.REPRODUCED),
        (10, 5, Verdict.REPRODUCED),
        (1, 5, Verdict.PARTLY),
        (20, 5, Verdict.PARTLY),
        (50, 5, Verdict.NOT_REPRODUCED),
        (0, 5, Verdict.NOT_REPRODUCED),
        (0, 2, Verdict.PARTLY),  # one step before the first
        (0, 1, Verdict.REPRODUCED),
    ],
)
def test_a_value_of_a_grid_is_judged_by_the_steps_between(
    ours: float | None, published: float, verdict: Verdict
) -> None:
    assert judge_grid_value(ours, published, [20, 1, 5, 2, 50, 10]) is verdict


def test_a_value_that_is_not_on_the_grid_is_an_error() -> None:
    with pytest.raises(ValueError, match="3"):
        judge_grid_value(3, 5, [1, 2, 5])


def test_the_verdicts_stand_in_an_aligned_table() -> None:
    text = as_text(
        [
            Judgement("short", "50 > 22", "-", Verdict.NOT_RUN),
            Judgement("a claim of some length", "10", "11 vs 12 (n=3)", Verdict.REPRODUCED),
        ]
    )
    lines = text.splitlines()
    cells = [
        ("claim", "published", "ours", "verdict"),
        ("short", "50 > 22", "-", "not run"),
        ("a claim of some length", "10", "11 vs 12 (n=3)", "reproduced"),
    ]
    starts = [0, 24, 35, 51]  # the widest cell of each column and two spaces
    assert len(lines) == len(cells)
    for line, row in zip(lines, cells, strict=True):
        assert line == line.rstrip()
        assert [line[start:].startswith(cell) for start, cell in zip(starts, row, strict=True)] == [True] * 4


# --- style -----------------------------------------------------------------------------------------------------------

STATED: dict[str, Row] = {
    path.stem: yaml.safe_load(path.read_text())["style"] for path in sorted((ROOT / "configs/optimizer").glob("*.yaml"))
}
MADE_UP = [f"optimizer_{number}" for number in range(30)]


def arms(stated: dict[str, Row]) -> pd.DataFrame:
    """A table with a row for each arm, variants as ``name (key=value)``, with what the config of each states."""
    rows = [
        {"arm": arm, "optimizer": arm.split(" (")[0], "style": json.dumps(said), "comparison": "b6def528"}
        for arm, said in stated.items()
    ]
    return pd.DataFrame(rows, columns=["arm", "optimizer", "style", "comparison"])


def looks(styles: Styles, names: list[str]) -> set[tuple[str, str]]:
    """Colours with their markers, by which arms are told apart where lines end or cross."""
    return {(styles.line(name)["color"], styles.line(name)["marker"]) for name in names}


@pytest.mark.parametrize("name", STATED)
def test_what_an_optimizers_config_states_is_how_it_looks(name: str) -> None:
    styles, said = Styles(arms(STATED)), STATED[name]
    line = styles.line(name)
    assert (styles.label(name), line["color"], line["marker"]) == (said["label"], said["color"], said["marker"])
    assert line["linestyle"] == ((0, tuple(said["dash"])) if said["dash"] else "-")


def test_no_two_optimizers_share_a_colour_a_marker_a_dash_or_a_name() -> None:
    assert len(STATED) >= 9
    for key in ("label", "color", "marker", "dash"):
        assert len({str(said[key]) for said in STATED.values()}) == len(STATED), key


def test_an_optimizer_whose_config_states_nothing_keeps_its_name_and_can_be_drawn() -> None:
    styles = Styles(arms({"alpha": {}}))
    assert styles.label("alpha") == "alpha"
    figure, axes = plt.subplots()
    axes.plot([0, 1], [1, 0], **styles.line("alpha"))
    figure.canvas.draw()
    plt.close(figure)
    null = Styles(arms({"alpha": dict.fromkeys(("label", "color", "marker", "dash"))}))  # as the table has it
    assert (null.label("alpha"), null.line("alpha")) == ("alpha", styles.line("alpha"))


def test_what_a_config_leaves_open_is_derived() -> None:
    derived = Styles(arms({"alpha": {}})).line("alpha")
    styles = Styles(arms({"alpha": {"color": "#123456"}}))
    assert styles.line("alpha") == {**derived, "color": "#123456"}
    assert styles.label("alpha") == "alpha"
    assert Styles(arms({"alpha": {"label": "Alpha", "dash": []}})).line("alpha") == {**derived, "linestyle": "-"}


def test_no_two_unknown_optimizers_look_the_same() -> None:
    # Regression: all that no list of colours knew were the same grey hexagon.
    styles = Styles(arms(STATED | {name: {} for name in MADE_UP}))
    assert len(looks(styles, [*STATED, *MADE_UP])) == len(STATED) + len(MADE_UP)


def test_a_variant_does_not_look_like_its_optimizer_nor_like_another_variant() -> None:
    variants = {f"{name} (momentum={value})": said for name, said in STATED.items() for value in (0.5, 0.99)}
    styles = Styles(arms(variants | STATED))  # a variant bears the style of its optimizer's config in its rows
    assert len(looks(styles, [*STATED, *variants])) == 3 * len(STATED)
    assert len({styles.line(name)["color"] for name in [*STATED, *variants]}) == 3 * len(STATED)
    assert {name: styles.line(name) for name in STATED} == {name: Styles(arms(STATED)).line(name) for name in STATED}
    assert styles.label("adam (momentum=0.5)") == "Adam (momentum=0.5)"


def test_optimizers_whose_configs_were_copied_do_not_look_the_same() -> None:
    names = ["adam", *(f"adam_{number}" for number in range(10))]
    styles = Styles(arms({name: {**STATED["adam"], "label": name} for name in names}))
    assert len(looks(styles, names)) == len(names)
    assert styles.line("adam")["marker"] == STATED["adam"]["marker"]


def test_a_variant_that_would_look_like_another_optimizer_gives_way() -> None:
    variant = "adam (eps=1.0)"
    derived = Styles(arms({variant: {}})).line(variant)
    styles = Styles(arms({variant: {}, "mine": {key: derived[key] for key in ("color", "marker")}}))
    assert styles.line("mine")["marker"] == derived["marker"] != styles.line(variant)["marker"]


def test_an_arm_looks_the_same_whoever_stands_beside_it_and_in_whatever_order() -> None:
    alone = Styles(arms({"alpha": {}})).line("alpha")
    beside = {name: {} for name in [*MADE_UP, "alpha"]}
    assert Styles(arms(beside)).line("alpha") == Styles(arms(beside).iloc[::-1]).line("alpha") == alone


def test_looks_are_the_same_in_every_process() -> None:
    program = "import sys; from reltrust.reporting.style import Styles; import pandas as pd; " + inspect.cleandoc("""
        names = sys.argv[1:]
        styles = Styles(pd.DataFrame({"arm": names, "optimizer": names, "style": "{}"}), also=["published"])
        print([styles.line(name) for name in [*names, "published"]])
    """).replace("\n", "; ")
    printed = [
        subprocess.run(
            [sys.executable, "-c", program, *MADE_UP],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    here = Styles(arms({name: {} for name in MADE_UP}), also=["published"])
    assert printed == 2 * [f"{[here.line(name) for name in [*MADE_UP, 'published']]}\n"]


def test_an_arm_that_was_only_published_has_a_look_too() -> None:
    styles = Styles(arms(STATED), also=["adam", "theirs", "others"])
    assert styles.label("theirs") == "theirs"
    assert styles.label("adam") == "Adam"
    assert len(looks(styles, [*STATED, "theirs", "others"])) == len(STATED) + 2
    nobody = Styles(arms({}), also=["theirs"])  # nothing of ours yet
    assert nobody.line("theirs") == styles.line("theirs")


def test_a_saved_figure_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    contents = []
    for folder in ("once", "again"):
        figure, axes = plt.subplots(figsize=(2, 2))
        axes.plot([0, 1], [1, 0], **Styles(arms(STATED)).line("adam"), label="Adam")
        paths = style.save(figure, tmp_path / folder, "line")
        plt.close(figure)
        assert paths == [tmp_path / folder / "figures" / name for name in ("line.pdf", "line.png")]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"%PDF")
    assert b"CreationDate" not in contents[0][0]  # both were saved within the same second
    assert contents[0][1].startswith(b"\x89PNG")


# --- reports ---------------------------------------------------------------------------------------------------------

ACCURACY = Measure("train_accuracy", "accuracy", best="max", diverged=0.0, ties="train_loss")
LOSS = Measure("train_loss", "loss", best="min", diverged=9.0, ties="train_accuracy")
BY_DEPTH, BY_SEED = Comparison(ACCURACY, x="hidden_layers"), Comparison(LOSS, x="seed")


class Seen:
    """A report that keeps the selections which its figures and claims are handed."""

    def __init__(self) -> None:
        self.drawn: list[Selection] = []
        self.judged: list[Selection] = []
        published = pd.DataFrame([{**FINISHED, "arm": "adam", "train_accuracy": 0.75, "lr": 0.3}])
        self.report = Report(
            title="Nobody, figure 1",
            figures=(Figure("", BY_DEPTH, self.draw), Figure("-again", BY_DEPTH, self.draw)),
            claims=(self.claim("first", BY_DEPTH, "quick"), self.claim("second", BY_SEED, "quick", "paper")),
            cost={"quick": ("make quick", "a minute"), "paper": ("make paper", "a GPU")},
            published={"quick": published},
        )

    def draw(self, selection: Selection, styles: Styles) -> Any:
        self.drawn.append(selection)
        return plt.figure()

    def judge(self, selection: Selection) -> tuple[str, Verdict]:
        self.judged.append(selection)
        return f"{len(selection.best)} of {len(selection.runs)}", Verdict.PARTLY

    def claim(self, text: str, comparison: Comparison, *scales: str) -> Claim:
        return Claim(text, comparison, scales, published=f"{text} published", judge=self.judge)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen()
    monkeypatch.setattr(report, "load_report", lambda _: seen.report)
    return seen


def test_figures_table_and_verdicts_are_of_one_selection(
    seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: the figure chose learning rates by one rule, the verdict by another, over other runs.
    made: list[Selection] = []

    def counted(*words: Any) -> Selection:
        made.append(select(*words))
        return made[-1]

    monkeypatch.setattr(report, "select", counted)
    rows = [{**FINISHED, "lr": lr, "seed": seed, "train_accuracy": lr} for lr in (0.1, 0.2) for seed in (0, 1, 2)]
    results = write(tmp_path, rows)
    report.write(results, "mlp_depth")
    ours = [selection for selection in made if selection.scale == "quick"]
    assert sorted(selection.comparison.x for selection in ours) == ["hidden_layers", "seed"]
    (main,) = [selection for selection in ours if selection.comparison == BY_DEPTH]
    assert [id(selection) for selection in seen.drawn] == [id(main)] * 2
    assert {id(selection) for selection in seen.judged} == {id(selection) for selection in ours}
    (cell,) = pd.read_csv(results / "summaries" / "mlp_depth-quick-selected.csv").to_dict("records")
    assert (cell["optimizer"], cell["lr"], cell["n"], cell["mean"]) == ("adam", 0.2, 3, 0.2)
    assert (cell["published"], cell["published_lr"]) == (0.75, 0.3)


@pytest.mark.parametrize(
    ("experiment", "kept", "line"),
    [
        (
            "lr_comparison",
            {"cifar_classifier": "", "transformer_lm": ""},
            "missing: cifar_gan: all runs of scale quick",
        ),
        ("madam_weights", {"madam_weights": "optimizer == 'adam'"}, "missing: all runs of madam, which a claim is of"),
        (
            "mlp_depth_init",
            {"mlp_depth_init": "init == 'he'"},
            "missing: all runs of fromage torch, which a claim is of",
        ),
        ("mlp_curvature", {"mlp_curvature": ""}, "missing: what its runs measured on their way, which a figure draws"),
    ],
)
def test_what_is_missing_of_committed_tables_is_said(
    experiment: str, kept: dict[str, str], line: str, tmp_path: Path
) -> None:
    # Regression: a figure with an empty panel, or a claim that was not run, without a word of what it lacks.
    (tmp_path / "summaries").mkdir()
    for name, rows in kept.items():
        table = pd.read_csv(ROOT / "results" / "summaries" / f"{name}.csv", dtype={"comparison": str})
        table = table.query(rows) if rows else table
        table.to_csv(tmp_path / "summaries" / f"{name}.csv", index=False)
    (found, *_) = report.evaluate(tmp_path, experiment, report.load_report(experiment), lambda scale: scale == "quick")
    assert any(one.startswith(line) for one in found.left_out)


def test_a_figure_of_runs_that_are_not_there_is_not_drawn(seen: Seen, tmp_path: Path) -> None:
    # Regression: one of the norms at a learning rate that nothing was run with ended all of an experiment's figures.
    only = Figure("-only", BY_DEPTH, seen.draw, only={"lr": 0.7})
    seen.report = replace(seen.report, figures=(*seen.report.figures, only))
    results = write(tmp_path, [{**FINISHED, "lr": 0.1, "seed": seed} for seed in (0, 1)])
    report.write(results, "mlp_depth")
    assert len(seen.drawn) == 2
    assert not (results / "figures" / "mlp_depth-quick-only.png").exists()


def test_a_claim_is_judged_by_the_comparison_that_it_is_about(seen: Seen, tmp_path: Path) -> None:
    rows = [{**FINISHED, "lr": lr, "seed": seed} for lr in (0.1, 0.2) for seed in (0, 1, 2)]
    text = report.write(write(tmp_path, rows), "mlp_depth")
    assert [selection.comparison for selection in seen.judged] == [BY_DEPTH, BY_SEED]
    assert "first   first published   3 of 6  partly" in text
    assert "second  second published  3 of 6  partly" in text


@pytest.mark.parametrize(
    ("scale", "judged"),
    [("quick", ["first", "second"]), ("paper", ["second"]), ("smoke", []), (None, [])],
)
def test_a_claim_is_judged_under_the_scales_that_it_states_and_no_other(
    scale: str | None, judged: list[str], seen: Seen, tmp_path: Path
) -> None:
    text = report.write(write(tmp_path, [{**FINISHED, "scale": scale}]), "mlp_depth")
    assert [claim for claim in ("first", "second") if f"{claim} published" in text] == judged
    assert ("no claim can be judged at this scale" in text) == (not judged)
    assert len(seen.judged) == len(judged)
    assert len(seen.drawn) == 2  # figures there are at every scale


def test_what_a_claim_calls_published_does_not_depend_on_our_runs(seen: Seen) -> None:
    claim = seen.report.claims[0]
    ours = select(pd.DataFrame([{**FINISHED, "arm": "adam"}]), BY_DEPTH, "quick")
    assert claim.judged(ours) == Judgement("first", "first published", "1 of 1", Verdict.PARTLY)
    assert claim.judged() == Judgement("first", "first published", "-", Verdict.NOT_RUN)


def test_a_report_closes_the_figures_that_it_drew(seen: Seen, tmp_path: Path) -> None:
    before = plt.get_fignums()
    report.write(write(tmp_path, [FINISHED]), "mlp_depth")
    assert plt.get_fignums() == before


def test_an_experiment_without_a_table_has_nothing_yet(tmp_path: Path) -> None:
    assert report.write(tmp_path, "mlp_depth") == f"mlp_depth: nothing in {tmp_path}/summaries yet"


def test_every_experiment_with_a_figure_can_be_run_and_states_a_report() -> None:
    assert "mlp_depth" in report.names()
    swept = {path.stem for path in (CONFIGS / "sweep").glob("*.yaml")}  # of what reads others' runs
    assert set(report.names()) <= {*experiment.names(), *swept}


@pytest.mark.parametrize("name", report.names())
def test_a_report_names_scales_that_there_are_and_says_what_each_costs(name: str) -> None:
    stated = report.load_report(name)
    sources = [one.source or (name, scale) for scale in stated.cost for one in stated.compared(scale)]
    assert all(scale in experiment.scales(source) for source, scale in sources)
    # A claim of a scale without a cost would stand in no table.
    assert {scale for claim in stated.claims for scale in claim.scales} <= set(stated.cost)
    assert len({(claim.text, scale) for claim in stated.claims for scale in claim.scales}) == sum(
        len(claim.scales) for claim in stated.claims
    )
    for scale in set(experiment.scales(name)) - set(stated.elsewhere):
        drawn = [one.suffix for one in stated.figures if one.scales is None or scale in one.scales]
        assert len(set(drawn)) == len(drawn) > 0
