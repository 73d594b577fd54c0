"""The depth figure: the published numbers, what is drawn from a table of runs, and which verdicts it may give."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from reltrust.records.store import Status, Store
from reltrust.records.summaries import collect
from reltrust.reporting.analysis import Accuracies, load
from reltrust.settings import Settings, parse

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
Template = Callable[[str], Row]

VALUE_CLAIM = "trains up to this many hidden layers"
PUBLISHED_DEPTHS = {"sgd_momentum": 10, "adam": 22, "fromage": 50}


def load_figure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mlp_depth_figure", ROOT / "experiments" / "mlp_depth" / "figure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figure = load_figure()


def composed(scale: str) -> Settings:
    """The settings of ``experiment=mlp_depth`` at this scale, as the command line would come to them."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("run", overrides=["experiment=mlp_depth", f"scale={scale}"])
    return parse(OmegaConf.to_container(config, resolve=True))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The row that a finished run of a scale has in the table: written by the store and the collector themselves."""
    rows: dict[str, Row] = {}

    def row(scale: str) -> Row:
        if scale not in rows:
            results, settings = tmp_path_factory.mktemp(scale), composed(scale)
            record = Store(results).record(settings)
            record.begin(settings, "cpu")
            measured = {"train_loss": 0.5, "train_accuracy": 0.5, "test_loss": 0.5, "test_accuracy": 0.5}
            record.end(Status.FINISHED, {"steps": settings.training.steps, **measured, "seconds": 1.0})
            path = collect(results, "mlp_depth")
            assert path is not None
            (rows[scale],) = pd.read_csv(path, dtype={"comparison": str}).to_dict("records")
        return dict(rows[scale])

    return row


def run_of(base: Row, optimizer: str, depth: int, accuracy: float, *, lr: float = 0.01, seed: int = 0) -> Row:
    changes = {"optimizer": optimizer, "hidden_layers": depth, "lr": lr, "seed": seed, "train_accuracy": accuracy}
    return {**base, **changes, "train_loss": 1 - accuracy, "run": f"{optimizer}/depth{depth}-lr{lr}-seed{seed}"}


def reaching(base: Row, reached: dict[str, int], *, seeds: int = 1, depths: tuple[int, ...] = (2, 4, 8)) -> list[Row]:
    """Runs of each optimizer that train up to a depth and not further."""
    return [
        run_of(base, optimizer, depth, 0.8 if depth <= deepest else 0.11, seed=seed)
        for optimizer, deepest in reached.items()
        for depth in depths
        for seed in range(seeds)
    ]


def like_the_published(base: Row) -> list[Row]:
    """The authors' numbers as if they were ours."""
    theirs = figure.published().query("quantity == 'run'")
    return [
        run_of(base, row.optimizer, row.hidden_layers, row.accuracy, lr=row.lr)
        for row in theirs.itertuples(index=False)
    ]


def write(results: Path, rows: list[Row]) -> Path:
    (results / "summaries").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(results / "summaries" / "mlp_depth.csv", index=False)
    return results


def judged(results: Path) -> dict[str, tuple[str, str, str]]:
    """(published, ours, verdict) of each claim, where the table has one comparison."""
    table = load(results, "mlp_depth")
    found = figure.judge(table, figure.protocol_name(table))
    return {judgement.claim: (judgement.published, judgement.ours, str(judgement.verdict)) for judgement in found}


def printed(text: str) -> dict[str, tuple[str, str, str]]:
    """The same, read from the text of a report on one protocol."""
    cells = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    return {row[0]: (row[1], row[2], row[3]) for row in cells if len(row) == 4 and row[0] != "claim"}


def drawn(results: Path) -> list[str]:
    return sorted(path.name for path in (results / "figures").iterdir())


# --- the published numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "depth"), PUBLISHED_DEPTHS.items())
def test_the_published_runs_reach_the_published_depths(optimizer: str, depth: int) -> None:
    theirs = figure.published().query("quantity == 'run' and optimizer == @optimizer").assign(seed=0)
    assert Accuracies.of(theirs).trainable_depth() == depth


def test_every_published_number_has_a_source_and_is_a_share() -> None:
    table = figure.published()
    assert set(table["quantity"]) == {"run", "figure"}
    assert table["source"].notna().all()
    assert table["source"].str.strip().ne("").all()
    assert table["accuracy"].between(0, 1).all()


def test_a_published_run_has_a_learning_rate_and_stands_there_once() -> None:
    table = figure.published()
    theirs = table.query("quantity == 'run'")
    assert (theirs["lr"] > 0).all()
    assert theirs.groupby(["optimizer", "hidden_layers"])["lr"].nunique().eq(3).all()
    assert not table.duplicated(["quantity", "optimizer", "hidden_layers", "lr"]).any()


def test_what_the_authors_drew_is_never_below_their_best_run() -> None:
    table = figure.published()
    cell = ["optimizer", "hidden_layers"]
    best = table.query("quantity == 'run'").groupby(cell)["accuracy"].max()
    as_drawn = table.query("quantity == 'figure'").set_index(cell)["accuracy"]
    assert len(as_drawn) == 66
    assert (as_drawn >= best.loc[as_drawn.index] - 1e-6).all()


# --- protocols -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["paper", "quick", "smoke"])
def test_a_protocol_is_what_its_scale_composes_to(scale: str, template: Template) -> None:
    row = template(scale)
    assert {key: row[key] for key in figure.PROTOCOLS[scale]} == figure.PROTOCOLS[scale]
    assert figure.protocol_name(pd.DataFrame([row])) == scale


def test_every_scale_has_a_protocol_and_every_protocol_a_scale() -> None:
    assert sorted(figure.PROTOCOLS) == sorted(path.stem for path in (ROOT / "configs" / "scale").glob("*.yaml"))


@pytest.mark.parametrize("key", ["data", "width", "batch_size", "steps", "init"])
def test_runs_that_differ_from_a_protocol_in_one_thing_do_not_bear_its_name(key: str, template: Template) -> None:
    row = {**template("quick"), "comparison": "01234567"}
    row[key] = {"data": "mnist5k", "init": "he"}.get(key) or row[key] + 30
    assert figure.protocol_name(pd.DataFrame([row])) == "01234567"


def test_runs_under_another_schedule_do_not_bear_the_name_of_a_protocol(template: Template) -> None:
    row = {**template("quick"), "comparison": "01234567", "schedule": json.dumps({"name": "constant"})}
    assert figure.protocol_name(pd.DataFrame([row])) == "01234567"


def test_rows_from_before_there_was_a_choice_of_precision_are_fp32(template: Template, tmp_path: Path) -> None:
    path = tmp_path / "summaries" / "mlp_depth.csv"
    path.parent.mkdir()
    rows = pd.DataFrame([run_of(template("quick"), "fromage", 2, 0.9), run_of(template("quick"), "adam", 2, 0.9)])
    for table in (rows.drop(columns="precision"), rows.assign(precision=[None, "fp32"])):
        table.to_csv(path, index=False)
        assert figure.protocol_name(load(tmp_path, "mlp_depth")) == "quick"
    other = rows.assign(precision="tf32")
    assert figure.protocol_name(other) not in figure.PROTOCOLS
    assert "torch init, tf32, 1 seed" in figure.describe_protocol(other, "abc")


def test_a_run_that_diverged_early_does_not_change_the_protocol(template: Template, tmp_path: Path) -> None:
    early = {**run_of(template("quick"), "adam", 2, 0.9, lr=1.0), "status": "diverged"}
    early |= dict.fromkeys(("train_accuracy", "train_loss", "test_accuracy", "test_loss"))
    table = load(write(tmp_path, [early, *reaching(template("quick"), {"adam": 4})]), "mlp_depth")
    assert figure.protocol_name(table) == "quick"
    assert figure.describe_protocol(table, "quick").endswith("batch 50, 4,800 steps, torch init, 1 seed")


def test_other_runs_are_called_other_and_drawn_under_the_name_of_their_comparison(
    template: Template, tmp_path: Path
) -> None:
    other = {**template("quick"), "width": 48, "comparison": "01234567"}
    text = figure.report(write(tmp_path, reaching(other, {"adam": 4}, seeds=2)))
    assert text.startswith("mlp_depth, other protocol: digits, width 48, batch 50, 4,800 steps, torch init, 2 seeds\n")
    assert drawn(tmp_path) == [f"mlp_depth-01234567{end}.{kind}" for end in ("-lr", "") for kind in ("pdf", "png")]


# --- figures ---------------------------------------------------------------------------------------------------------


def test_both_figures_are_drawn_and_drawn_again_with_the_same_bytes(template: Template, tmp_path: Path) -> None:
    results = write(tmp_path, reaching(template("quick"), {"fromage": 8, "adam": 4, "sgd_momentum": 2}))
    text = figure.report(results)
    names = [f"mlp_depth-quick{end}.{kind}" for end in ("-lr", "") for kind in ("pdf", "png")]
    assert drawn(results) == names
    first = {name: (results / "figures" / name).read_bytes() for name in names}
    assert all(first.values())
    assert all(str(results / "figures" / name) in text for name in names)
    assert figure.report(results) == text
    assert {name: (results / "figures" / name).read_bytes() for name in names} == first


def test_other_numbers_give_another_figure(template: Template, tmp_path: Path) -> None:
    pictures = []
    for folder, depth in (("a", 2), ("b", 4)):
        results = write(tmp_path / folder, reaching(template("quick"), {"adam": depth}))
        figure.report(results)
        pictures.append((results / "figures" / "mlp_depth-quick.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_every_protocol_in_the_table_has_figures_and_only_limits_them_to_one(
    template: Template, tmp_path: Path
) -> None:
    rows = reaching(template("quick"), {"adam": 4}) + reaching(template("smoke"), {"adam": 4})
    results = write(tmp_path, rows)
    alone = figure.report(results, only="smoke")
    assert "smoke protocol" in alone
    assert "quick protocol" not in alone
    assert not [name for name in drawn(results) if "quick" in name]
    both = figure.report(results)
    assert "smoke protocol" in both
    assert "quick protocol" in both
    assert len(drawn(results)) == 8


def test_a_protocol_without_runs_is_said_to_have_none(template: Template, tmp_path: Path) -> None:
    results = write(tmp_path, reaching(template("quick"), {"adam": 4}))
    assert "no runs of the protocol paper" in figure.report(results, only="paper")
    assert not (results / "figures").exists()


def test_the_published_points_are_drawn_beside_runs_of_their_protocol_only(template: Template, tmp_path: Path) -> None:
    labels = {}
    for scale in ("paper", "quick"):
        results = write(tmp_path / scale, reaching(template(scale), {"fromage": 4}))
        axes = figure.draw_depth(load(results, "mlp_depth"), scale).axes[0]
        labels[scale] = axes.get_legend_handles_labels()[1]
        plt.close("all")
    assert labels == {"paper": ["as published", "Fromage"], "quick": ["Fromage"]}


def test_the_line_goes_through_the_means_at_the_chosen_learning_rates(template: Template, tmp_path: Path) -> None:
    base = template("quick")
    cells = {(2, 0.1): (0.9, 0.7), (2, 0.01): (0.1, 0.2), (4, 0.1): (0.0, 0.0), (4, 0.01): (0.5, 0.7)}
    rows = [
        run_of(base, "adam", depth, accuracy, lr=lr, seed=seed)
        for (depth, lr), accuracies in cells.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    axes = figure.draw_depth(load(write(tmp_path, rows), "mlp_depth"), "quick").axes[0]
    (line,) = [line for line in axes.get_lines() if line.get_label() == "Adam"]
    assert line.get_xydata().tolist() == [[2, pytest.approx(0.8)], [4, pytest.approx(0.6)]]
    plt.close("all")


@pytest.mark.parametrize("count", [3, 7])
def test_every_learning_rate_has_a_line(count: int, template: Template, tmp_path: Path) -> None:
    lrs = [10.0**-power for power in range(count)]
    rows = [run_of(template("quick"), "adam", depth, 0.9, lr=lr) for depth in (2, 4) for lr in lrs]
    axes = figure.draw_learning_rates(load(write(tmp_path, rows), "mlp_depth"), "quick").axes[0]
    assert axes.get_legend_handles_labels()[1] == [f"{lr:g}" for lr in lrs]
    plt.close("all")


def test_runs_that_all_diverged_are_drawn_as_zeros(template: Template, tmp_path: Path) -> None:
    measured = ("train_accuracy", "train_loss", "test_accuracy", "test_loss")
    rows = [
        {key: value for key, value in row.items() if key not in measured} | {"status": "diverged", "steps": 30}
        for row in reaching(template("quick"), {"adam": 4})
    ]  # what the collector writes if no run came to an accuracy: the columns are not there
    results = write(tmp_path, rows)
    assert load(results, "mlp_depth")["accuracy"].eq(0.0).all()
    figure.report(results)
    assert len(drawn(results)) == 4


def test_every_cell_stands_beside_its_published_number(template: Template, tmp_path: Path) -> None:
    rows = [run_of(template("quick"), "adam", 20, accuracy, seed=seed) for seed, accuracy in enumerate((0.5, 0.7))]
    figure.report(write(tmp_path, rows))
    (cell,) = pd.read_csv(tmp_path / "summaries" / "mlp_depth-quick-selected.csv").to_dict("records")
    assert (cell["n"], cell["mean"], cell["published"], cell["published_lr"]) == (2, 0.6, 0.9999, 0.0001)
    assert cell["std"] == pytest.approx(0.2 / 2**0.5)


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_the_published_numbers_fed_as_ours_reproduce_every_claim(template: Template, tmp_path: Path) -> None:
    found = judged(write(tmp_path, like_the_published(template("paper"))))
    assert len(found) == 6
    assert {verdict for _, _, verdict in found.values()} == {"reproduced"}
    values = {claim: cells for claim, cells in found.items() if VALUE_CLAIM in claim}
    assert [ours for _, ours, _ in values.values()] == ["50 (n=1)", "22 (n=1)", "10 (n=1)"]
    assert [published for published, _, _ in values.values()] == ["50 (the deepest tried)", "22", "10"]
    orders = [cells[:2] for claim, cells in found.items() if VALUE_CLAIM not in claim]
    assert orders == [("50 > 22", "50 > 22 (n=1)"), ("50 > 10", "50 > 10 (n=1)"), ("22 > 10", "22 > 10 (n=1)")]


def test_the_quick_protocol_is_compared_in_order_and_never_in_value(template: Template, tmp_path: Path) -> None:
    text = figure.report(write(tmp_path, like_the_published(template("quick"))))
    assert "Not the published protocol: compared in order, not in value." in text
    found = printed(text)
    assert {cells[1:] for claim, cells in found.items() if VALUE_CLAIM in claim} == {("-", "not run")}
    assert {verdict for claim, (_, _, verdict) in found.items() if VALUE_CLAIM not in claim} == {"reproduced"}


def test_another_protocol_is_never_compared_in_value_either(template: Template, tmp_path: Path) -> None:
    other = {**template("paper"), "width": 512}
    found = judged(write(tmp_path, reaching(other, dict.fromkeys(PUBLISHED_DEPTHS, 8))))
    assert {verdict for claim, (_, _, verdict) in found.items() if VALUE_CLAIM in claim} == {"not run"}


def test_a_smoke_run_proves_no_claim(template: Template, tmp_path: Path) -> None:
    text = figure.report(write(tmp_path, like_the_published(template("smoke"))))
    assert "says nothing about the claims" in text
    assert {verdict for _, _, verdict in printed(text).values()} == {"not run"}


def test_the_wrong_order_and_wrong_depths_are_not_reproduced(template: Template, tmp_path: Path) -> None:
    depths = (1, 5, 10, 20, 22, 30, 50)
    rows = reaching(template("paper"), {"fromage": 1, "adam": 50, "sgd_momentum": 5}, depths=depths)
    found = [cells[1:] for cells in judged(write(tmp_path, rows)).values()]
    assert found == [
        ("1 vs 50 (n=1)", "not reproduced"),
        ("1 vs 5 (n=1)", "not reproduced"),
        ("50 > 5 (n=1)", "reproduced"),
        ("1 (n=1)", "not reproduced"),
        ("50 (n=1)", "not reproduced"),
        ("5 (n=1)", "not reproduced"),
    ]


def test_an_optimizer_that_trains_no_depth_at_all_is_judged_too(template: Template, tmp_path: Path) -> None:
    found = judged(write(tmp_path, reaching(template("paper"), {"adam": 0, "fromage": 8})))
    (adam,) = [cells for claim, cells in found.items() if VALUE_CLAIM in claim and claim.startswith("Adam")]
    assert adam == ("22", "0 (n=1)", "not reproduced")


def test_what_was_not_run_is_not_judged(template: Template, tmp_path: Path) -> None:
    found = judged(write(tmp_path, reaching(template("paper"), {"fromage": 8, "adam": 4})))
    unjudged = [claim for claim, cells in found.items() if cells[1:] == ("-", "not run")]
    assert len(found) == 6
    assert unjudged == [claim for claim in found if "SGD" in claim]
    assert len(unjudged) == 3


def test_several_seeds_give_an_interval(template: Template, tmp_path: Path) -> None:
    rows = reaching(template("quick"), {"fromage": 8, "adam": 2}, seeds=2)
    rows += reaching(template("quick"), {"sgd_momentum": 2}, seeds=2)
    orders = [cells[1:] for cells in judged(write(tmp_path, rows)).values()][:3]
    assert orders == [
        ("8 > 2 (n=2, difference in [6, 6])", "reproduced"),
        ("8 > 2 (n=2, difference in [6, 6])", "reproduced"),
        ("2 vs 2 (n=2, difference in [0, 0])", "partly"),
    ]


def test_runs_with_other_hyperparameters_are_not_taken_for_seeds_of_the_same_optimizer(
    template: Template, tmp_path: Path
) -> None:
    """Momentum 0.5 beside 0.9: the same optimizer's name, learning rate, depth and seed, yet another run."""
    base = {**template("quick"), "hyperparameters": json.dumps({"momentum": 0.9})}
    rows = reaching(base, {"sgd_momentum": 8, "adam": 4})
    before = judged(write(tmp_path / "before", rows))
    variant = {**base, "hyperparameters": json.dumps({"momentum": 0.5})}
    rows += reaching(variant, {"sgd_momentum": 0})
    assert judged(write(tmp_path / "after", rows)) == before


# --- the command -----------------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import runpy, sys

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
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def figures_without_torch(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(ROOT / "scripts" / "figures.py"), *words],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_figures_are_redrawn_where_torch_cannot_be_imported(template: Template, tmp_path: Path) -> None:
    write(tmp_path, reaching(template("quick"), {"fromage": 8, "adam": 4}))
    done = figures_without_torch("mlp_depth", "--results", str(tmp_path), "--scale", "quick")
    assert done.returncode == 0, done.stderr
    assert "Fromage trains deeper perceptrons than Adam" in done.stdout
    assert drawn(tmp_path) == [f"mlp_depth-quick{end}.{kind}" for end in ("-lr", "") for kind in ("pdf", "png")]
    assert all((tmp_path / "figures" / name).stat().st_size > 1000 for name in drawn(tmp_path))


def test_without_a_table_the_figures_command_says_so(tmp_path: Path) -> None:
    done = figures_without_torch("--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"mlp_depth: nothing in {tmp_path}/summaries yet" in done.stdout


def test_an_unknown_experiment_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    done = figures_without_torch("mlp_depht", "--results", str(tmp_path))
    assert done.returncode == 2
    assert "experiments=mlp_depht: unknown, allowed are" in done.stderr
