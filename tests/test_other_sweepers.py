"""A sweeper of Hydra's that is not ours: it gets the objective of each run, and what the store has is not run again."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins

from reltrust.records.store import Status, Store

Call = Callable[..., "subprocess.CompletedProcess[str]"]
SEARCH = (
    "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=10", "hydra.sweeper.n_jobs=1", "hydra.sweeper.sampler.seed=1",
    "hydra.sweeper.direction=minimize", "scale=smoke", "tracking=none", "machine.progress=false", "machine.device=cpu",
    "optimizer.lr=interval(0.001,1)", "objective=test_loss",
)  # fmt: skip


def _needs_optuna() -> None:
    if not any("Optuna" in plugin.__name__ for plugin in Plugins.instance().discover()):
        pytest.skip("hydra/sweeper=optuna is an extra")


def test_ten_trials_of_optuna_are_ten_runs_and_the_same_search_again_is_none(reltrust: Call, tmp_path: Path) -> None:
    _needs_optuna()
    first = reltrust(*SEARCH)
    assert first.returncode == 0, first.stderr
    records = list(Store("results").records())
    assert len(records) == 10
    best = min(record.summary["test_loss"] for record in records)
    found = (tmp_path / "optimization_results.yaml").read_text()
    assert f"best_value: {best}" in found
    again = reltrust(*SEARCH)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "optimization_results.yaml").read_text() == found
    assert {len(record.provenance["attempts"]) for record in Store("results").records()} == {1}


@pytest.mark.parametrize(("objective", "direction"), [("test_loss", "minimize"), ("test_accuracy", "maximize")])
def test_a_diverged_run_is_the_worst_trial_and_does_not_end_the_search(
    reltrust: Call, tmp_path: Path, objective: str, direction: str
) -> None:
    """Optuna's sweeper ends at a value that is not a number."""
    _needs_optuna()
    search = [word for word in SEARCH if not word.startswith(("hydra.sweeper.n_trials", "optimizer.lr", "objective"))]
    words = (f"objective={objective}", f"hydra.sweeper.direction={direction}", "hydra.sweeper.n_trials=4")
    ran = reltrust(*search, *words, "optimizer=sgd", "optimizer.lr=choice(0.01,1.0e30)")
    assert ran.returncode == 0, ran.stderr
    assert {record.status for record in Store("results").records()} == {Status.FINISHED, Status.DIVERGED}
    assert "optimizer.lr: 0.01" in (tmp_path / "optimization_results.yaml").read_text()


def test_an_objective_that_is_not_measured_is_refused_with_those_that_are(reltrust: Call) -> None:
    refused = reltrust("scale=smoke", "tracking=none", "objective=accuracy")
    assert refused.returncode == 2
    assert "error: objective=accuracy: not measured, allowed are " in refused.stderr
    assert "test_accuracy" in refused.stderr


def test_our_own_launchers_need_our_own_sweeper(reltrust: Call) -> None:
    refused = reltrust(*SEARCH, "launcher=processes")
    assert refused.returncode == 2
    assert "only launcher=serial goes with a sweeper other than hydra/sweeper=reltrust" in refused.stderr
