"""Vanishing curvature: closed forms against Monte Carlo and autograd, packed trainings, verdicts, refusals."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from reltrust.experiments.vanishing_curvature import chains, fits, theory, verdicts
from reltrust.experiments.vanishing_curvature.analysis import Initialisation, log_statistics
from reltrust.experiments.vanishing_curvature.architectures import ARCHITECTURES, CHAINS
from reltrust.experiments.vanishing_curvature.networks import draw_weights, forward
from torch import Tensor

from reltrust.errors import SettingsError
from reltrust.records.identity import comparison_id
from reltrust.records.store import Status
from reltrust.records.summaries import collect
from reltrust.reporting import report
from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import Selection, select
from reltrust.settings import Settings
from runs import metrics, program_of, record_of, run, trained_alone_and_packed

Resolve = Callable[..., Settings]
WORDS = ["experiment=vanishing_curvature"]


def monte_carlo(samples: Tensor) -> tuple[float, float]:
    """Mean, and three of its standard errors."""
    return float(samples.mean()), 3 * float(samples.std()) / len(samples) ** 0.5


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CHAINS)
def test_the_log_mean_of_a_weight_is_the_closed_form(kind: str) -> None:
    weights = chains.draw_chains(kind, 200_000, 1, drawn())
    assert float(weights.square().mean()) == pytest.approx(1, abs=0.02)
    mean, within = monte_carlo(weights.abs().log().flatten())
    assert abs(mean - theory.LOG_WEIGHT[kind]) <= within


def test_digamma_of_halves_is_its_series() -> None:
    for n in (1, 2, 3, 8, 31):
        expected = float(torch.digamma(torch.tensor(n / 2, dtype=torch.float64)))
        assert theory.digamma_of_half(n) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("width", [1, 2, 8, 33])
@pytest.mark.parametrize("relu", [True, False])
def test_the_log_growth_of_a_layer_is_the_closed_form(width: int, relu: bool) -> None:
    """In a ReLU layer given that one unit at least is alive; h is any direction."""
    h = torch.randn(width, generator=drawn(), dtype=torch.float64)
    out = torch.randn(20_000, width, width, generator=drawn(1), dtype=torch.float64) @ (h / h.norm())
    norms = (out.relu() if relu else out).norm(dim=1)
    mean, within = monte_carlo(2 * norms[norms > 0].log())
    assert abs(mean - theory.log_growth(width, relu=relu)) <= within


def test_hes_rate_is_about_minus_five_over_two_widths() -> None:
    for width in (64, 256):
        rate = theory.log_growth(width, relu=True) + math.log(2 / width)
        assert rate == pytest.approx(-5 / (2 * width), rel=4 / width)
        linear = theory.log_growth(width, relu=False) + math.log(1 / width)
        assert linear == pytest.approx(theory.digamma_of_half(width) + math.log(2 / width), abs=1e-12)


@pytest.mark.parametrize("name", ["he", "he_root", "he_proportional", "xavier", "linear", "linear_proportional"])
def test_the_gradient_of_a_whole_network_has_the_closed_forms_mean(name: str, settings: Resolve) -> None:
    words = [*WORDS, f"task.network={name}", "task.depth=6", "task.width=6", "task.networks=4000", "task.hessians=1"]
    analysis = Initialisation(settings(*words).task, 3, torch.device("cpu"))  # type: ignore[arg-type]
    weights, x, _ = analysis._drawn(4_000, 0)
    gradients = analysis._gradients(weights, x)
    mean, within = monte_carlo(gradients[gradients > 0].log())
    assert abs(mean - theory.log_gradient(ARCHITECTURES[name], 6, 6)) <= within


def test_theory_says_nothing_of_networks_that_it_is_not_of() -> None:
    for name in ("batch_norm", "residual"):
        with pytest.raises(ValueError, match="the theory is of plain networks"):
            theory.log_gradient(ARCHITECTURES[name], 8, 8)


# --- chains ----------------------------------------------------------------------------------------------------------

WEIGHTS = chains.draw_chains("chain_normal", 20, 5, drawn(4))


def test_a_chains_gradient_and_hessian_are_autograds() -> None:
    def loss(w: Tensor) -> Tensor:
        return (w.prod() - 1).square() / 2

    for w in WEIGHTS:
        gradient = torch.autograd.functional.jacobian(lambda w: w.prod(), w)
        assert torch.allclose(chains.without(w), gradient, rtol=0, atol=1e-12)
        expected = torch.autograd.functional.hessian(loss, w)
        assert torch.allclose(chains.hessian(w), expected, rtol=0, atol=1e-12)


def test_the_time_of_gradient_flow_is_that_of_small_steps() -> None:
    """Runge and Kutta's, of fourth order; chains with f < 0 go through zero on their way, and some start above 1."""
    w, times = WEIGHTS.clone(), torch.full((len(WEIGHTS),), math.inf, dtype=torch.float64)
    expected, begun, h = chains.flow_time(WEIGHTS), (WEIGHTS.prod(-1) - 1).square(), 2e-3

    def velocity(w: Tensor) -> Tensor:
        return (1 - w.prod(-1, keepdim=True)) * chains.without(w)

    for step in range(1, 4_000):
        k1 = velocity(w)
        k2 = velocity(w + h / 2 * k1)
        k3 = velocity(w + h / 2 * k2)
        w = w + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(w + h * k3))
        left = ((w.prod(-1) - 1).square() <= chains.LEFT * begun) & times.isinf()
        times[left] = step * h
    reached = times.isfinite()
    assert int(reached.sum()) >= 15
    assert (WEIGHTS.prod(-1)[reached] < 0).any()
    assert (times - expected)[reached].abs().max() <= 2 * h
    assert (expected[~reached] >= 7.9).all()


@pytest.mark.parametrize("depth", [10, 20])
def test_a_balanced_chain_stays_for_the_closed_form_over_curvature(depth: int) -> None:
    w = torch.full((1, depth), 0.3, dtype=torch.float64)
    curvature = -float(torch.linalg.eigvalsh(chains.hessian(w))[0, 0])
    assert curvature == pytest.approx((depth - 1) * 0.3 ** (depth - 2), rel=1e-4)
    found = float(chains.flow_time(w))
    assert found == pytest.approx(theory.balanced_escape_time(depth, curvature), rel=1e-3)


@pytest.mark.parametrize("start", [0.05, 0.2, 0.4])
def test_sign_descent_stays_for_a_distance_and_not_for_a_curvature(start: float) -> None:
    """All weights grow by one from ``start`` to where f is 1 - sqrt(0.9), whatever the curvature: 1e-7 to 1e-1."""
    depth = 10
    w = torch.full((1, depth), start, dtype=torch.float64)
    needed = (1 - math.sqrt(chains.LEFT) * (1 - start**depth)) ** (1 / depth) - start
    for direction in (torch.sign, chains.rms_direction):  # the same for equal weights
        assert float(chains.speed_time(w, direction)) == pytest.approx(needed, abs=2e-3)


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["he", "batch_norm", "residual"])
def test_a_stack_of_networks_computes_what_each_does_alone(name: str) -> None:
    weights = draw_weights(ARCHITECTURES[name], count=3, depth=4, width=6, inputs=5, outputs=2, generator=drawn())
    x = torch.randn(3, 7, 5, generator=drawn(1), dtype=torch.float64)
    together = forward(ARCHITECTURES[name], weights, x)
    for k in range(3):
        h, scale = x[k] @ weights[0][k].T, 4**-0.5
        for w in weights[1:]:
            z = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt() if name == "batch_norm" else h
            out = z.relu() @ w[k].T
            h = h + scale * out if name == "residual" and w is not weights[-1] else out
        assert torch.allclose(together[k], h, rtol=0, atol=1e-12)


def test_an_analysis_in_parts_is_the_analysis(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on from where it was, group by group."""
    from reltrust.experiments.vanishing_curvature import analysis as module

    monkeypatch.setattr(module, "_GROUP_WEIGHTS", 4 * 8 * 8 * 4)  # four networks a group
    task: Any = settings(*WORDS).task

    class Point:
        def __init__(self, state: dict[str, Any] | None) -> None:
            self.state = state
            self.kept: list[dict[str, Any]] = []

        def reached(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
            self.kept.append({key: value if isinstance(value, int) else list(value) for key, value in state().items()})

    whole = Point(None)
    row = Initialisation(task, 0, torch.device("cpu")).compute(lambda row: None, whole).row
    assert len(whole.kept) == 3
    again = Initialisation(task, 0, torch.device("cpu")).compute(lambda row: None, Point(whole.kept[1])).row
    assert again == row
    assert row["gradient_n"] == 10
    assert row["curvature_n"] == 3


def test_dead_networks_are_counted_apart() -> None:
    row = log_statistics("x", [0.0, math.e, math.e**3, 0.0])
    assert (row["x_n"], row["x_dead"], row["x_mean"], row["x_p50"]) == (2, 0.5, 2, 2)
    assert log_statistics("x", [0.0]) == {"x_n": 0, "x_dead": 1}


# --- trainings -------------------------------------------------------------------------------------------------------

TRAINING = [*WORDS, "scale=quick_training", "task.depth=6", "training.steps=60", "training.log_every=60"]
TRAINING += ["training.evaluate_every=60"]
ARMS = [("sgd", 0.1), ("sgd_momentum", 0.03), ("rmsprop", 0.003), ("adam", 0.01), ("fromage", 0.01), ("madam", 0.03)]


@pytest.mark.parametrize("width", [16, 6])  # a multiple of the CPU's vectors, and none
def test_packed_trainings_measure_what_they_do_alone(settings: Resolve, width: int) -> None:
    chosen = [
        settings(*TRAINING, f"task.width={width}", f"optimizer={name}", f"optimizer.lr={lr}", f"seed={seed}")
        for seed, (name, lr) in enumerate(ARMS)
    ]
    alone, packed = trained_alone_and_packed(chosen, steps=30)
    for one, program, member in zip(chosen, alone, packed.state_dicts(), strict=True):
        measured, expected = member["measured"], program.measured
        assert measured[:30, 0].tolist() == pytest.approx(expected[:30, 0].tolist(), rel=1e-4), one.optimizer
        assert torch.equal(measured[:30, 1], expected[:30, 1])
        assert member["model"].keys() == program.task.module.state_dict().keys()
    assert [program.evaluate()[0].row["log_curvature"] for program in alone] == [
        measured.row["log_curvature"] for measured in packed.evaluate()
    ]


def test_the_share_of_steps_on_the_plateau_is_that_of_the_losses(settings: Resolve) -> None:
    chosen = settings(*TRAINING, "optimizer=adam", "optimizer.lr=0.01")
    program = program_of(chosen)
    for step in range(60):
        program.training_step(step, [1.0])
    losses = program.measured[:, 0]
    left: Any = program.task
    expected = float((losses >= 0.9 * left.start_loss).float().mean())
    row = program.fetch_window(60)[0].means
    assert row["plateau_share"] == pytest.approx(expected, abs=1e-6)
    assert 0 < expected < 1


def test_the_curvature_at_the_start_is_that_of_a_dense_hessian(settings: Resolve) -> None:
    task: Any = program_of(settings(*TRAINING, "task.depth=2", "task.width=2")).task
    images, labels = task.data.train.images[:500].double(), task.data.train.labels[:500]
    shapes = [weight.shape for weight in task.module]

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        first, last = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        return torch.nn.functional.cross_entropy((images @ first.T).relu() @ last.T, labels)

    flat = torch.cat([weight.detach().double().flatten() for weight in task.module])
    eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))
    assert task.log_curvature == pytest.approx(float(eigenvalues.abs().max().log()), abs=0.01)
    assert task.start_loss == pytest.approx(float(loss(flat)), abs=1e-5)


def test_an_analysis_and_a_training_of_one_experiment_are_recorded(settings: Resolve) -> None:
    for words in ([], ["scale=smoke_chains"], ["scale=smoke_training", "optimizer=rmsprop"]):
        chosen = settings(*WORDS, *words)
        assert run(chosen) is Status.FINISHED
        assert record_of(chosen).summary["seconds"] >= 0
    assert [row["step"] for row in metrics(chosen)] == [50]


def test_settings_that_do_not_go_together_are_refused(settings: Resolve) -> None:
    refused = {
        ("task.depth=0",): "task.depth=0: must be greater than or equal to 2",
        ("task.width=0",): "task.width=0: must be greater than or equal to 1",
        ("task.hessians=11",): "task.hessians=11: must be at most task.networks=10",
        ("task.inputs=null",): "task.inputs=null: must be a number in an analysis",
        ("scale=smoke_chains", "task.width=2"): "task.width=2: must be 1 for task.network=chain_normal",
        ("scale=smoke_chains", "task.depth=2"): "task.depth=2: must be at least 3 for task.network=chain_normal",
        ("scale=smoke_training", "task.network=residual"): "task.network=residual: must be a plain one to be trained",
        ("scale=smoke_training", "+task.networks=5"): "task.networks=5: must be null in a training",
        ("scale=smoke_training", "data=photographs"): "data=photographs",
    }
    for words, message in refused.items():
        with pytest.raises(SettingsError) as error:
            settings(*WORDS, *words)
        assert message in str(error.value), words


# --- verdicts --------------------------------------------------------------------------------------------------------


def analysed(network: str, slope: float, *, std: float = 1.0, name: str = "gradient") -> list[dict[str, Any]]:
    """Rows of a network whose mean logarithm has this slope in depth."""
    rows = []
    for depth in (4, 8, 16, 32):
        mean = slope * depth
        values = {f"{name}_mean": mean, f"{name}_std": std, f"{name}_n": 100.0, f"{name}_p50": mean}
        rows.append({"network": network, "depth": depth, "width": 16, "gradient_mean": mean, **values})
    return rows


def selection(rows: list[dict[str, Any]], comparison: Any = verdicts.GRADIENT, scale: str = "quick") -> Selection:
    table = pd.DataFrame(rows)
    defaults = {"status": "finished", "seed": 0, "arm": "analysis", "lr": np.nan}
    return select(
        table.assign(**{key: value for key, value in defaults.items() if key not in table}), comparison, scale
    )


def test_the_slope_of_means_has_its_standard_error() -> None:
    rows = pd.DataFrame(analysed("he", -0.1))
    slope = fits.slope_of_means(rows, "gradient")
    centred = rows["depth"] - rows["depth"].mean()
    assert slope.value == pytest.approx(-0.1, abs=1e-12)
    assert slope.high - slope.low == pytest.approx(2 * 1.96 * 0.1 / math.sqrt((centred**2).sum()))


def test_vanishing_is_a_slope_below_zero_in_every_network() -> None:
    for slopes, verdict in [
        ((-0.1, -0.2), Verdict.REPRODUCED),
        ((-0.1, 0.0), Verdict.PARTLY),
        ((0.0, 0.1), Verdict.NOT_REPRODUCED),
    ]:
        rows = [row for name, slope in zip(("he", "xavier"), slopes, strict=True) for row in analysed(name, slope)]
        assert verdicts.judge_vanishing(("he", "xavier"), "gradient", selection(rows))[1] is verdict
    assert verdicts.judge_vanishing(("he", "linear"), "gradient", selection(rows)) == ("-", Verdict.NOT_RUN)


def test_cured_is_a_slope_that_zero_is_within_the_interval_of() -> None:
    for slopes, verdict in [
        ((0.005, -0.005), Verdict.REPRODUCED),
        ((0.0, 0.2), Verdict.PARTLY),
        ((-0.1, 0.2), Verdict.NOT_REPRODUCED),
    ]:
        rows = [row for name, s in zip(("residual", "batch_norm"), slopes, strict=True) for row in analysed(name, s)]
        assert verdicts.judge_flat(("residual", "batch_norm"), selection(rows))[1] is verdict


def test_means_are_theorys_within_three_standard_errors() -> None:
    rows = analysed("he", 0.0)
    for row in rows:
        row["gradient_mean"] = theory.log_gradient(ARCHITECTURES["he"], 16, row["depth"])
    assert verdicts.judge_theory(selection(rows))[1] is Verdict.REPRODUCED
    rows[0]["gradient_mean"] += 0.31  # of 0.1
    text, verdict = verdicts.judge_theory(selection(rows))
    assert text.startswith("3 of 4 within 3 standard errors, the farthest 3.1")
    assert verdict is Verdict.PARTLY


def test_a_saddle_is_as_negative_as_it_is_positive() -> None:
    def rows(bottom: float) -> list[dict[str, Any]]:
        return [{**row, "top_p50": 0.0, "bottom_p50": bottom, "bottom_n": 20.0} for row in analysed("he", -1.0)]

    assert verdicts.judge_saddle(("he",), selection(rows(math.log(0.6))))[1] is Verdict.REPRODUCED
    assert verdicts.judge_saddle(("he",), selection(rows(math.log(0.4))))[1] is Verdict.NOT_REPRODUCED


def test_flows_are_judged_by_how_their_times_depend_on_curvature() -> None:
    def rows(flow: float, sign: float) -> list[dict[str, Any]]:
        found = []
        for chain in CHAINS:
            for row in analysed(chain, -1.0, name="curvature"):
                log = row["curvature_p50"]
                times = {"flow_time_p50": flow * log, "sign_time_p50": sign * log, "rms_time_p50": 0.0}
                found.append({**row, **times})
        return found

    assert verdicts.judge_flows(selection(rows(-1.0, -0.05)))[1] is Verdict.REPRODUCED
    assert verdicts.judge_flows(selection(rows(-0.7, -0.2)))[1] is Verdict.PARTLY
    assert verdicts.judge_flows(selection(rows(-0.7, -0.6)))[1] is Verdict.NOT_REPRODUCED
    assert verdicts.judge_flows(selection(rows(-1.0, 0.0)[:4])) == ("-", Verdict.NOT_RUN)


def trained(arm: str, slope: float, steps: float) -> list[dict[str, Any]]:
    """Runs of 3 seeds at 3 depths whose steps on the plateau go with this power of the curvature, ``steps`` at most."""
    rows = []
    for depth in (8, 12, 16):
        for seed in (0, 1, 2):
            log_curvature = -depth / 4 - 0.1 * seed
            share = steps * math.exp(slope * (log_curvature + 4.2)) / 10_000
            row = {"arm": arm, "lr": 0.1, "depth": depth, "seed": seed, "status": "finished", "steps": 10_000}
            rows.append(row | {"plateau_share": share, "train_loss": 0.0, "log_curvature": log_curvature})
    return rows


def test_sgd_is_judged_by_the_power_of_curvature_and_others_beside_it() -> None:
    def judged(sgd: float, adam: float, steps: float) -> tuple[Verdict, Verdict]:
        ours = selection([*trained("sgd", sgd, 5_000), *trained("adam", adam, steps)], verdicts.PLATEAU)
        return verdicts.judge_sgd(ours)[1], verdicts.judge_fast("adam", ours)[1]

    assert judged(-1.0, -0.1, 100) == (Verdict.REPRODUCED, Verdict.REPRODUCED)
    assert judged(-0.3, -0.4, 100) == (Verdict.PARTLY, Verdict.PARTLY)
    assert judged(0.1, 0.0, 5_000) == (Verdict.NOT_REPRODUCED, Verdict.NOT_REPRODUCED)
    only = selection(trained("sgd", -1.0, 100), verdicts.PLATEAU)
    assert verdicts.judge_fast("adam", only) == ("-", Verdict.NOT_RUN)


def test_a_diverged_run_counts_with_all_its_steps() -> None:
    rows = trained("sgd", -1.0, 5_000)
    rows[0] |= {"status": "diverged", "plateau_share": np.nan, "log_curvature": np.nan}
    ours = selection(rows, verdicts.PLATEAU)
    assert len(verdicts.escapes(ours, "sgd")) == len(rows) - 1  # nobody knows the curvature that it began with
    ours = selection([*rows, *trained("adam", -0.1, 100)], verdicts.PLATEAU)
    found = verdicts.escapes(ours, "sgd")
    assert float(found["log_steps"].max()) == pytest.approx(math.log(10_000))
    assert len(found) == len(rows)
    assert found["log_curvature"].notna().all()


def test_the_figures_of_all_parts_are_drawn_for_the_scale_whose_sweep_they_belong_to(settings: Resolve) -> None:
    parts = {
        "smoke": [["task.depth=4"], ["task.depth=8"]],
        "smoke_chains": [[f"task.network={chain}", f"task.depth={depth}"] for chain in CHAINS for depth in (4, 8)],
        "smoke_training": [["task.depth=3"], ["task.depth=4"]],
    }
    scales = {}
    for scale, runs in parts.items():
        for words in runs:
            chosen = settings(*WORDS, f"scale={scale}", *words)
            assert run(chosen) is Status.FINISHED
            scales[comparison_id(chosen)] = scale
    results = chosen.machine.results
    collect(results, "vanishing_curvature", scales)
    told = report.write(results, "vanishing_curvature", "smoke")
    assert "left out" not in told
    names = {path.stem for path in Path(results, "figures").glob("*.png")}
    assert names == {f"vanishing_curvature-{scale}" for scale in parts}
    selected = pd.read_csv(Path(results, "summaries", "vanishing_curvature-smoke-selected.csv"))
    assert selected[["network", "depth", "n"]].to_numpy().tolist() == [["he", 4, 1], ["he", 8, 1]]
