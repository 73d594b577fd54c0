"""The transformer's figure: published numbers, verdicts on the best learning rate and on perplexities."""

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from reltrust.experiments.transformer_lm import figure

from reltrust.reporting import report
from reltrust.reporting.selection import select

Row = dict[str, Any]
BASE: Row = {
    "comparison": "abcdef01", "scale": "paper10", "status": "finished", "seed": 0, "hyperparameters": "{}",
    "data": "wikitext2", "width": 200, "layers": 2, "bptt": 35, "batch_size": 20, "steps": 29_840,
}  # fmt: skip


def row_of(arm: str, lr: float, train: float, valid: float, **changes: Any) -> Row:
    place = {"optimizer": arm, "lr": lr, "run": f"{arm}/lr{lr}-{len(changes)}-{changes.get('seed', 0)}"}
    return {**BASE, **place, "train_loss": math.log(train), "valid_loss": math.log(valid), **changes}


def the_published(**changes: Any) -> list[Row]:
    """As if they were ours: the Fromage paper's as training, the Madam paper's as validation perplexities."""
    rows = []
    for (arm, lr), own in figure.PUBLISHED.groupby(["arm", "lr"]):
        values = own.set_index("paper")["perplexity"]
        rows.append(row_of(str(arm), float(lr), values.get("fromage", 150.0), values.get("madam", 150.0), **changes))
    return rows


def write(results: Path, rows: list[Row]) -> Path:
    (results / "summaries").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(results / "summaries" / "transformer_lm.csv", index=False)
    return results


def verdicts(results: Path, scale: str = "paper10") -> dict[str, tuple[str, str]]:
    (found,) = [one for one in report.evaluate(results, "transformer_lm", figure.REPORT) if one.scale == scale]
    return {one.claim: (one.ours, str(one.verdict)) for one in found.judgements}


def test_every_published_number_has_a_source_and_stands_there_once() -> None:
    table = figure.PUBLISHED
    assert len(table) == 30
    assert table["source"].str.strip().ne("").all()
    assert (table["perplexity"] > 1).all()
    assert not table.duplicated(["paper", "optimizer", "lr"]).any()


def test_the_published_numbers_fed_as_ours_reproduce_every_claim(tmp_path: Path) -> None:
    found = verdicts(write(tmp_path, the_published()))
    assert len(found) == 8
    assert {verdict for _, verdict in found.values()} == {"reproduced"}
    assert found["Fromage's best learning rate for a transformer is 0.01, as on the other benchmarks"][0] == (
        "0.01: 100.9, next best 186.3 (n=1)"
    )
    drawn = report.write(tmp_path, "transformer_lm")
    assert "transformer_lm-paper10.pdf" in drawn
    selected = pd.read_csv(tmp_path / "summaries" / "transformer_lm-paper10-selected.csv")
    assert list(selected) == ["optimizer", "lr", "n", "mean", "std", "min", "max", "low", "high", "published"]
    fromage = selected[selected["optimizer"] == "fromage"]
    assert (fromage["mean"] / fromage["published"] - 1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("perplexity", "verdict"),
    [(100.0, "reproduced"), (92.0, "reproduced"), (120.0, "partly"), (150.0, "not reproduced")],
)
def test_a_perplexity_is_judged_by_its_distance_from_the_published_one(
    tmp_path: Path, perplexity: float, verdict: str
) -> None:
    found = verdicts(write(tmp_path, [row_of("fromage", 0.01, perplexity, 200.0)]))
    assert found["Fromage 0.01, training perplexity in epoch 10"] == (f"{perplexity:.4g} (n=1)", verdict)
    assert found["Adam 0.001, training perplexity in epoch 10"] == ("-", "not run")


@pytest.mark.parametrize(("at_best", "verdict"), [(90.0, "reproduced"), (105.0, "partly"), (120.0, "not reproduced")])
def test_another_best_learning_rate_is_not_the_published_one(tmp_path: Path, at_best: float, verdict: str) -> None:
    rows = [row_of("fromage", lr, value, 200.0, scale="quick") for lr, value in ((0.1, 300.0), (0.001, 100.0))]
    claim = "Fromage's best learning rate for a transformer is 0.01, as on the other benchmarks"
    two = [*rows[:1], row_of("fromage", 0.01, at_best, 200.0, scale="quick")]
    assert verdicts(write(tmp_path, two), "quick")[claim] == ("-", "not run")
    three = [*rows, row_of("fromage", 0.01, at_best, 200.0, scale="quick")]
    assert verdicts(write(tmp_path, three), "quick")[claim][1] == verdict


def test_a_diverged_run_counts_as_the_placeholder_and_means_are_of_perplexities(tmp_path: Path) -> None:
    rows = [row_of("adam", 0.001, value, 9.0, seed=seed) for seed, value in enumerate((100.0, 300.0))]
    rows.append(row_of("adam", 1.0, 5.0, 5.0, status="diverged", seed=2))
    table = pd.DataFrame(rows).assign(arm="adam")
    found = select(table, figure.AT_END["train"], "paper10").best.groupby("lr")["value"].mean()
    assert found[0.001] == pytest.approx(200.0)
    assert found[1.0] == pytest.approx(1e10)


def test_both_texts_are_drawn_and_published_points_only_beside_their_protocol(tmp_path: Path) -> None:
    for scale, hollow in (("paper10", True), ("quick", False)):
        table = pd.DataFrame(the_published(scale=scale)).assign(arm=lambda rows: rows["optimizer"], style="{}")
        selections = [select(table, figure.AT_END[part], scale) for part in ("train", "valid")]
        drawn = figure.fromage_figure_3_right_transformer(*selections, report.Styles(table))
        plt.close(drawn)
        labels = drawn.axes[1].get_legend_handles_labels()[1]
        assert ("as published" in labels) is hollow
        assert [axes.get_title() for axes in drawn.axes] == ["training perplexity", "validation perplexity"]


def test_perplexities_that_leave_no_room_for_the_others_are_numbers_at_the_edge() -> None:
    rows = [
        row_of("adam", lr, value, 1.1 * value, scale="quick") for lr, value in ((0.001, 100), (0.01, 120), (1, 1e60))
    ]
    table = pd.DataFrame(rows).assign(arm="adam", style="{}")
    selections = [select(table, figure.AT_END[part], "quick") for part in ("train", "valid")]
    drawn = figure.fromage_figure_3_right_transformer(*selections, report.Styles(table))
    plt.close(drawn)
    for axes, told in zip(drawn.axes, ("\u2191 1.0e+60", "\u2191 1.1e+60"), strict=True):
        bottom, top = axes.get_ylim()
        assert 50 < bottom < 100 < 132 < top < 1000
        assert [text.get_text() for text in axes.texts] == [told]
