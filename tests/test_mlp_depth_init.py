"""The depth benchmark from two initialisations: the spread of its logits, its runs, its verdicts."""

import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from reltrust.experiments.mlp_depth_init import figure
from reltrust.experiments.mlp_depth_init.task import logits_of

from reltrust.models.mlp import MLP, Init
from reltrust.packing.runner import run_pack
from reltrust.records.identity import comparison_id
from reltrust.records.store import Status
from reltrust.reporting.claims import Verdict
from reltrust.reporting.report import write
from reltrust.reporting.selection import Selection, select
from reltrust.settings import Settings
from reltrust.sweeps.plan import plan
from runs import metrics, record_of, run, settings_of

Resolve = Callable[..., Settings]
Row = dict[str, Any]


def network(hidden_layers: int, init: Init = "torch", width: int = 64) -> MLP:
    torch.manual_seed(0)
    return MLP(width, width, hidden_layers, 10, init)


def images(n: int = 300, pixels: int = 64) -> torch.Tensor:
    return torch.randn(n, pixels, generator=torch.Generator().manual_seed(1))


# --- the spread ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["torch", "he"])
def test_spread_and_size_are_those_of_the_logits(init: Init) -> None:
    chosen, x = network(2, init), images()
    logits = chosen.double()(x.double()).detach()
    found = logits_of(chosen, x)
    assert found.spread == pytest.approx(math.sqrt(float(((logits - logits.mean(0)) ** 2).mean())), rel=1e-10)
    assert found.size == pytest.approx(math.sqrt(float((logits**2).mean())), rel=1e-12)


def test_images_that_are_one_image_have_no_spread() -> None:
    found = logits_of(network(2), images(1).expand(5, -1))
    assert found.spread == 0
    assert found.size > 1e-3


def test_the_spread_of_a_deep_network_is_not_that_of_roundings() -> None:
    # Regression against the standard deviation of the logits themselves, which at this depth differ by their last
    # digits alone, also in float64.
    deep, x = network(50), images()
    spread = logits_of(deep, x).spread
    assert math.log(spread) == pytest.approx(math.log(logits_of(network(5), x).spread) - 45 * 0.896, abs=3)
    assert float(deepcopy(deep).double()(x.double()).detach().std(0, correction=0).max()) > 30 * spread
    assert next(deep.parameters()).dtype is torch.float32  # the network is left as it was


@pytest.mark.parametrize(("init", "tolerance"), [("torch", 0.1), ("he", 0.1)])
def test_a_layer_multiplies_the_spread_as_derived(init: Init, tolerance: float) -> None:
    depths = [8, 16, 24, 32]
    spreads = [logits_of(network(depth, init, width=256), images(100, 256)).spread for depth in depths]
    assert figure.ln_factor(depths, spreads) == pytest.approx(figure.LN_FACTOR[init], abs=tolerance)


# --- it is the depth benchmark ---------------------------------------------------------------------------------------

WORDS = ("experiment=mlp_depth_init", "task.hidden_layers=3", "training.evaluate_every=60")


def test_runs_are_those_of_the_depth_benchmark_and_say_what_their_logits_were_like(settings: Resolve) -> None:
    own, theirs = settings(*WORDS, "task.init=he"), settings("task.hidden_layers=3", "task.init=he")
    assert run(own) is run(theirs) is Status.FINISHED
    added = {"init_spread", "init_size"}
    rows = metrics(own)
    assert [{key: value for key, value in row.items() if key not in added} for row in rows] == metrics(theirs)
    spreads = {row["init_spread"] for row in rows if "init_spread" in row}
    assert spreads == {record_of(own).summary["init_spread"]}  # before training, whenever it is asked


def test_runs_from_both_initialisations_are_packed_together_and_are_what_they_are_alone(
    settings: Resolve, tmp_path: Path
) -> None:
    def chosen(results: str) -> list[Settings]:
        return [settings(*WORDS, f"task.init={init}", f"machine.results={tmp_path / results}") for init in figure.INITS]

    together, alone = chosen("together"), chosen("alone")
    assert (
        run_pack(plan(together), max_members=None, memory_fraction=0.5, require_packing=True) == [Status.FINISHED] * 2
    )
    for packed, single in zip(together, alone, strict=True):
        run(single)
        assert record_of(packed).provenance["attempts"][-1]["members"] == 2
        for one, other in zip(metrics(packed), metrics(single), strict=True):
            assert one == pytest.approx(other, rel=1e-4)


def test_both_initialisations_stand_in_one_comparison_which_is_not_the_depth_benchmarks(settings: Resolve) -> None:
    ids = {comparison_id(settings("experiment=mlp_depth_init", f"task.init={init}")) for init in figure.INITS}
    assert len(ids) == 1
    assert comparison_id(settings()) not in ids


@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_a_scale_is_the_depth_benchmarks_but_for_its_evaluations(scale: str) -> None:
    own, theirs = (settings_of(f"experiment={name}", f"scale={scale}") for name in ("mlp_depth_init", "mlp_depth"))
    assert (own.task.width, own.data, own.schedule) == (theirs.task.width, theirs.data, theirs.schedule)  # type: ignore[attr-defined]
    assert own.training is not None
    assert theirs.training is not None
    assert (own.training.steps, own.training.batch_size) == (theirs.training.steps, theirs.training.batch_size)


# --- verdicts --------------------------------------------------------------------------------------------------------


def table(reached: dict[str, list[int]], factor: dict[str, float] | None = None) -> pd.DataFrame:
    """Runs of "adam he" and others at 2, 4 and 8 layers that train up to a depth, one for each seed."""
    rows: list[Row] = []
    for arm, deepest in reached.items():
        optimizer, init = arm.split()
        for seed, deep in enumerate(deepest):
            for depth in (2, 4, 8):
                accuracy = 0.9 if depth <= deep else 0.11
                rows.append(
                    {
                        "arm": optimizer,
                        "optimizer": optimizer,
                        "init": init,
                        "hidden_layers": depth,
                        "lr": 0.01,
                        "seed": seed,
                        "status": "finished",
                        "train_accuracy": accuracy,
                        "train_loss": 1 - accuracy,
                        "init_spread": math.exp(depth * (factor or figure.LN_FACTOR)[init]),
                    }
                )
    return pd.DataFrame(rows)


def selected(runs: pd.DataFrame) -> Selection:
    return select(runs, figure.DEPTHS, "quick")


def judged(text: str, runs: pd.DataFrame) -> tuple[str, Verdict]:
    (claim,) = [one for one in figure.REPORT.claims if text in one.text]
    found = claim.judged(selected(runs))
    return found.ours, found.verdict


def test_the_order_of_the_paper_is_judged_from_each_initialisation_alone() -> None:
    runs = table({"fromage torch": [8], "adam torch": [4], "fromage he": [4], "adam he": [8]})
    assert judged("deeper perceptrons than Adam, from torch", runs) == ("8 > 4 (n=1)", Verdict.REPRODUCED)
    assert judged("deeper perceptrons than Adam, from He", runs) == ("4 vs 8 (n=1)", Verdict.NOT_REPRODUCED)
    assert judged("deeper perceptrons than SGD (momentum 0.9), from He", runs) == ("-", Verdict.NOT_RUN)


@pytest.mark.parametrize(
    ("adam", "verdict"),
    [
        ([8], Verdict.REPRODUCED),
        ([4], Verdict.REPRODUCED),  # as deep is enough
        ([2], Verdict.NOT_REPRODUCED),
        ([4, 4], Verdict.REPRODUCED),
        ([8, 2], Verdict.PARTLY),  # as deep on average, not for every draw of seeds
    ],
)
def test_the_limit_is_judged_by_its_rule(adam: list[int], verdict: Verdict) -> None:
    runs = table({"fromage torch": [4] * len(adam), "adam he": adam})
    assert judged("Limit of the finding: Adam", runs)[1] is verdict


@pytest.mark.parametrize(
    ("slope", "verdict"),
    [
        (figure.LN_FACTOR["torch"], Verdict.REPRODUCED),
        (figure.LN_FACTOR["torch"] - 0.2, Verdict.PARTLY),
        (0.0, Verdict.NOT_REPRODUCED),
    ],
)
def test_the_spread_is_judged_by_its_slope(slope: float, verdict: Verdict) -> None:
    runs = table({"fromage torch": [4, 4], "adam torch": [4, 4]}, {"torch": slope})
    ours, found = judged("Why: a hidden layer multiplies the spread of the logits over inputs, from torch", runs)
    assert found is verdict
    assert ours.startswith(f"x {math.exp(slope):.3g} (n=2; ")


# --- the figure ------------------------------------------------------------------------------------------------------


def test_a_panel_has_the_runs_of_its_initialisation_under_their_optimizers_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = table({"fromage torch": [8], "adam torch": [4], "adam he": [8]}).drop(columns="arm")
    fixed = {"comparison": "0123abcd", "scale": "quick", "data": "digits", "width": 64, "batch_size": 50, "steps": 4800}
    runs = runs.assign(**fixed, hyperparameters=json.dumps({}), run=[f"run{n}" for n in range(len(runs))])
    (tmp_path / "summaries").mkdir()
    runs.to_csv(tmp_path / "summaries" / "mlp_depth_init.csv", index=False)
    drawn: list[Any] = []
    monkeypatch.setattr("reltrust.reporting.report.plt.close", drawn.append)
    assert "8 > 4 (n=1)" in write(tmp_path, "mlp_depth_init")
    torch_panel, he_panel, spread = drawn[0].axes
    lines = [{line.get_label(): list(line.get_ydata()) for line in axes.lines} for axes in (torch_panel, he_panel)]
    assert lines[0]["adam"] == [0.9, 0.9, 0.11]
    assert lines[1]["adam"] == [0.9, 0.9, 0.9]
    assert "fromage" not in lines[1]
    expected = [math.exp(depth * figure.LN_FACTOR["torch"]) for depth in (2, 4, 8)]
    assert list(spread.lines[0].get_ydata()) == pytest.approx(expected)
    plt.close("all")
