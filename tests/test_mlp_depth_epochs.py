"""The published protocol looked at early: curves of runs, and the verdicts in epochs 10 and 20."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reltrust.experiments.mlp_depth import figure

from reltrust.records.artifacts import read_curves, summary_path
from reltrust.records.store import Status, Store
from reltrust.records.summaries import collect
from reltrust.reporting import report
from reltrust.reporting.selection import describe, select
from reltrust.reporting.table import at_step
from reltrust.settings import Settings

Resolve = Callable[..., Settings]
CELLS = "Accuracies in epoch {}, by optimizer and depth"


def run_of(settings: Settings, curve: dict[int, float], status: Status = Status.FINISHED) -> None:
    """A record of a run with this training accuracy after each step."""
    record = Store(settings.machine.results).record(settings)
    record.begin(settings, "cpu")
    rows = [{"step": step, "train_accuracy": one, "train_loss": 1 - one, "lr": 0.1} for step, one in curve.items()]
    for row in rows:
        record.append(row)
    last = {key: value for key, value in rows[-1].items() if key not in ("step", "lr")}
    record.end(status, last if status is Status.FINISHED else {"diverged_at": max(curve) + 1, "seconds": 1.0})


def test_curves_are_collected_at_evaluations_and_replace_those_of_their_comparison(settings: Resolve) -> None:
    chosen = settings("training.log_every=30", "training.evaluate_every=60")
    results = chosen.machine.results
    run_of(chosen, {30: 0.1, 60: 0.2, 90: 0.3, 120: 0.4})
    collect(results, "mlp_depth", {})
    others = pd.DataFrame([{"comparison": "abcdef01", "run": "fromage/other", "step": 60, "train_accuracy": 0.9}])
    curves = read_curves(results, "mlp_depth")
    assert curves[["step", "train_accuracy"]].to_numpy().tolist() == [[60, 0.2], [120, 0.4]]

    pd.concat([curves, others]).to_csv(Path(results, "summaries", "mlp_depth-curves.csv"), index=False)
    diverging = settings("training.log_every=30", "training.evaluate_every=60", "seed=1")
    run_of(diverging, {30: 0.1, 60: 0.3, 90: 0.2}, Status.DIVERGED)
    collect(results, "mlp_depth", {})
    curves = read_curves(results, "mlp_depth")
    assert curves.groupby("comparison")["train_accuracy"].apply(list).tolist() in (
        [[0.9], [0.2, 0.4, 0.3]],
        [[0.2, 0.4, 0.3], [0.9]],
    )


def test_a_run_that_diverges_later_has_not_yet_and_one_without_a_curve_is_left_out() -> None:
    base = {"comparison": "abcdef01", "status": "finished", "train_accuracy": 0.9, "train_loss": 0.1, "lr": 0.1}
    base |= {"arm": "adam", "seed": 0}
    table = pd.DataFrame([
        {**base, "run": "early", "hidden_layers": 1, "status": "diverged", "diverged_at": 2_399},
        {**base, "run": "late", "hidden_layers": 2, "status": "diverged", "diverged_at": 2_401},
        {**base, "run": "never", "hidden_layers": 3},
        {**base, "run": "unknown", "hidden_layers": 4},
    ])  # fmt: skip
    curves = pd.DataFrame([
        {"comparison": "abcdef01", "run": run, "step": step, "train_accuracy": accuracy, "train_loss": 1 - accuracy}
        | {"lr": 0.07}  # what the schedule has made of it
        for run, step, accuracy in [("late", 2_400, 0.5), ("never", 2_400, 0.6), ("never", 4_800, 0.9)]
    ])  # fmt: skip
    without_curves = at_step(table, pd.DataFrame(columns=["comparison", "run", "step"]), figure.EPOCH_10)
    assert "train_accuracy" not in without_curves  # what there is, is of the end
    selection = select(at_step(table, curves, figure.EPOCH_10), figure.EPOCH_10, "paper20")
    assert describe(selection)[["hidden_layers", "mean"]].to_numpy().tolist() == [[1, 0.0], [2, 0.5], [3, 0.6]]
    # Regression: a run that had diverged before had no learning rate, and was compared with no other.
    assert describe(selection)["lr"].tolist() == [0.1] * 3
    assert len(selection.left_out) == 1
    assert "hidden_layers=4" in selection.left_out[0]


@pytest.fixture
def published_as_ours(tmp_path: Path) -> Path:
    """A table and curves of the authors' runs, at the depths and learning rates that ours have."""
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    grid = {"sgd_momentum": (10, 11, 12), "adam": (20, 21, 22, 23), "fromage": (20, 25, 27, 30)}
    place = {"comparison": "abcdef01"}
    for epoch, theirs in figure.AFTER.items():
        for one in theirs.itertuples(index=False):
            if epoch == 100 or one.hidden_layers not in grid[one.optimizer]:
                continue
            run = f"{one.optimizer}/depth{one.hidden_layers}-lr{one.lr}"
            measured = {"train_accuracy": one.train_accuracy, "train_loss": 1 - one.train_accuracy}
            curves.append({**place, "run": run, "step": 240 * epoch, **measured})
            if epoch == 20:
                row = {**place, "run": run, "optimizer": one.optimizer, "lr": one.lr, "seed": 0, **measured}
                row |= {"hidden_layers": one.hidden_layers, "status": "finished", "scale": "paper20", "steps": 4_800}
                row |= {"data": "mnist", "width": 784, "batch_size": 250, "init": "torch", "hyperparameters": "{}"}
                rows.append(row)
    (tmp_path / "summaries").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "summaries" / "mlp_depth.csv", index=False)
    pd.DataFrame(curves).to_csv(tmp_path / "summaries" / "mlp_depth-curves.csv", index=False)
    return tmp_path


def verdicts(results: Path) -> dict[str, tuple[str, str]]:
    (found,) = [one for one in report.evaluate(results, "mlp_depth", figure.REPORT) if one.scale == "paper20"]
    return {one.claim: (one.ours, str(one.verdict)) for one in found.judgements}


def test_the_authors_own_runs_reproduce_every_claim_about_them(published_as_ours: Path) -> None:
    found = verdicts(published_as_ours)
    assert {verdict for _, verdict in found.values()} == {"reproduced"}
    assert len(found) == 8
    # Epoch 20: SGD at 10 and 11, Adam at 22 and 23 stand beside a jump; epoch 10 has the same ones.
    assert [found[CELLS.format(epoch)][0] for epoch in (20, 10)] == ["7 of 7 cells, 4 more are at a break"] * 2
    text = report.write(published_as_ours, "mlp_depth")
    assert "mlp_depth-paper20-epochs.pdf" in text
    selected = pd.read_csv(published_as_ours / "summaries" / "mlp_depth-paper20-selected.csv")
    assert (selected["mean"] - selected["published"]).abs().max() < 1e-9


@pytest.mark.parametrize(("wrong", "verdict"), [(1, "partly"), (3, "partly"), (4, "not reproduced")])
def test_cells_further_away_than_their_neighbours_are_not_reproduced(
    published_as_ours: Path, wrong: int, verdict: str
) -> None:
    table = pd.read_csv(summary_path(published_as_ours, "mlp_depth"))
    cells = [("sgd_momentum", 12), ("fromage", 30), ("fromage", 25), ("adam", 20)][:wrong]
    for optimizer, depth in cells:
        here = (table["optimizer"] == optimizer) & (table["hidden_layers"] == depth)
        table.loc[here, "train_accuracy"] = 0.9 if optimizer != "adam" else 0.5
    table.to_csv(summary_path(published_as_ours, "mlp_depth"), index=False)
    assert verdicts(published_as_ours)[CELLS.format(20)] == (
        f"{7 - wrong} of 7 cells, 4 more are at a break",
        verdict,
    )


def test_the_depth_is_stated_with_the_share_of_seeds_that_train(published_as_ours: Path) -> None:
    table = pd.read_csv(summary_path(published_as_ours, "mlp_depth"))
    more = [table.assign(seed=seed, run=table["run"] + f"-seed{seed}") for seed in (1, 2)]
    more[0].loc[(more[0]["optimizer"] == "adam") & (more[0]["hidden_layers"] == 22), "train_accuracy"] = 0.1
    pd.concat([table, *more]).to_csv(summary_path(published_as_ours, "mlp_depth"), index=False)
    (adam,) = [ours for claim, (ours, _) in verdicts(published_as_ours).items() if claim.startswith("Adam trains up")]
    assert adam == "22 (seeds that train: 2 of 3 at 22, 0 of 3 at 23)"
