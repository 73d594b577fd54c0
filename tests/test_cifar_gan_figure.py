"""The GAN's figures and verdicts, from tables made up here."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from reltrust.experiments.cifar_gan import figure, verdicts

from reltrust.records.artifacts import keep_pictures
from reltrust.reporting.claims import Verdict
from reltrust.reporting.report import write
from reltrust.reporting.selection import select
from reltrust.reporting.style import Styles

SCHEDULE = json.dumps({"name": "milestones", "decay": 0.1, "at": [50]})


def runs(**distances: list[float]) -> pd.DataFrame:
    """A row for each seed's distance; by arm."""
    rows = [
        {
            "arm": arm,
            "optimizer": arm,
            "lr": 0.0001 if arm == "adam" else 0.01,
            "channels": 16,
            "seed": seed,
            "status": "finished",
            "frechet_train": distance,
            "frechet_test": distance + 1,
            "norm_growth_min": 1.0,
            "norm_growth_max": 1.0,
            "steps": 100,
            "schedule": SCHEDULE,
        }
        for arm, found in distances.items()
        for seed, distance in enumerate(found)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("fromage", "adam", "verdict"),
    [
        ([10.0, 11.0], [14.0, 13.0], Verdict.REPRODUCED),
        ([10.0], [14.0], Verdict.REPRODUCED),
        ([10.0, 14.5], [14.0, 16.0], Verdict.PARTLY),  # one seed lies within the other's
        ([10.0], [10.5], Verdict.PARTLY),
        ([10.0], [9.5], Verdict.PARTLY),
        ([10.0], [8.0], Verdict.NOT_REPRODUCED),
        ([10.0], [], Verdict.NOT_RUN),
    ],
)
def test_nearer_is_judged_by_its_rule(fromage: list[float], adam: list[float], verdict: Verdict) -> None:
    claim = next(one for one in figure.REPORT.claims if "than Adam's" in one.text)
    assert claim.published == "FID 16.4 < 19.1"
    assert claim.judged(select(runs(fromage=fromage, adam=adam), claim.comparison, "small")).verdict is verdict


@pytest.mark.parametrize(
    ("madam", "verdict"),
    [(9.0, Verdict.REPRODUCED), (11.0, Verdict.REPRODUCED), (13.0, Verdict.PARTLY), (14.0, Verdict.NOT_REPRODUCED)],
)
def test_competitive_is_judged_by_its_rule(madam: float, verdict: Verdict) -> None:
    claim = next(one for one in figure.REPORT.claims if "competitive" in one.text)
    assert claim.published == "FID 29.16, 26.79 (epoch 100)"
    assert claim.judged(select(runs(madam=[madam], adam=[10.0]), claim.comparison, "small")).verdict is verdict


def test_the_growth_of_norms_is_held_against_the_theory() -> None:
    """Fifty steps of 0.01, then fifty of 0.001."""
    expected = (1 + 0.01**2) ** 25 * (1 + 0.001**2) ** 25
    assert verdicts.growth(0.01, runs(lars=[1.0]).iloc[0]) == pytest.approx(expected, rel=1e-12)
    of_fromage, of_lars = figure.STABLE
    for growth, by_fromage, by_lars in (
        (1.0, Verdict.REPRODUCED, Verdict.REPRODUCED),  # 0.25 % in so few steps
        (1.05, Verdict.PARTLY, Verdict.PARTLY),
        (2.0, Verdict.NOT_REPRODUCED, Verdict.NOT_REPRODUCED),
    ):
        table = runs(fromage=[1.0], lars=[1.0]).assign(norm_growth_max=growth)
        selection = select(table, verdicts.NORMS, "small")
        assert (of_fromage.judged(selection).verdict, of_lars.judged(selection).verdict) == (by_fromage, by_lars)
    assert of_lars.judged(select(runs(fromage=[1.0]), verdicts.NORMS, "small")).verdict is Verdict.NOT_RUN


def test_under_another_schedule_than_milestones_norms_are_drawn_without_the_theory() -> None:
    table = runs(lars=[1.0]).assign(schedule='{"name": "constant"}')
    assert np.isnan(verdicts.lr_factors(table.iloc[0])).all()


def test_published_numbers_have_sources_and_versions_that_are_not_mixed() -> None:
    assert len(verdicts.PUBLISHED) == 68
    assert verdicts.PUBLISHED["source"].notna().all()
    assert set(verdicts.PUBLISHED["version"]) == {"rerun", "v1", "v2", "fromage tuning", "madam tuning"}
    assert verdicts.RERUN.to_dict() == {"fromage": 16.4, "adam": 19.1, "sgd": 36.4}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two runs at scale=small with two evaluations each, of which one has pictures in its record."""
    table = runs(fromage=[20.0], sgd=[30.0])
    table["comparison"], table["scale"], table["experiment"] = "0123abcd", "small", "cifar_gan"
    table["run"] = table["optimizer"] + "/channels16-seed0"
    table["hyperparameters"], table["features"], table["data"] = "{}", "efficientnet_lite0", "cifar10"
    table["examples"], table["samples"], table["batch_size"] = 10_000, 2_560, 64
    (tmp_path / "summaries").mkdir()
    table.drop(columns="arm").to_csv(tmp_path / "summaries" / "cifar_gan.csv", index=False)
    columns = ["comparison", "run", "frechet_train", "norm_growth_min", "norm_growth_max"]
    points = pd.concat([table[columns].assign(step=step) for step in (50, 100)])
    points.to_csv(tmp_path / "summaries" / "cifar_gan-curves.csv", index=False)
    files = tmp_path / "runs" / "cifar_gan" / "fromage" / "channels16-seed0" / "files"
    files.mkdir(parents=True)
    for step in (50, 100):
        plt.imsave(files / f"step{step:03d}-strip.png", np.full((320, 32, 3), step / 100))
        plt.imsave(files / f"step{step:03d}-samples.png", np.zeros((320, 320, 3)))
    return tmp_path


def test_pictures_of_a_run_that_goes_on_from_a_shorter_one_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    kept = tmp_path / "pictures" / "e" / "r"
    kept.mkdir(parents=True)
    for name in ("step300-samples.png", "step0900-samples.png", "step1000-samples.png"):
        (kept / name).touch()
    assert list(keep_pictures(tmp_path, "e", "r", "samples.png")) == [300, 900, 1000]


def test_figures_are_drawn_and_keep_the_pictures_that_they_show(results: Path) -> None:
    text = write(results, "cifar_gan")
    assert "20 (n=1) vs 30 (n=1)" in text
    drawn = sorted(path.name for path in (results / "figures").glob("*.png"))
    assert drawn == ["cifar_gan-small-norms.png", "cifar_gan-small-samples.png", "cifar_gan-small.png"]
    kept = results / "pictures" / "cifar_gan" / "fromage" / "channels16-seed0"
    assert [path.name for path in sorted(kept.iterdir())] == ["step050-strip.png", "step100-strip.png"]
    first = (results / "figures" / "cifar_gan-small-samples.png").read_bytes()
    for path in sorted((results / "runs").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    write(results, "cifar_gan")
    assert (results / "figures" / "cifar_gan-small-samples.png").read_bytes() == first


def test_lines_and_labels_are_those_of_the_runs(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("reltrust.reporting.report.plt.close", drawn.append)
    write(results, "cifar_gan")
    (over_time, at_end, theirs), (norms,), _ = (one.axes for one in drawn)
    lines = {line.get_label(): line for line in over_time.lines}
    assert {label: list(line.get_ydata()) for label, line in lines.items()} == {"fromage": [20, 20], "sgd": [30, 30]}
    assert over_time.get_ylabel() == "FD (efficientnet_lite0) to training images"
    assert [text.get_text() for text in at_end.get_yticklabels()] == ["sgd 0.01", "fromage 0.01"]
    assert sorted(float(line.get_xdata()[0]) for line in theirs.lines) == [16.4, 19.1, 36.4]
    assert norms.lines[-1].get_ydata()[-1] == pytest.approx(verdicts.growth(0.01, runs(lars=[1.0]).iloc[0]))
    plt.close("all")


def test_every_learning_rate_is_drawn_beside_the_published_tuning() -> None:
    table = runs(adam=[20.0], fromage=[12.0]).assign(
        style="{}", data="cifar10", examples=np.nan, batch_size=256, samples=10_000, features="inception"
    )
    slower = table.assign(lr=table["lr"] / 10, frechet_train=table["frechet_train"] + 5)
    found = select(pd.concat([table, slower]), verdicts.BY_LR, "paper")
    drawn = figure.fromage_figure_3_right_gan(found, Styles(table, also=["sgd"]))
    (axes,) = drawn.axes
    lines = [line for line in axes.lines if len(line.get_xdata())]
    ours = {line.get_label(): list(line.get_ydata()) for line in lines if line.get_markerfacecolor() != "none"}
    assert ours == {"adam": [25.0, 20.0], "fromage": [17.0, 12.0]}
    hollow = [line for line in lines if line.get_markerfacecolor() == "none"]
    assert sum(len(line.get_xdata()) for line in hollow) == len(verdicts.OF_TUNING) > 10
    plt.close(drawn)
