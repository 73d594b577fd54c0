"""Free probability: sampled networks and their theory, packed trainings, verdicts, refusals."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from reltrust.experiments.free_probability import figure, theory, verdicts
from reltrust.experiments.free_probability.analysis import Spectrum, activated, distance
from reltrust.experiments.free_probability.architectures import ARCHITECTURES, RATIOS, drawn, xavier

from reltrust.errors import SettingsError
from reltrust.records.identity import comparison_id
from reltrust.records.store import Status
from reltrust.records.summaries import collect
from reltrust.reporting import report
from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import Selection, select
from reltrust.settings import Settings
from runs import metrics, record_of, run, trained_alone_and_packed

Resolve = Callable[..., Settings]
WORDS = ["experiment=free_probability"]
TRAINING = [*WORDS, "scale=smoke_training"]
CPU = torch.device("cpu")


# --- architectures ---------------------------------------------------------------------------------------------------


def test_xaviers_variances_are_those_of_torch() -> None:
    widths, gain = [300, 500, 100], 1.7
    for (n, m), s in zip(itertools.pairwise(widths), xavier(widths, gain), strict=True):
        weight = torch.empty(m, n)
        torch.nn.init.xavier_normal_(weight, gain, generator=torch.Generator().manual_seed(0))
        assert n * float(weight.var()) == pytest.approx(s, rel=0.03)


def test_random_networks_are_within_their_limits_and_the_same_each_time() -> None:
    shapes = [drawn(number, 64, 10, 128) for number in range(20)]
    assert shapes == [drawn(number, 64, 10, 128) for number in range(20)]
    assert len({shape.ratios for shape in shapes}) > 15
    for shape in shapes:
        assert set(shape.ratios) <= set(RATIOS)
        assert all(10 <= width <= 128 for width in shape.widths(64)[1:])
    with pytest.raises(SettingsError, match=r"task.narrowest=5000: with task.widest=5000 and 64 inputs no random"):
        drawn(0, 64, 5_000, 5_000)


# --- spectra ---------------------------------------------------------------------------------------------------------


def analysis(settings: Resolve, *words: str) -> Spectrum:
    return Spectrum(settings(*WORDS, *words).task, 0, CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ["linear", "relu", "hard_tanh"])
def test_derivatives_of_activations_are_those_of_autograd(activation: Any) -> None:
    h = torch.linspace(-2.1, 2.1, 12, dtype=torch.float64, requires_grad=True)
    x, through = activated(h, activation)
    (gradient,) = torch.autograd.grad(x.sum(), h)
    assert torch.equal(through, gradient)


@pytest.mark.parametrize("network", ["contracting_relu", "waisted_hard_tanh", "expanding_linear"])
def test_sampled_networks_approach_theory_and_not_what_the_public_code_computes(
    settings: Resolve, network: str
) -> None:
    one = analysis(settings, f"task.network={network}", "task.width=200")
    sampled = np.sort(np.concatenate([one._sampled(number) for number in range(4)]))
    arguments = (one.widths, 1.0, ARCHITECTURES[network].activation)
    assert distance(theory.spectrum(*arguments), sampled) < 0.04
    assert distance(theory.as_in_the_public_code(*arguments), sampled) > 0.15


def test_where_all_widths_are_equal_the_public_code_is_right_but_for_hard_tanh() -> None:
    x = np.linspace(0.1, 1, 5)
    relu = [of([50] * 4, 1.2, "relu").density(x) for of in (theory.spectrum, theory.as_in_the_public_code)]
    assert relu[0] == pytest.approx(relu[1], rel=1e-9)
    tanh = [of([50] * 4, 1.2, "hard_tanh").masks for of in (theory.spectrum, theory.as_in_the_public_code)]
    assert tanh[0][0] == pytest.approx(tanh[1][0])
    assert tanh[0][2] < tanh[1][2] - 0.05  # fewer units are saturated where saturated ones count for nothing


def test_the_distance_is_kolmogorovs() -> None:
    law = theory.spectrum([100] * 2, 1.0, "linear")
    exact = law.quantiles((np.arange(200) + 0.5) / 200)
    assert distance(law, exact) == pytest.approx(0.5 / 200, abs=1e-6)
    half = np.concatenate([np.zeros(100), exact[100:]])
    assert distance(law, half) == pytest.approx(0.5 / 200, abs=1e-6)  # zeros are rounding, and below all places
    assert distance(law, np.concatenate([np.full(100, exact[100] - 1e-9), exact[100:]])) == pytest.approx(0.5, abs=0.01)


def test_a_run_logs_densities_and_an_interrupted_one_goes_on(settings: Resolve) -> None:
    chosen = settings(*WORDS, "task.networks=3")
    assert run(chosen) is Status.FINISHED
    rows, summary = metrics(chosen), record_of(chosen).summary
    assert [row["step"] for row in rows] == list(range(60))
    assert summary["uncertified"] == 0
    assert summary["mass"] == 0.5
    assert summary["mass_sampled"] == pytest.approx(0.5, abs=0.1)
    task: Any = chosen.task

    class Point:
        state: Any = None

        def reached(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
            kept.append({key: list(value) for key, value in state().items()})

    kept: list[dict[str, Any]] = []
    again, whole = Point(), Spectrum(task, 0, CPU).compute(lambda row: None, Point()).row
    again.state = kept[0]
    resumed = Spectrum(task, 0, CPU).compute(lambda row: None, again).row
    fixed = [key for key in whole if key != "times_as_fast"]
    assert [resumed[key] for key in fixed] == [whole[key] for key in fixed] == [summary[key] for key in fixed]


# --- trainings -------------------------------------------------------------------------------------------------------


def test_packed_trainings_measure_what_they_do_alone(settings: Resolve) -> None:
    chosen = [settings(*TRAINING, f"task.gain={gain}", f"seed={seed}") for seed, gain in enumerate((0.5, 1.0, 2.0))]
    alone, packed = trained_alone_and_packed(chosen, steps=50)
    for program, member in zip(alone, packed.state_dicts(), strict=True):
        assert torch.allclose(member["measured"], program.measured, rtol=1e-4, atol=1e-5)
    for program, measured in zip(alone, packed.evaluate(), strict=True):
        assert measured.row["test_loss"] == pytest.approx(program.evaluate()[0].row["test_loss"], rel=1e-4)


def test_a_run_knows_the_spectrum_of_its_start(settings: Resolve) -> None:
    chosen = settings(*TRAINING, "task.gain=2.0")
    assert run(chosen) is Status.FINISHED
    (quantile,) = theory.spectrum(drawn(0, 64, 10, 128).widths(64), 2.0, "relu").quantiles([0.9])
    assert record_of(chosen).summary["log_quantile"] == pytest.approx(np.log10(quantile + 0.01))


def test_settings_that_do_not_go_together_are_refused(settings: Resolve) -> None:
    refused = {
        ("task.network=drawn0",): "task.network=drawn0: must be one of linear, ",
        ("task.gain=0",): "task.gain=0: must be greater than 0",
        ("task.width=1",): "task.width=1: must be greater than or equal to 2",
        ("task.points=null",): "task.points=null: must be a number in an analysis",
        ("+task.widest=9",): "task.widest=9: must be null in an analysis",
        ("scale=smoke_training", "task.network=linear"): "task.network=linear: must be drawn and a number",
        ("scale=smoke_training", "task.narrowest=300"): "task.narrowest=300: must be at most task.widest=128",
        ("scale=smoke_training", "+task.points=9"): "task.points=9: must be null in a training",
        ("scale=smoke_training", "data=photographs"): "data=photographs",
    }
    for words, message in refused.items():
        with pytest.raises(SettingsError) as error:
            settings(*WORDS, *words)
        assert message in str(error.value), words


# --- verdicts --------------------------------------------------------------------------------------------------------


def of_spectra(**columns: list[float]) -> Selection:
    """Runs of the first architectures with these columns."""
    length = len(next(iter(columns.values())))
    about = {"status": "finished", "seed": 0, "lr": np.nan, "gain": 1.0, "points": 100, "width": 600}
    given: dict[str, Any] = {"distance": [0.01] * length, "distance_code": [0.5] * length, **columns}
    rows = [
        {**about, "network": name, **{key: own[i] for key, own in given.items()}}
        for i, name in enumerate(list(ARCHITECTURES)[:length])
    ]
    return select(pd.DataFrame(rows), verdicts.SPECTRA, "quick")


YES, PARTLY, NO = Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED


def test_spectra_are_judged_by_their_farthest() -> None:
    for distances, verdict in [([0.01, 0.03], YES), ([0.01, 0.04], PARTLY), ([0.05, 0.04], NO)]:
        assert verdicts.judge_spectra("distance", lambda name: True, of_spectra(distance=distances))[1] is verdict
    assert verdicts.judge_spectra("distance", lambda name: True, of_spectra(distance=[0.1])) == ("-", Verdict.NOT_RUN)
    uneven = [name for name in ARCHITECTURES if verdicts.uneven(name)]
    assert {"linear", "waisted_hard_tanh"} <= set(uneven)
    assert "deep_relu" not in uneven


def test_certificates_quantiles_and_speed_are_judged_by_the_worst() -> None:
    for missed, verdict in [([0, 0], YES), ([0, 1], PARTLY), ([0, 9], NO)]:
        assert verdicts.judge_certified(of_spectra(uncertified=[float(n) for n in missed]))[1] is verdict
    for found, verdict in [([1.0, 1.05], YES), ([1.0, 0.8], PARTLY), ([1.3, 0.8], NO)]:
        ours = of_spectra(quantile_90=found, quantile_90_sampled=[1.0, 1.0])
        assert verdicts.judge_quantiles(ours)[1] is verdict
    for ratios, verdict in [([3.0, 9.0], YES), ([2.0, 9.0], PARTLY), ([0.9, 9.0], NO)]:
        assert verdicts.judge_fast(of_spectra(times_as_fast=ratios))[1] is verdict


def of_trainings(quantiles: list[float], values: list[float], comparison: Any = verdicts.BY_LOSS) -> Selection:
    """One seed each of as many architectures."""
    rows = [
        {"status": "finished", "seed": 0, "lr": 0.01, "gain": 1.0, "network": f"drawn{i}", "run": str(i),
         "train_loss": value, "test_loss": value, "test_accuracy": value, "log_quantile": quantile}
        for i, (quantile, value) in enumerate(zip(quantiles, values, strict=True))
    ]  # fmt: skip
    return select(pd.DataFrame(rows), comparison, "quick_training")


def test_correlations_are_judged_by_their_intervals() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    for noise, strong, accurate in [(0.2, YES, YES), (1.0, PARTLY, PARTLY), (30.0, NO, NO)]:
        y = np.abs(x * 0.1 + 0.5 + 0.1 * noise * rng.normal(size=40))
        assert verdicts.judge_strong(of_trainings(x.tolist(), y.tolist()))[1] is strong
        y = np.clip(y, 0, 1)
        ours = of_trainings(x.tolist(), y.tolist(), verdicts.BY_ACCURACY)
        assert verdicts.judge_accuracy(ours)[1] is accurate
    assert verdicts.judge_strong(of_trainings([0.0] * 5, [1.0] * 5)) == ("-", Verdict.NOT_RUN)
    value, low, high = verdicts.correlated(x, np.exp(x), ranks=True)
    assert value == pytest.approx(1)
    assert low == pytest.approx(1)
    assert high == pytest.approx(1)


def test_hyperbolicity_is_where_the_best_networks_are() -> None:
    x = np.linspace(-2, 3, 40)
    for best, verdict in [(2.0, YES), (0.2, PARTLY), (-1.0, NO)]:
        ours = of_trainings(x.tolist(), (1 + np.abs(x - best)).tolist())
        assert verdicts.judge_hyperbolic(ours)[1] is verdict


def test_a_run_that_diverged_counts_with_the_spectrum_of_another_seed() -> None:
    rows = of_trainings([1.0, 2.0, 3.0], [0.1, 0.2, 0.3]).runs
    rows = pd.concat([rows, rows.assign(seed=1, status=["finished", "diverged", "finished"])], ignore_index=True)
    rows.loc[4, ["test_loss", "log_quantile"]] = np.nan
    table = verdicts.trained(select(rows, verdicts.BY_LOSS, "quick_training"))
    assert table[["log_quantile", "value"]].to_numpy().tolist() == [[1.0, 0.1], [2.0, (0.2 + 10) / 2], [3.0, 0.3]]


def test_the_figures_of_both_parts_are_drawn(settings: Resolve) -> None:
    scales = {}
    for chosen in (
        settings(*WORDS),
        settings(*WORDS, "task.network=waisted_hard_tanh"),
        settings(*TRAINING),
        settings(*TRAINING, "task.gain=0.5"),
    ):
        assert run(chosen) is Status.FINISHED
        scales[comparison_id(chosen)] = "smoke" if chosen.training is None else "smoke_training"
    results = chosen.machine.results
    collect(results, "free_probability", scales)
    told = report.write(results, "free_probability", "smoke")
    assert "left out" not in told
    names = {path.stem for path in Path(results, "figures").glob("*.png")}
    assert names == {"free_probability-smoke", "free_probability-smoke_training"}
    assert figure.REPORT.compared("quick") == [verdicts.SPECTRA]
