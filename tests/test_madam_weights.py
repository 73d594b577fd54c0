"""Signs that are counted in every step, the shape of ln|w|, what a stop leaves of both, and the verdicts."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from reltrust.experiments.madam_weights import figure
from reltrust.experiments.madam_weights.distribution import EDGES, histogram, mean_shape, shape, standardised_log

from reltrust.records.store import Status
from reltrust.reporting.claims import Verdict
from reltrust.reporting.report import write
from reltrust.reporting.selection import select
from reltrust.settings import Settings
from runs import metrics, program_of, record_of, run, stopped

Resolve = Callable[..., Settings]
Row = dict[str, Any]


def quantiles(n: int = 20_001) -> torch.Tensor:
    """Those of the standard normal distribution at the middles of n intervals of equal probability."""
    return torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)


# --- the shape -------------------------------------------------------------------------------------------------------


def test_weights_whose_logarithms_are_normal_have_the_shape_of_zeros() -> None:
    signs = torch.where(torch.arange(20_001) % 2 == 0, 1.0, -1.0)
    weights = signs * torch.exp(0.7 * quantiles() - 3)
    found = shape(standardised_log(weights))
    assert found.distance < 1e-3
    assert abs(found.skewness) < 1e-6
    assert abs(found.kurtosis) < 0.01


def test_uniform_weights_have_exponential_logarithms() -> None:
    """-ln u of a uniform u has variance 1, skewness 2 and excess kurtosis 6."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    found = shape(standardised_log(u))
    assert found.skewness == pytest.approx(-2, abs=0.01)
    assert found.kurtosis == pytest.approx(6, abs=0.2)
    z = np.linspace(-12, 1, 200_001)  # z = ln u + 1: P(z <= x) = exp(x - 1) up to 1
    normal = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in z[::20]])
    assert found.distance == pytest.approx(float(np.abs(np.exp(z[::20] - 1) - normal).max()), abs=1e-3)


def test_the_shape_knows_neither_scale_nor_power_nor_zeros() -> None:
    weights = torch.randn(500, generator=torch.Generator().manual_seed(0)).double()
    expected = shape(standardised_log(weights))
    for same in (100 * weights, -weights, weights.abs() ** 3, torch.cat([weights, torch.zeros(50)]).view(11, 50)):
        assert shape(standardised_log(same)) == pytest.approx(expected, rel=1e-9)


def test_the_distance_is_the_largest_difference_of_the_distribution_functions() -> None:
    z = torch.tensor([-1.0, 1.0], dtype=torch.float64)  # steps of one half at both
    assert shape(z).distance == pytest.approx(0.5 - 0.5 * math.erfc(1 / math.sqrt(2)), rel=1e-12)


def test_tensors_are_measured_one_by_one() -> None:
    one, other = torch.exp(quantiles(1001)), torch.exp(5 * quantiles(1001) + 3)  # alike but for mean and scale
    assert mean_shape([one, other]) == pytest.approx(mean_shape([one]), rel=1e-9)


def test_a_histogram_is_a_density_and_has_what_lies_outside() -> None:
    density = histogram([torch.exp(quantiles()), torch.tensor([1e-30, *([1.0] * 99)])])
    width = float(EDGES[1] - EDGES[0])
    assert float(density.sum()) * width == pytest.approx(1, rel=1e-12)
    assert float(density[0]) > 0  # one of a hundred is 10 standard deviations away


# --- signs -----------------------------------------------------------------------------------------------------------

WORDS = ("experiment=madam_weights", "task.hidden_layers=2")


@pytest.mark.parametrize("lr", [0.01, 0.3])
def test_madam_changes_no_sign_in_any_step(settings: Resolve, lr: float) -> None:
    chosen = settings(*WORDS, "optimizer=madam", f"optimizer.lr={lr}")
    assert run(chosen) is Status.FINISHED
    assert [row["sign_changes"] for row in metrics(chosen) if "sign_changes" in row] == [0, 0]
    assert record_of(chosen).summary["weights"] == 64 * 32 + 32 * 32 + 32 * 10


def test_a_sign_that_changes_and_changes_back_is_counted(settings: Resolve) -> None:
    task: Any = program_of(settings(*WORDS)).task
    weight = task.weights[1]
    task.loss(0)
    with torch.no_grad():
        weight[0, :3] *= -1
    task.loss(1)
    with torch.no_grad():
        weight[0, :3] *= -1
        weight[5, 5] = 0.0  # which is a change too, and is seen by the evaluation after the last step
    assert task.evaluate().row["sign_changes"] == 4


@pytest.mark.parametrize("optimizer", ["adam", "sgd_momentum"])
def test_others_change_signs_and_a_run_that_was_stopped_has_not_forgotten_which(
    settings: Resolve, optimizer: str
) -> None:
    chosen = [*WORDS, f"optimizer={optimizer}", "optimizer.lr=0.01"]
    whole = settings(*chosen)
    run(whole)
    broken = settings(*chosen, f"machine.results={whole.machine.results}-broken")
    with stopped(at=70):
        assert run(broken) is Status.PREEMPTED
    assert run(broken) is Status.FINISHED
    assert metrics(broken) == metrics(whole)
    assert record_of(whole).summary["sign_changes"] > 100
    files = record_of(whole).path / "files"
    assert sorted(path.name for path in files.iterdir()) == ["step060-log_weights.csv", "step120-log_weights.csv"]


def test_all_optimizers_start_from_the_same_weights(settings: Resolve) -> None:
    starts = [program_of(settings(*WORDS, f"optimizer={name}")).task.start for name in ("madam", "adam")]  # type: ignore[attr-defined]
    assert all(torch.equal(one, other) for one, other in zip(*starts, strict=True))


# --- verdicts and figure ---------------------------------------------------------------------------------------------


def table(**distances: list[float]) -> pd.DataFrame:
    """A row for each seed's distance from normal, by optimizer, from 0.16 at initialisation."""
    rows: list[Row] = [
        {
            "arm": arm,
            "optimizer": arm,
            "hidden_layers": 3,
            "lr": 0.01,
            "seed": seed,
            "status": "finished",
            "train_accuracy": 0.9,
            "train_loss": 0.1,
            "weights": 1000.0,
            "sign_changes": 0.0 if arm == "madam" else 250.0,
            "log_distance": distance,
            "start_log_distance": 0.16,
        }
        for arm, found in distances.items()
        for seed, distance in enumerate(found)
    ]
    return pd.DataFrame(rows)


def judged(text: str, runs: pd.DataFrame) -> tuple[str, Verdict]:
    (claim,) = [one for one in figure.REPORT.claims if text in one.text]
    found = claim.judged(select(runs, claim.comparison, "quick"))
    return found.ours, found.verdict


def test_one_sign_at_any_learning_rate_is_one_too_many() -> None:
    runs = table(madam=[0.1, 0.1], adam=[0.1])
    ours = "0 of 1,000 weights in each of 2 runs; Adam 25%"
    assert judged("never changes", runs) == (ours, Verdict.REPRODUCED)
    worse = runs[runs["arm"] == "madam"].assign(lr=0.5, train_accuracy=0.2, sign_changes=[0.0, 1.0])  # not selected
    assert judged("never changes", pd.concat([runs, worse]))[1] is Verdict.NOT_REPRODUCED
    assert judged("never changes", table(adam=[0.1])) == ("-", Verdict.NOT_RUN)


@pytest.mark.parametrize(
    ("madam", "adam", "verdict"),
    [
        ([0.10, 0.11], [0.12, 0.13], Verdict.REPRODUCED),
        ([0.10, 0.12], [0.12, 0.13], Verdict.PARTLY),
        ([0.12], [0.12], Verdict.NOT_REPRODUCED),
        ([0.12], [], Verdict.NOT_RUN),
    ],
)
def test_nearer_to_normal_is_judged_by_its_rule(madam: list[float], adam: list[float], verdict: Verdict) -> None:
    assert judged("than after Adam", table(madam=madam, adam=adam))[1] is verdict


def test_nearer_than_at_initialisation_is_judged_by_the_same_rule() -> None:
    assert judged("than at initialisation", table(madam=[0.15, 0.1]))[1] is Verdict.REPRODUCED
    assert judged("than at initialisation", table(madam=[0.17, 0.1]))[1] is Verdict.PARTLY
    assert judged("than at initialisation", table(madam=[0.17]))[1] is Verdict.NOT_REPRODUCED


def test_the_figure_shows_histograms_of_the_records_and_goes_on_showing_them_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = table(madam=[0.1, 0.12], adam=[0.14])
    fixed = {"comparison": "0123abcd", "scale": "quick", "data": "digits", "width": 64, "init": "torch", "steps": 120}
    runs = runs.assign(**fixed, hyperparameters="{}", run=runs["arm"] + "/seed" + runs["seed"].astype(str))
    (tmp_path / "summaries").mkdir()
    runs.drop(columns="arm").to_csv(tmp_path / "summaries" / "madam_weights.csv", index=False)
    files = tmp_path / "runs" / "madam_weights" / "madam" / "seed0" / "files"
    files.mkdir(parents=True)
    for step, density in ((60, 0.1), (120, 0.3)):
        lines = [f"{left},{density},0.2" for left in (-0.2, 0.0)]
        (files / f"step{step:03d}-log_weights.csv").write_text("\n".join(["from,trained,start", *lines, ""]))
    drawn: list[Any] = []
    monkeypatch.setattr("reltrust.reporting.report.plt.close", drawn.append)
    write(tmp_path, "madam_weights")
    shapes, distances, signs = drawn[0].axes
    lines = {line.get_label(): list(line.get_ydata()) for line in shapes.lines}
    assert lines["madam 0.01"] == [0.3, 0.3]  # of the last evaluation
    assert lines["at initialisation"] == [0.2, 0.2]
    assert [label.get_text() for label in distances.get_yticklabels()] == [
        "at initialisation",
        "adam 0.01",
        "madam 0.01",
    ]
    assert [float(line.get_xdata()[0]) for line in distances.lines] == pytest.approx([0.16, 0.14, 0.11])
    assert [float(line.get_xdata()[0]) for line in signs.lines] == [0.25, 0.0]
    (tmp_path / "runs").rename(tmp_path / "away")
    write(tmp_path, "madam_weights")
    assert [list(line.get_ydata()) for line in drawn[1].axes[0].lines[:2]] == [[0.2, 0.2], [0.3, 0.3]]
    plt.close("all")
