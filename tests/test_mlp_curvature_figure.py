"""The figures and verdicts of the curvature slices, from tables made up here."""

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from reltrust.experiments.mlp_curvature import figure, verdicts

from reltrust.reporting.claims import Verdict
from reltrust.reporting.report import write
from reltrust.reporting.selection import Selection, describe, select


def runs(changes: dict[str, list[float]], train_steps: int = 0) -> pd.DataFrame:
    """A slice's row for each seed's change of the first layer's gradient; by network as "plain 15"."""
    rows: list[dict[str, Any]] = []
    for arm, found in changes.items():
        kind, depth = arm.split()
        for seed, change in enumerate(found):
            rows.append(
                {
                    "optimizer": "analysis",
                    "network": kind,
                    "hidden_layers": int(depth),
                    "train_steps": train_steps,
                    "seed": seed,
                    "status": "finished",
                    "eta": 0.099,
                    "loss": 2.0,
                    "model": verdicts.modelled(0.099, int(depth)),
                    **{f"change_{layer}": change * layer for layer in range(1, int(depth) + 2)},
                }
            )
    return pd.DataFrame(rows)


def selected(table: pd.DataFrame) -> Selection:
    return select(table, verdicts.SLICES, "quick")


def claim(text: str) -> Any:
    return next(one for one in figure.REPORT.claims if text in one.text)


# --- the published numbers -------------------------------------------------------------------------------------------


def test_every_published_number_has_a_source_and_stands_there_once() -> None:
    table = verdicts.PUBLISHED
    assert len(table) == 48  # three networks, two moments, four sizes of the step, loss and change
    assert table["source"].str.startswith("jxbz/fromage@4a6593b ").all()
    assert not table.duplicated(["arm", "train_steps", "eta", "quantity"]).any()
    assert set(table["train_steps"]) == {0, 2160}


def test_the_published_changes_at_initialisation_are_those_of_the_claims() -> None:
    assert verdicts.AT_START.round(2).to_dict() == {"plain 1": 1.05, "plain 15": 4214.84, "residual 15": 31.49}
    assert claim("a plain network of 16 layers than in one of 2").published == "4215 > 1.045"
    assert claim("outgrows").published.startswith("0.39 a layer (x 5 at 2, x 1194 at 16")


def test_the_published_ends_are_selected_as_our_runs_are() -> None:
    cells = describe(select(verdicts.ENDS, verdicts.SLICES, "published"))
    assert cells[["arm", "train_steps"]].to_records(index=False).tolist() == [
        (arm, moment) for arm in ("plain 1", "plain 15", "residual 15") for moment in (0, 2160)
    ]
    assert cells["mean"].round(1).tolist() == [1.0, 325.9, 4214.8, 468.6, 31.5, 7732.2]


# --- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deep", "shallow", "verdict"),
    [
        ([4000.0, 30.0], [1.0, 2.9], Verdict.REPRODUCED),
        ([4000.0, 30.0], [1.0, 3.0], Verdict.PARTLY),  # ten times is not more than ten times
        ([4.0], [1.0], Verdict.PARTLY),
        ([9.0, 1.0], [2.0, 2.0], Verdict.PARTLY),  # geometric means: 3 and 2
        ([1.0], [1.0], Verdict.NOT_REPRODUCED),
        ([1.0], [], Verdict.NOT_RUN),
        ([], [1.0], Verdict.NOT_RUN),
    ],
)
def test_more_is_judged_by_its_rule(deep: list[float], shallow: list[float], verdict: Verdict) -> None:
    ours = selected(pd.concat([runs({"plain 15": deep, "plain 1": shallow}), runs({"plain 3": [1.0]})]))
    assert claim("a plain network of 16 layers than in one of 2").judged(ours).verdict is verdict


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ([4214.84], Verdict.REPRODUCED),
        ([2108.0], Verdict.REPRODUCED),
        ([2106.0], Verdict.PARTLY),
        ([42140.0], Verdict.PARTLY),
        ([42160.0], Verdict.NOT_REPRODUCED),
        ([400.0, 40000.0], Verdict.REPRODUCED),  # geometric mean 4000
    ],
)
def test_a_value_is_judged_by_its_rule(changes: list[float], verdict: Verdict) -> None:
    found = claim("eta = 0.099: 16 layers").judged(selected(runs({"plain 15": changes})))
    assert (found.published, found.verdict) == ("4215", verdict)


def test_other_moments_than_initialisation_do_not_count() -> None:
    table = pd.concat([runs({"plain 15": [4000.0], "plain 1": [1.0]}), runs({"plain 15": [1.0]}, train_steps=240)])
    assert claim("a plain network of 16 layers than in one of 2").judged(selected(table)).verdict is Verdict.REPRODUCED
    later = selected(runs({"plain 15": [4000.0], "plain 1": [1.0]}, train_steps=240))
    assert all(one.judged(later).verdict is Verdict.NOT_RUN for one in figure.REPORT.claims)


def test_the_excess_is_judged_by_its_slope_in_the_number_of_layers() -> None:
    def with_slope(*slopes: float) -> Selection:
        changes = {
            f"plain {depth}": [verdicts.modelled(0.099, depth) * math.exp(slope * (depth + 1)) for slope in slopes]
            for depth in (1, 3, 15)
        }
        return selected(pd.concat([runs(changes), runs({"residual 15": [1e-6]})]))  # which is not counted

    for slopes, verdict in (
        ((0.39,), Verdict.REPRODUCED),
        ((0.39, 0.01), Verdict.REPRODUCED),
        ((0.39, -0.01), Verdict.PARTLY),
        ((0.01, -0.39), Verdict.NOT_REPRODUCED),
        ((-0.1,), Verdict.NOT_REPRODUCED),
    ):
        assert claim("outgrows").judged(with_slope(*slopes)).verdict is verdict
    told = claim("outgrows").judged(with_slope(0.39)).ours
    assert told == f"0.39 a layer (n=1; x {math.exp(2 * 0.39):.3g} at 2, x {math.exp(16 * 0.39):.3g} at 16)"
    assert claim("outgrows").judged(selected(runs({"plain 15": [1.0]}))).verdict is Verdict.NOT_RUN


# --- figures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Slices of three networks at two moments, two seeds each, of three points."""
    changes = {"plain 1": [1.0, 1.2], "plain 15": [3000.0, 5000.0], "residual 15": [30.0, 20.0]}
    table = pd.concat([runs(changes), runs(changes, train_steps=240)])
    fixed = {"comparison": "0123abcd", "scale": "paper", "experiment": "mlp_curvature", "data": "mnist", "width": 784}
    table = table.assign(**fixed, hyperparameters="{}", lr=None, train_lr=0.01, train_batch=250)
    table["run"] = [
        f"analysis/{row.network}{row.hidden_layers}-step{row.train_steps}-seed{row.seed}" for row in table.itertuples()
    ]
    (tmp_path / "summaries").mkdir()
    table.to_csv(tmp_path / "summaries" / "mlp_curvature.csv", index=False)
    points = [
        {"comparison": "0123abcd", "run": row.run, "step": row.train_steps + 1 + n, "eta": 0.0495 * n, "loss": 2.0 + n}
        | {"change_1": row.change_1 * n / 2}
        for row in table.itertuples()
        for n in range(3)
    ]
    pd.DataFrame(points).to_csv(tmp_path / "summaries" / "mlp_curvature-curves.csv", index=False)
    return tmp_path


def test_a_line_is_a_slice_and_published_points_lie_beside_it(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("reltrust.reporting.report.plt.close", drawn.append)
    text = write(results, "mlp_curvature")
    assert "left out" not in text
    slices, trust = drawn
    deep = slices.axes[4]  # the second row's second panel
    assert slices.axes[1].get_title() == "16 layers"
    solid = [line for line in deep.lines if line.get_linestyle() == "-"]
    assert sorted(tuple(line.get_ydata()) for line in solid) == 2 * [(1500.0, 3000.0)] + 2 * [(2500.0, 5000.0)]
    (published,) = [line for line in deep.lines if line.get_marker() == "o"]  # of the moments that were run
    assert dict(zip(published.get_xdata(), published.get_ydata(), strict=True))[0.099] == 4214.84
    (model,) = [line for line in deep.lines if line.get_linestyle() == "--"]
    assert model.get_ydata()[-1] == pytest.approx(1.099**16 - 1)
    by_depth, by_layer = trust.axes
    lines = {line.get_label(): line for line in by_depth.lines}
    assert lines["plain"].get_xdata().tolist() == [2, 16]
    expected = [math.sqrt(1.2) / (1.099**2 - 1), math.sqrt(3000 * 5000) / (1.099**16 - 1)]
    assert lines["plain"].get_ydata().tolist() == pytest.approx(expected)
    of_layers = {line.get_label(): line for line in by_layer.lines}["16 layers, residual"]
    expected = [layer * math.sqrt(600) / (1.099**16 - 1) for layer in range(1, 17)]
    assert list(of_layers.get_ydata()) == pytest.approx(expected)
    plt.close("all")


def test_the_figures_of_the_same_tables_have_the_same_bytes(results: Path) -> None:
    write(results, "mlp_curvature")
    names = ["mlp_curvature-paper-trust.png", "mlp_curvature-paper.png"]
    assert sorted(path.name for path in (results / "figures").glob("*.png")) == names
    first = [(results / "figures" / name).read_bytes() for name in names]
    write(results, "mlp_curvature")
    assert [(results / "figures" / name).read_bytes() for name in names] == first


def test_without_curves_the_ends_of_the_slices_are_drawn_and_judged_all_the_same(results: Path) -> None:
    (results / "summaries" / "mlp_curvature-curves.csv").unlink()
    assert "3873 (n=2: 3000 to 5000)" in write(results, "mlp_curvature")


def test_an_arm_of_several_columns_is_selected_as_one_of_a_column_that_has_their_values() -> None:
    table = runs({"plain 1": [1.0, 2.0], "residual 1": [4.0]})
    cells = describe(selected(table))
    assert cells["arm"].tolist() == ["plain 1", "residual 1"]
    assert cells["n"].tolist() == [2, 1]
    assert np.allclose(cells["mean"], [1.5, 4.0])
