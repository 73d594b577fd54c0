"""Sample variance: the recursion against integration and finite width, packed trainings, verdicts, refusals."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from reltrust.experiments.sample_variance import theory, verdicts
from reltrust.experiments.sample_variance.analysis import Recording, SampleVariance
from torch import nn

from reltrust.errors import SettingsError
from reltrust.records.identity import comparison_id
from reltrust.records.store import Status
from reltrust.records.summaries import collect
from reltrust.reporting import report
from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import Selection, select
from reltrust.settings import Settings
from runs import metrics, program_of, run, trained_alone_and_packed

Resolve = Callable[..., Settings]
WORDS = ["experiment=sample_variance"]
CPU = torch.device("cpu")


# --- theory ----------------------------------------------------------------------------------------------------------


def integrated(c: float, of: Callable[[np.ndarray], np.ndarray]) -> float:
    """``E of(u) of(u')`` for normal u, u' of correlation c, by the trapezoid rule in polar coordinates of (u, v) with
    ``u' = c u + root(1 - c^2) v``: over the angles at which both are positive, where both functions are smooth."""
    # u = r cos t > 0 and u' = r cos(t - alpha) > 0 with alpha = arccos c, for t in (alpha - pi/2, pi/2).
    alpha = math.acos(c)
    t = np.linspace(alpha - math.pi / 2, math.pi / 2, 4_001)
    r = np.linspace(0, 12, 24_001)
    density = r * np.exp(-(r**2) / 2) / (2 * math.pi)
    inner = of(np.cos(t)) * of(np.cos(t - alpha))
    powers = r**2 if of(np.array([2.0])) == 2.0 else np.ones_like(r)
    return float(np.trapezoid(inner, t) * np.trapezoid(density * powers, r))


@pytest.mark.parametrize("c", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_the_maps_are_integrals_of_the_arc_cosine_kernel(c: float) -> None:
    forward = integrated(c, lambda u: u) / 0.5  # E relu(u)^2 = 1/2
    assert theory.next_correlation(c) == pytest.approx(forward, abs=1e-6)
    backward = integrated(c, np.ones_like) / 0.5
    assert theory.both_active(c) == pytest.approx(backward, abs=1e-6)


def test_the_recursion_is_below_its_asymptote_and_comes_near() -> None:
    ratios = [1 - c for c in theory.correlations(5_000)]
    assert ratios[0] == 1
    assert ratios[19] / theory.asymptotic(20) == pytest.approx(0.5, abs=0.05)
    assert ratios[49] / theory.asymptotic(50) == pytest.approx(0.7, abs=0.05)
    assert ratios[4_999] / theory.asymptotic(5_000) == pytest.approx(1, abs=0.02)


def test_gradients_of_the_first_layers_differ_and_those_of_the_last_hardly() -> None:
    ratios = theory.backward_ratios(50, 32)
    assert len(ratios) == 50
    assert ratios[0] == pytest.approx(1 - 1 / 32, abs=2e-3)
    assert all(after < before for before, after in itertools.pairwise(ratios))
    assert ratios[-1] == pytest.approx((1 - theory.both_active(theory.correlations(50)[-1])) * 31 / 32)


def analysis(settings: Resolve, *words: str) -> SampleVariance:
    return SampleVariance(settings(*WORDS, *words).task, 0, CPU)  # type: ignore[arg-type]


def test_finite_width_approaches_the_recursion_as_width_doubles(settings: Resolve) -> None:
    """The distance of the median ratio over 12 networks, forward and backward, meaned over 12 layers."""
    distances: dict[str, list[float]] = {"forward": [], "backward": []}
    for width in (32, 128, 512):
        one = analysis(settings, f"task.width={width}", "task.depth=12", "task.inputs=16")
        found = [one._network(number) for number in range(12)]
        for place, name in enumerate(distances):
            medians = np.median([network[place] for network in found], axis=0)
            expected = np.array(getattr(theory, f"{name}_ratios")(12, 16))
            distances[name].append(float(np.abs(np.log(medians / expected)).mean()))
    for name, own in distances.items():
        assert own[0] > own[1] > own[2], name
        assert own[2] < 0.05, name


# --- analysis --------------------------------------------------------------------------------------------------------


def test_the_ratios_are_those_of_the_definition(settings: Resolve) -> None:
    """Of pre-activations, and of autograd's gradients with respect to each sample's pre-activation."""
    one = analysis(settings, "task.width=16", "task.depth=3", "task.inputs=8")
    torch.manual_seed(0)
    layers = [nn.Linear(16, 16) for _ in range(3)]
    network = Recording(layers, batch_norm=False)
    x, readout = torch.randn(8, 16), torch.randn(16)
    output = network(x) @ readout
    z = layers[1](layers[0](x).relu())
    assert torch.allclose(network.normalised[1], z)
    (gradient,) = torch.autograd.grad(output.sum(), network.seen[1])
    expected = ((z > 0) * ((layers[2](z.relu()) > 0) * readout @ layers[2].weight)).detach()
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert len(one._network(0)[0]) == 3


def test_variance_and_squared_mean_add_up_to_the_mean_square_which_he_keeps(settings: Resolve) -> None:
    one = analysis(settings, "task.width=256", "task.depth=4", "task.inputs=64")
    totals = np.array([one._network(number)[2] for number in range(10)])
    assert totals.mean(0) == pytest.approx([2.0] * 4, rel=0.1)


@pytest.mark.parametrize("network", ["batch_norm", "unit_variance", "unit_variance_unseen"])
def test_normalised_networks_keep_their_sample_variance(settings: Resolve, network: str) -> None:
    one = analysis(settings, f"task.network={network}", "task.width=64", "task.depth=10", "task.inputs=32")
    forward, _, total = one._network(0)
    if network == "unit_variance_unseen":  # not exactly, of inputs on which it was not calibrated
        assert 0.5 < min(forward) < 0.99
    else:
        assert forward == pytest.approx([1.0] * 10, abs=1e-4)
        assert total == pytest.approx([1.0] * 10, rel=0.05)


def test_a_run_logs_a_row_a_layer_and_an_interrupted_one_goes_on(settings: Resolve) -> None:
    chosen = settings(*WORDS)
    assert run(chosen) is Status.FINISHED
    rows = metrics(chosen)
    assert [row["step"] for row in rows] == list(range(1, 7))
    task: Any = chosen.task

    class Point:
        state: Any = None

        def reached(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
            kept.append({key: list(value) for key, value in state().items()})

    kept: list[dict[str, Any]] = []
    first, again = Point(), Point()
    whole: list[Any] = []
    row = SampleVariance(task, 0, CPU).compute(whole.append, first).row
    again.state = kept[0]
    assert SampleVariance(task, 0, CPU).compute(lambda row: None, again).row == row
    assert whole == rows


# --- trainings -------------------------------------------------------------------------------------------------------

TRAINING = [*WORDS, "scale=smoke_training"]


@pytest.mark.parametrize("network", ["he", "batch_norm", "unit_variance"])
def test_packed_trainings_measure_what_they_do_alone(settings: Resolve, network: str) -> None:
    words = [*TRAINING, f"task.network={network}", "task.width=16", "task.depth=6"]
    chosen = [settings(*words, f"optimizer.lr={lr}", f"seed={seed}") for seed, lr in enumerate((0.1, 0.03, 0.3))]
    alone, packed = trained_alone_and_packed(chosen, steps=30)
    for program, member in zip(alone, packed.state_dicts(), strict=True):
        assert torch.allclose(member["measured"], program.measured, rtol=1e-4, atol=1e-5)
    for program, measured in zip(alone, packed.evaluate(), strict=True):
        assert measured.row["test_loss"] == pytest.approx(program.evaluate()[0].row["test_loss"], rel=1e-4)


def test_the_beginnings_differ_as_they_say(settings: Resolve) -> None:
    """He and BatchNorm start from the same weights; unit sample variance from the same directions."""
    tasks = {
        name: program_of(settings(*TRAINING, f"task.network={name}")).task
        for name in ("he", "batch_norm", "unit_variance")
    }
    weights = {name: list(task.module.parameters()) for name, task in tasks.items()}
    assert all(torch.equal(a, b) for a, b in zip(weights["he"], weights["batch_norm"], strict=True))
    ratios = weights["unit_variance"][0] / weights["he"][0]
    assert torch.allclose(ratios, ratios[:, :1].expand_as(ratios), rtol=1e-4)
    he: Any = tasks["unit_variance"]
    outputs = he.outputs(he.data.train.images[:500])
    assert torch.allclose(outputs.var(0, correction=0), torch.ones(10), atol=1e-3)
    assert torch.allclose(outputs.mean(0), torch.zeros(10), atol=1e-3)


def test_settings_that_do_not_go_together_are_refused(settings: Resolve) -> None:
    refused = {
        ("task.depth=0",): "task.depth=0: must be greater than or equal to 2",
        ("task.width=0",): "task.width=0: must be greater than or equal to 1",
        ("task.inputs=9",): "task.inputs=9: must be at most 8, half of task.width",
        ("task.networks=null",): "task.networks=null: must be a number in an analysis",
        ("scale=smoke_training", "+task.inputs=5"): "task.inputs=5: must be null in a training",
        ("scale=smoke_training", "data=photographs"): "data=photographs",
        ("scale=smoke_training", "task.network=unit_variance_unseen"): "must be he, batch_norm or unit_variance",
        ("scale=smoke_training", "task.network=batch_norm", "trainer.accumulate=2"): "trainer.accumulate=2: must be 1",
    }
    for words, message in refused.items():
        with pytest.raises(SettingsError) as error:
            settings(*WORDS, *words)
        assert message in str(error.value), words


# --- verdicts --------------------------------------------------------------------------------------------------------


def of_layers(ratios: dict[tuple[str, int], list[float]]) -> Selection:
    """Runs of (network, width) whose layers have these medians."""
    about = {"status": "finished", "seed": 0, "arm": "analysis", "lr": np.nan, "inputs": 32, "networks": 20}
    runs = [
        {**about, "network": network, "width": width, "run": f"{network}{width}", "forward_p50": own[-1]}
        for (network, width), own in ratios.items()
    ]
    curves = [
        {"run": f"{network}{width}", "step": layer, "forward_p50": ratio}
        for (network, width), own in ratios.items()
        for layer, ratio in enumerate(own, 1)
    ]
    found = select(pd.DataFrame(runs), verdicts.BY_WIDTH, "quick")
    return Selection(found.comparison, found.scale, found.runs, found.best, found.left_out, pd.DataFrame(curves))


def test_decay_is_judged_at_the_greatest_width() -> None:
    expected = theory.forward_ratios(50, 32)
    off = [1.5 * ratio for ratio in expected]
    for own, verdict in [
        (expected, Verdict.REPRODUCED),
        (off, Verdict.PARTLY),
        ([0.9] * 50, Verdict.NOT_REPRODUCED),
    ]:
        assert verdicts.judge_decay(of_layers({("he", 64): [0.9] * 50, ("he", 256): own}))[1] is verdict
    assert verdicts.judge_decay(of_layers({("batch_norm", 64): expected})) == ("-", Verdict.NOT_RUN)


def test_width_approaches_theory_if_every_wider_network_is_nearer() -> None:
    expected = theory.forward_ratios(50, 32)

    def times(*factors: float) -> Selection:
        return of_layers({("he", 64 * 4**i): [f * r for r in expected] for i, f in enumerate(factors)})

    assert verdicts.judge_width(times(2.0, 1.5, 1.1))[1] is Verdict.REPRODUCED
    assert verdicts.judge_width(times(1.5, 2.0, 1.1))[1] is Verdict.PARTLY
    assert verdicts.judge_width(times(1.1, 1.5, 2.0))[1] is Verdict.NOT_REPRODUCED
    assert verdicts.judge_width(times(1.1)) == ("-", Verdict.NOT_RUN)


def test_variance_is_kept_if_it_is_at_the_end_at_every_width() -> None:
    for ends, verdict in [
        ((0.95, 1.0), Verdict.REPRODUCED),
        ((0.6, 1.0), Verdict.PARTLY),
        ((0.95, 0.1), Verdict.NOT_REPRODUCED),
    ]:
        ours = of_layers({("batch_norm", 64 * (i + 1)): [1.0, end] for i, end in enumerate(ends)})
        assert verdicts.judge_kept("batch_norm", ours)[1] is verdict


def test_a_lower_loss_and_an_impact_are_judged_by_the_interval_over_seeds() -> None:
    def judged(he: list[float], own: list[float]) -> tuple[Verdict, Verdict]:
        rows = [
            {"network": network, "arm": "sgd", "depth": 20, "lr": 0.1, "seed": seed, "status": "finished",
             "train_loss": loss, "test_loss": loss}
            for network, losses in (("he", he), ("unit_variance", own))
            for seed, loss in enumerate(losses)
        ]  # fmt: skip
        ours = select(pd.DataFrame(rows), verdicts.AT_END, "quick_training")
        return verdicts.judge_lower("unit_variance", ours)[1], verdicts.judge_impact("unit_variance", ours)[1]

    yes, partly, no = Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED
    assert judged([1.0, 1.1, 1.2], [0.5, 0.6, 0.4]) == (yes, yes)
    assert judged([1.0, 0.5, 1.2], [0.9, 0.6, 1.1]) == (partly, no)
    assert judged([0.5, 0.6, 0.4], [1.0, 1.1, 1.2]) == (no, yes)


def test_the_figures_of_both_parts_are_drawn(settings: Resolve) -> None:
    scales = {}
    for network in ("he", "batch_norm", "unit_variance"):
        chosen = settings(*WORDS, f"task.network={network}")
        trained = settings(*TRAINING, f"task.network={network}")
        assert run(chosen) is run(trained) is Status.FINISHED
        scales |= {comparison_id(chosen): "smoke", comparison_id(trained): "smoke_training"}
    results = chosen.machine.results
    collect(results, "sample_variance", scales)
    told = report.write(results, "sample_variance", "smoke")
    assert "left out" not in told
    names = {path.stem for path in Path(results, "figures").glob("*.png")}
    assert names == {"sample_variance-smoke", "sample_variance-smoke_training"}
