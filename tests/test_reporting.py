"""From a table of runs to a verdict: which learning rate is chosen, what counts as trained, what may be claimed."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from reltrust.reporting import style
from reltrust.reporting.analysis import Accuracies, bootstrap_difference, describe, load, select_lr, trainable_depth
from reltrust.reporting.verdicts import Judgement, Verdict, as_text, judge_grid_value, judge_order


def runs(*rows: tuple[str, int, float, int, float], losses: list[float] | None = None) -> pd.DataFrame:
    """A table of (optimizer, depth, learning rate, seed, accuracy)."""
    table = pd.DataFrame(rows, columns=["optimizer", "hidden_layers", "lr", "seed", "accuracy"])
    return table.assign(train_loss=losses or 0.0)


def grid(accuracies: dict[tuple[int, float], list[float]], optimizer: str = "adam") -> pd.DataFrame:
    """A table from, for each (depth, learning rate), the accuracies of seeds 0, 1, ..."""
    return runs(
        *(
            (optimizer, depth, lr, seed, accuracy)
            for (depth, lr), values in accuracies.items()
            for seed, accuracy in enumerate(values)
        )
    )


def chosen(table: pd.DataFrame) -> dict[tuple[str, int], float]:
    selected = select_lr(table)
    return {(str(o), int(d)): float(lr) for o, d, lr in selected[["optimizer", "hidden_layers", "lr"]].to_numpy()}


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "summaries").mkdir()
    pd.DataFrame(rows).to_csv(folder / "summaries" / "mlp_depth.csv", index=False)
    return folder


# --- loading ---------------------------------------------------------------------------------------------------------

FINISHED: dict[str, Any] = {
    "hyperparameters": "{}",
    "comparison": "b6def528",
    "optimizer": "adam",
    "hidden_layers": 2,
    "seed": 0,
    "status": "finished",
    "train_loss": 0.5,
    "train_accuracy": 0.25,
}


def test_a_finished_run_counts_with_its_training_accuracy(tmp_path: Path) -> None:
    assert load(write(tmp_path, [{**FINISHED, "lr": 0.1}]), "mlp_depth")["accuracy"].tolist() == [0.25]


def test_a_diverged_run_counts_as_zero_and_never_as_missing(tmp_path: Path) -> None:
    diverged = {**FINISHED, "lr": 1.0, "status": "diverged", "train_loss": np.nan}
    rows = [{**diverged, "train_accuracy": np.nan}, {**diverged, "train_accuracy": 0.9, "seed": 1}]
    table = load(write(tmp_path, [{**FINISHED, "lr": 0.1}, *rows]), "mlp_depth")
    assert table["accuracy"].tolist() == [0.25, 0.0, 0.0]


def test_one_diverged_seed_pulls_its_learning_rate_down(tmp_path: Path) -> None:
    wild = [{**FINISHED, "lr": 1.0, "train_accuracy": 1.0, "train_loss": 0.0}]
    wild += [{**FINISHED, "lr": 1.0, "seed": 1, "status": "diverged", "train_loss": np.nan, "train_accuracy": np.nan}]
    tame = [{**FINISHED, "lr": 0.1, "seed": seed, "train_accuracy": 0.6} for seed in (0, 1)]
    table = load(write(tmp_path, wild + tame), "mlp_depth")
    assert chosen(table) == {("adam", 2): 0.1}
    assert describe(select_lr(table[table["lr"] == 1.0])).iloc[0][["n", "mean", "min"]].tolist() == [2, 0.5, 0.0]


def test_a_comparison_whose_name_looks_like_a_number_stays_a_name(tmp_path: Path) -> None:
    rows = [{**FINISHED, "lr": 0.1, "comparison": name} for name in ("01234567", "12345e67")]
    assert load(write(tmp_path, rows), "mlp_depth")["comparison"].tolist() == ["01234567", "12345e67"]


def test_a_table_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path, "mlp_depth")


# --- selection and description ---------------------------------------------------------------------------------------


def test_the_learning_rate_is_chosen_by_the_mean_over_seeds_and_not_by_the_best_seed() -> None:
    table = grid({(2, 0.1): [1.0, 0.1, 0.1], (2, 0.01): [0.5, 0.5, 0.5]})
    assert chosen(table) == {("adam", 2): 0.01}


def test_every_optimizer_and_depth_has_a_learning_rate_of_its_own() -> None:
    adam = grid({(2, 0.1): [0.9], (2, 0.01): [0.8], (4, 0.1): [0.3], (4, 0.01): [0.7]})
    fromage = grid({(2, 0.1): [0.1], (2, 0.01): [0.2]}, "fromage")
    assert chosen(pd.concat([adam, fromage])) == {("adam", 2): 0.1, ("adam", 4): 0.01, ("fromage", 2): 0.01}


def test_all_seeds_of_the_chosen_learning_rate_are_kept_and_no_other_run() -> None:
    selected = select_lr(grid({(2, 0.1): [0.9, 0.1], (2, 0.01): [0.7, 0.8]}))
    assert sorted(selected["accuracy"]) == [0.7, 0.8]
    assert selected["lr"].unique().tolist() == [0.01]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_equal_means_are_decided_by_the_lower_loss_in_whatever_order_they_stand(order: list[int]) -> None:
    table = runs(
        ("adam", 2, 0.1, 0, 1.0),
        ("adam", 2, 0.01, 0, 1.0),
        ("adam", 2, 0.001, 0, 1.0),
        losses=[0.3, 0.1, 0.2],
    )
    assert chosen(table.iloc[order]) == {("adam", 2): 0.01}


def test_the_loss_does_not_overrule_the_accuracy() -> None:
    table = runs(("adam", 2, 0.1, 0, 0.9), ("adam", 2, 0.01, 0, 0.8), losses=[5.0, 0.1])
    assert chosen(table) == {("adam", 2): 0.1}


def test_a_depth_where_everything_diverged_is_still_described() -> None:
    table = runs(("adam", 2, 0.1, 0, 0.0), ("adam", 2, 0.01, 0, 0.0), losses=[np.nan, np.nan])
    row = describe(select_lr(table)).iloc[0]
    assert (row["n"], row["mean"]) == (1, 0.0)


def test_a_cell_is_described_by_count_mean_sample_deviation_and_extremes() -> None:
    row = describe(grid({(2, 0.1): [0.2, 0.4, 0.9]})).iloc[0]
    assert (row["optimizer"], row["hidden_layers"], row["lr"], row["n"]) == ("adam", 2, 0.1, 3)
    assert row["mean"] == pytest.approx(0.5)
    assert row["std"] == pytest.approx(np.std([0.2, 0.4, 0.9], ddof=1))
    assert (row["min"], row["max"]) == (0.2, 0.9)


def test_a_single_seed_has_no_spread() -> None:
    row = describe(grid({(2, 0.1): [0.7]})).iloc[0]
    assert (row["n"], row["mean"]) == (1, 0.7)
    assert np.isnan(row["std"])


# --- trainable depth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depths", "accuracies", "deepest"),
    [
        ([2, 4, 6], [1.0, 0.9, 0.8], 6),
        ([2, 4, 6], [1.0, 0.9, 0.1], 4),
        ([2, 4, 6], [1.0, 0.1, 0.9], 2),  # a hole in the middle
        ([2, 4, 6], [0.1, 1.0, 1.0], 0),
        ([2, 4, 6], [1.0, 0.5, 0.499], 4),  # the threshold itself counts
        ([6, 2, 4], [0.1, 1.0, 0.9], 4),
        ([], [], 0),
    ],
)
def test_the_trainable_depth_is_the_last_before_the_first_failure(
    depths: list[int], accuracies: list[float], deepest: int
) -> None:
    assert trainable_depth(depths, accuracies) == deepest


def test_depths_and_accuracies_must_belong_together() -> None:
    with pytest.raises(ValueError, match="zip"):
        trainable_depth([2, 4], [1.0])


# --- accuracies by seed ----------------------------------------------------------------------------------------------


def test_accuracies_are_ordered_by_seed_depth_and_learning_rate() -> None:
    table = grid({(4, 0.1): [0.1, 0.2], (2, 0.1): [0.3, 0.4], (4, 0.01): [0.5, 0.6], (2, 0.01): [0.7, 0.8]})
    found = Accuracies.of(table.sample(frac=1, random_state=0))
    assert list(found.depths) == [2, 4]
    assert found.values.tolist() == [[[0.7, 0.3], [0.5, 0.1]], [[0.8, 0.4], [0.6, 0.2]]]


def test_a_seed_that_did_not_run_the_whole_grid_is_left_out() -> None:
    found = Accuracies.of(grid({(2, 0.1): [1.0, 0.2, 0.9], (4, 0.1): [0.8, 0.1]}))
    assert found.n == 2
    assert found.values[:, :, 0].tolist() == [[1.0, 0.8], [0.2, 0.1]]


def test_without_a_whole_grid_there_is_no_seed() -> None:
    table = runs(("adam", 2, 0.1, 0, 1.0), ("adam", 4, 0.1, 1, 1.0))
    assert Accuracies.of(table).n == 0


def test_a_learning_rate_that_nobody_ran_at_a_depth_is_not_asked_for() -> None:
    found = Accuracies.of(grid({(2, 0.1): [1.0, 1.0], (2, 0.01): [0.6, 0.6], (4, 0.1): [0.9, 0.7]}))
    assert found.n == 2
    assert found.trainable_depth() == 4


def test_a_depth_counts_as_trained_if_one_learning_rate_trains_it_on_the_average_of_the_seeds() -> None:
    found = Accuracies.of(grid({(2, 0.1): [1.0, 0.0], (2, 0.01): [0.4, 0.5], (4, 0.1): [0.9, 0.0], (4, 0.01): [0, 1]}))
    assert found.trainable_depth() == 4  # 2: lr 0.1 at 0.5; 4: lr 0.01 at 0.5
    assert found.trainable_depth([0]) == 4
    assert found.trainable_depth([1]) == 4
    split = Accuracies.of(grid({(2, 0.1): [0.9, 0.0], (2, 0.01): [0.0, 0.9]}))
    assert split.trainable_depth() == 0  # no single learning rate, although each seed has one
    assert [split.trainable_depth([seed]) for seed in (0, 1)] == [2, 2]


# --- bootstrap -------------------------------------------------------------------------------------------------------


def reaching(*depths: int, tried: tuple[int, ...] = (2, 4, 8, 16)) -> Accuracies:
    """One seed for each of ``depths``, trained up to there and not further."""
    return Accuracies(list(tried), np.array([[[float(depth <= reach)] for depth in tried] for reach in depths]))


def test_one_seed_has_no_interval() -> None:
    assert bootstrap_difference(reaching(16), reaching(2, 2)) is None
    assert bootstrap_difference(reaching(16, 16), reaching(2)) is None


def test_a_certain_difference_has_an_interval_without_width() -> None:
    assert bootstrap_difference(reaching(16, 16, 16), reaching(2, 2), resamples=100) == (14.0, 14.0)
    assert bootstrap_difference(reaching(2, 2), reaching(16, 16, 16), resamples=100) == (-14.0, -14.0)


def test_the_interval_spans_what_the_seeds_disagree_about() -> None:
    interval = bootstrap_difference(reaching(2, 8, 16), reaching(2, 2), resamples=300)
    assert interval is not None
    low, high = interval
    assert low == 0.0  # some resample draws only the first seed
    assert high == 14.0


def test_a_lower_level_gives_a_narrower_interval() -> None:
    a, b = reaching(2, 8, 16), reaching(2, 2)
    wide = bootstrap_difference(a, b, level=1.0, resamples=500)
    narrow = bootstrap_difference(a, b, level=0.2, resamples=500)
    assert wide is not None
    assert narrow is not None
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_the_same_runs_have_the_same_interval_every_time() -> None:
    a, b = reaching(2, 4, 8, 16), reaching(2, 2, 4)
    few = [[bootstrap_difference(a, b, resamples=5, seed=seed) for seed in range(10)] for _ in range(2)]
    assert few[0] == few[1]
    assert len(set(few[0])) > 1  # so few resamples do differ from one seed to another
    assert bootstrap_difference(a, b, resamples=50) == bootstrap_difference(a, b, resamples=50, seed=0)


# --- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "interval", "verdict"),
    [
        (None, None, Verdict.NOT_RUN),
        (5, None, Verdict.REPRODUCED),
        (5, (1, 9), Verdict.REPRODUCED),
        (5, (0, 9), Verdict.PARTLY),
        (5, (-1, 9), Verdict.PARTLY),
        (0, None, Verdict.PARTLY),
        (0, (0, 0), Verdict.PARTLY),
        (0, (-3, 3), Verdict.PARTLY),
        (-1, None, Verdict.NOT_REPRODUCED),
        (-1, (-9, 9), Verdict.NOT_REPRODUCED),
        (-1, (-2, -1), Verdict.NOT_REPRODUCED),
    ],
)
def test_an_order_is_judged_by_its_sign_and_by_its_whole_interval(
    difference: float | None, interval: tuple[float, float] | None, verdict: Verdict
) -> None:
    assert judge_order(difference, interval) is verdict


@pytest.mark.parametrize(
    ("ours", "published", "verdict"),
    [
        (None, 5, Verdict.NOT_RUN),
        (5, 5, Verdict.REPRODUCED),
        (2, 5, Verdict.REPRODUCED),
        (10, 5, Verdict.REPRODUCED),
        (1, 5, Verdict.PARTLY),
        (20, 5, Verdict.PARTLY),
        (50, 5, Verdict.NOT_REPRODUCED),
        (0, 5, Verdict.NOT_REPRODUCED),
        (0, 2, Verdict.PARTLY),  # one step before the first
        (0, 1, Verdict.REPRODUCED),
    ],
)
def test_a_value_of_a_grid_is_judged_by_the_steps_between(
    ours: float | None, published: float, verdict: Verdict
) -> None:
    assert judge_grid_value(ours, published, [20, 1, 5, 2, 50, 10]) is verdict


def test_a_value_that_is_not_on_the_grid_is_an_error() -> None:
    with pytest.raises(ValueError, match="3"):
        judge_grid_value(3, 5, [1, 2, 5])


def test_the_verdicts_stand_in_an_aligned_table() -> None:
    text = as_text(
        [
            Judgement("short", "50 > 22", "-", Verdict.NOT_RUN),
            Judgement("a claim of some length", "10", "11 vs 12 (n=3)", Verdict.REPRODUCED),
        ]
    )
    lines = text.splitlines()
    cells = [
        ("claim", "published", "ours", "verdict"),
        ("short", "50 > 22", "-", "not run"),
        ("a claim of some length", "10", "11 vs 12 (n=3)", "reproduced"),
    ]
    starts = [0, 24, 35, 51]  # the widest cell of each column and two spaces
    assert len(lines) == len(cells)
    for line, row in zip(lines, cells, strict=True):
        assert line == line.rstrip()
        assert [line[start:].startswith(cell) for start, cell in zip(starts, row, strict=True)] == [True] * 4


# --- style -----------------------------------------------------------------------------------------------------------

KNOWN = ["fromage", "adam", "sgd_momentum", "sgd", "lars", "madam", "integer_madam", "signsgd", "novograd"]


def test_optimizers_stand_in_one_order_and_strangers_come_last_by_name() -> None:
    assert style.order(["zeta", *reversed(KNOWN), "alpha"]) == [*KNOWN, "alpha", "zeta"]


def test_no_two_optimizers_share_a_colour_a_marker_or_a_name() -> None:
    looks = [style.line(name) for name in KNOWN]
    for key in ("color", "marker"):
        assert len({look[key] for look in looks}) == len(KNOWN)
    assert len({str(look["linestyle"]) for look in looks}) == len(KNOWN)
    assert len({style.label(name) for name in KNOWN}) == len(KNOWN)


def test_an_optimizer_that_style_does_not_know_keeps_its_name_and_can_be_drawn() -> None:
    assert style.label("alpha") == "alpha"
    assert "color" in style.line("alpha")


def test_a_saved_figure_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    contents = []
    for folder in ("once", "again"):
        figure, axes = plt.subplots(figsize=(2, 2))
        axes.plot([0, 1], [1, 0], **style.line("adam"), label="Adam")
        paths = style.save(figure, tmp_path / folder, "line")
        plt.close(figure)
        assert [path.name for path in paths] == ["line.pdf", "line.png"]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"%PDF")
    assert b"CreationDate" not in contents[0][0]  # both were saved within the same second
    assert contents[0][1].startswith(b"\x89PNG")
