"""From runs to numbers: which of them are compared, which learning rate is selected, what the seeds say of an arm."""

import random
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from reltrust.reporting.selection import Comparison, Measure, Selection, describe, select
from reltrust.reporting.statistics import Outcomes, bootstrap_difference

# Columns of no experiment: nothing here may know the name of one.
SCORE = Measure("score", "score", best="max", diverged=0.0, ties="loss")
ERROR = Measure("error", "error", best="min", diverged=1.0, ties="loss")
DEPTH, ERROR_DEPTH = Comparison(SCORE, x="depth"), Comparison(ERROR, x="depth")

Cells = dict[tuple[int, float], list[float]]


def runs(*rows: tuple[str, int, float, int, float], losses: list[float] | None = None) -> pd.DataFrame:
    """A table of (arm, depth, learning rate, seed, score), all finished."""
    table = pd.DataFrame(rows, columns=["arm", "depth", "lr", "seed", "score"])
    return table.assign(error=1 - table["score"], loss=losses or 0.0, status="finished")


def grid(scores: Cells, arm: str = "adam") -> pd.DataFrame:
    """A table from, for each (depth, learning rate), the scores of seeds 0, 1, ..."""
    return runs(
        *((arm, depth, lr, seed, score) for (depth, lr), own in scores.items() for seed, score in enumerate(own))
    )


def together(*tables: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True)


def selected(table: pd.DataFrame, comparison: Comparison = DEPTH) -> Selection:
    return select(table, comparison, "quick")


def chosen(table: pd.DataFrame, comparison: Comparison = DEPTH) -> dict[tuple[str, int], float]:
    cells = describe(selected(table, comparison))
    return {(str(arm), int(depth)): float(lr) for arm, depth, lr in cells[["arm", "depth", "lr"]].to_numpy()}


def outcomes(table: pd.DataFrame, arm: str = "adam") -> Outcomes:
    found = Outcomes.of(selected(table), arm)
    assert found is not None
    return found


def reach(depths: Iterable[float], scores: Iterable[float]) -> float:
    """A statistic with a threshold, as the depth up to which an optimizer trains."""
    deepest = 0.0
    for depth, score in sorted(zip(depths, scores, strict=True)):
        if score < 0.5:
            break
        deepest = depth
    return deepest


# --- the selected learning rate --------------------------------------------------------------------------------------


def test_the_learning_rate_is_chosen_by_the_mean_over_seeds_and_not_by_the_best_seed() -> None:
    table = grid({(2, 0.1): [1.0, 0.1, 0.1], (2, 0.01): [0.5, 0.5, 0.5]})
    assert chosen(table) == {("adam", 2): 0.01}


def test_every_arm_and_depth_has_a_learning_rate_of_its_own() -> None:
    adam = grid({(2, 0.1): [0.9], (2, 0.01): [0.8], (4, 0.1): [0.3], (4, 0.01): [0.7]})
    fromage = grid({(2, 0.1): [0.1], (2, 0.01): [0.2]}, "fromage")
    assert chosen(together(adam, fromage)) == {("adam", 2): 0.1, ("adam", 4): 0.01, ("fromage", 2): 0.01}


def test_all_seeds_of_the_chosen_learning_rate_are_kept_and_no_other_run() -> None:
    best = selected(grid({(2, 0.1): [0.9, 0.1], (2, 0.01): [0.7, 0.8]})).best
    assert sorted(best["value"]) == [0.7, 0.8]
    assert best["lr"].unique().tolist() == [0.01]


@pytest.mark.parametrize("comparison", [DEPTH, ERROR_DEPTH], ids=["max", "min"])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_equal_means_are_decided_by_the_lower_loss_in_whatever_order_they_stand(
    order: list[int], comparison: Comparison
) -> None:
    table = runs(
        ("adam", 2, 0.1, 0, 1.0),
        ("adam", 2, 0.01, 0, 1.0),
        ("adam", 2, 0.001, 0, 1.0),
        losses=[0.3, 0.1, 0.2],
    )
    assert chosen(table.iloc[order], comparison) == {("adam", 2): 0.01}


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_where_even_the_losses_are_equal_the_lowest_learning_rate_is_chosen(order: list[int]) -> None:
    table = runs(("adam", 2, 0.1, 0, 1.0), ("adam", 2, 0.001, 0, 1.0), ("adam", 2, 0.01, 0, 1.0))
    assert chosen(table.iloc[order]) == {("adam", 2): 0.001}


@pytest.mark.parametrize("comparison", [DEPTH, ERROR_DEPTH], ids=["max", "min"])
def test_the_loss_does_not_overrule_the_measure(comparison: Comparison) -> None:
    table = runs(("adam", 2, 0.1, 0, 0.9), ("adam", 2, 0.01, 0, 0.8), losses=[5.0, 0.1])
    assert chosen(table, comparison) == {("adam", 2): 0.1}


def test_of_a_measure_that_is_better_when_it_is_lower_the_lowest_mean_is_chosen() -> None:
    table = runs(*(("adam", 2, lr, seed, 0.0) for lr in (0.1, 0.01) for seed in (0, 1)))
    table["error"] = [0.0, 0.9, 0.3, 0.4]
    assert chosen(table, ERROR_DEPTH) == {("adam", 2): 0.01}
    assert describe(selected(table, ERROR_DEPTH)).iloc[0][["n", "mean"]].tolist() == [2, pytest.approx(0.35)]


def test_the_columns_that_are_compared_are_those_of_the_comparison() -> None:
    table = grid({(2, 0.1): [0.9, 0.8], (2, 0.01): [0.7, 0.6]}).rename(
        columns={"arm": "init", "depth": "width", "lr": "bound"}
    )
    other = Comparison(SCORE, x="width", arm="init", tuned="bound")
    (row,) = describe(select(table, other, "quick")).to_dict("records")
    assert (row["arm"], row["width"], row["bound"], row["n"]) == ("adam", 2, 0.1, 2)


def test_the_arms_stand_in_alphabetical_order() -> None:
    table = together(*(grid({(2, 0.1): [0.9]}, arm) for arm in ("zeta", "adam", "madam")))
    assert selected(table).arms == ["adam", "madam", "zeta"]


def test_the_table_that_was_given_is_left_as_it_was() -> None:
    table = grid({(2, 0.1): [0.9, 0.8], (2, 0.01): [0.7]})
    before = table.copy(deep=True)
    selected(table)
    pd.testing.assert_frame_equal(table, before)


# --- diverged runs ---------------------------------------------------------------------------------------------------


def test_a_finished_run_counts_with_what_was_measured() -> None:
    assert selected(grid({(2, 0.1): [0.25]})).runs["value"].tolist() == [0.25]


def test_a_diverged_run_counts_as_the_worst_value_and_never_as_missing() -> None:
    table = grid({(2, 0.1): [0.25, np.nan, 0.9]}).assign(status=["finished", "diverged", "diverged"])
    assert selected(table).runs["value"].tolist() == [0.25, 0.0, 0.0]
    assert selected(table, ERROR_DEPTH).runs["value"].tolist() == [0.75, 1.0, 1.0]


def test_one_diverged_seed_pulls_its_learning_rate_down() -> None:
    wild = grid({(2, 1.0): [1.0, np.nan]}).assign(status=["finished", "diverged"], loss=[0.0, np.nan])
    tame = grid({(2, 0.1): [0.6, 0.6]}).assign(loss=0.5)
    assert chosen(together(wild, tame)) == {("adam", 2): 0.1}
    assert describe(selected(wild)).iloc[0][["n", "mean", "min"]].tolist() == [2, 0.5, 0.0]


def test_of_errors_too_the_learning_rate_that_diverged_is_not_the_best() -> None:
    table = together(grid({(2, 1.0): [np.nan]}).assign(status="diverged"), grid({(2, 0.1): [0.2]}))
    assert chosen(table, ERROR_DEPTH) == {("adam", 2): 0.1}


def test_a_depth_where_everything_diverged_is_still_described() -> None:
    table = grid({(2, 0.1): [np.nan], (2, 0.01): [np.nan]}).assign(status="diverged", loss=np.nan)
    row = describe(selected(table)).iloc[0]
    assert (row["n"], row["mean"]) == (1, 0.0)


def test_where_all_runs_diverged_the_table_need_not_have_the_measure() -> None:
    # Regression: the columns are not there if no run came to a measure.
    table = grid({(2, 0.1): [0.0], (2, 0.01): [0.0]}).assign(status="diverged").drop(columns=["score", "loss"])
    assert describe(selected(table))[["n", "mean"]].to_numpy().tolist() == [[1, 0.0]]


# --- description -----------------------------------------------------------------------------------------------------


def test_a_cell_is_described_by_count_mean_sample_deviation_and_extremes() -> None:
    row = describe(selected(grid({(2, 0.1): [0.2, 0.4, 0.9]}))).iloc[0]
    assert (row["arm"], row["depth"], row["lr"], row["n"]) == ("adam", 2, 0.1, 3)
    assert row["mean"] == pytest.approx(0.5)
    assert row["std"] == pytest.approx(np.std([0.2, 0.4, 0.9], ddof=1))
    assert (row["min"], row["max"]) == (0.2, 0.9)


def test_a_single_seed_has_no_spread() -> None:
    row = describe(selected(grid({(2, 0.1): [0.7]}))).iloc[0]
    assert (row["n"], row["mean"]) == (1, 0.7)
    assert np.isnan(row["std"])


# --- what may be compared --------------------------------------------------------------------------------------------

FULL: Cells = {(depth, lr): [0.5 + lr] * 3 for depth in (2, 4, 8) for lr in (0.1, 0.01, 0.001)}


def test_of_a_full_grid_nothing_is_left_out() -> None:
    found = selected(grid(FULL))
    assert found.left_out == ()
    assert len(found.runs) == len(grid(FULL)) == 27


@pytest.mark.parametrize(
    ("stray", "line"),
    [
        # Regression: selected as the best, over its one seed, in the figure and in the table but not in the verdict.
        (("adam", 4, 0.03, 0, 1.0), "1 run of adam at depth=4: lr=0.03 with seed 0 cannot be compared with the others"),
        # Regression: a depth of its own, which broke the line of depths that train.
        (("adam", 6, 0.01, 0, 0.0), "1 run of adam at depth=6: 1 of 3 values of lr"),
        (("adam", 4, 0.1, 3, 0.0), "1 run of adam at depth=4: lr=0.1 with seed 3 cannot be compared with the others"),
    ],
    ids=["learning rate", "depth", "seed"],
)
def test_a_stray_run_beside_a_full_grid_changes_no_number_and_is_named(
    stray: tuple[str, int, float, int, float], line: str
) -> None:
    found, before = selected(together(grid(FULL), runs(stray))), selected(grid(FULL))
    pd.testing.assert_frame_equal(describe(found), describe(before))
    pd.testing.assert_frame_equal(found.runs, before.runs)
    assert found.left_out == (line,)


ONE_SEED: Cells = {(depth, lr): [0.9 if lr == 0.01 else 0.2] for depth in (2, 4, 8) for lr in (0.1, 0.01, 0.001)}


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_scan_of_learning_rates_at_one_depth_leaves_the_other_depths_in(seeds: int) -> None:
    # Regression: the depth with the most learning rates set the measure for all others, which were left out.
    full = grid({cell: scores * seeds for cell, scores in ONE_SEED.items()})
    scan = grid({(4, lr): [0.1] for lr in (0.3, 0.03, 0.003, 0.0003)})
    found = selected(together(full, scan))
    pd.testing.assert_frame_equal(describe(found), describe(selected(full)))
    assert len(found.left_out) == (0 if seeds == 1 else 4)


def test_more_seeds_of_a_single_learning_rate_do_not_throw_the_others_out() -> None:
    # Regression: the fullest learning rate set the measure, and stood alone, however bad.
    more = runs(("adam", 4, 0.1, 1, 0.2), ("adam", 4, 0.1, 2, 0.2))
    found = selected(together(grid(ONE_SEED), more))
    pd.testing.assert_frame_equal(describe(found), describe(selected(grid(ONE_SEED))))
    assert found.left_out == ("2 runs of adam at depth=4: lr=0.1 with seed 1, 2 cannot be compared with the others",)


def test_runs_without_the_measure_are_left_out_and_named() -> None:
    table = grid({(2, 0.1): [0.9], (4, 0.1): [0.9]})
    table.loc[table["depth"] == 4, "score"] = np.nan
    found = selected(table)
    assert found.best["depth"].tolist() == [2]
    assert found.left_out == ("1 run of adam at depth=4: lr=0.1 with seed 0 cannot be compared with the others",)
    table["score"] = np.nan
    assert selected(table).arms == []


def test_what_has_no_learning_rate_is_compared_without_one() -> None:
    table = grid({(2, 0.1): [0.5, 0.7], (4, 0.1): [0.9, 0.9]})
    assert describe(selected(table.assign(lr=np.nan)))["mean"].tolist() == pytest.approx([0.6, 0.9])


def test_the_rows_of_a_table_may_bear_any_labels() -> None:
    table = pd.concat([grid(FULL), runs(("adam", 4, 0.03, 0, 1.0))])  # the last has the label of the first
    assert len(selected(table).left_out) == 1
    pd.testing.assert_frame_equal(describe(selected(table)), describe(selected(grid(FULL))))


def test_a_stray_run_of_one_arm_leaves_out_nothing_of_another() -> None:
    table = together(grid(FULL), runs(("adam", 6, 0.01, 0, 0.0)), grid({(6, 0.01): [0.7]}, "fromage"))
    found = selected(table)
    assert found.runs["arm"].value_counts().to_dict() == {"adam": 27, "fromage": 1}


def test_runs_that_are_left_out_together_are_counted_and_their_seeds_named() -> None:
    table = together(grid({(2, 0.1): [0.9] * 5, (2, 0.01): [0.8] * 5}), grid({(2, 0.03): [1.0, 1.0]}))
    (line,) = selected(table).left_out
    assert line == "2 runs of adam at depth=2: lr=0.03 with seed 0, 1 cannot be compared with the others"


def test_of_runs_that_differ_in_what_is_not_compared_those_like_most_stand() -> None:
    like_most = grid({(2, 0.1): [0.5, 0.6], (2, 0.01): [0.7, 0.8]}).assign(affine=False, data="digits")
    stray = grid({(2, 0.01): [0.1]}).assign(affine=True, data="digits")
    columns = ["arm", "depth", "lr", "seed", "affine", "data", "score", "error", "loss", "status"]
    for table in (together(like_most, stray), together(stray, like_most)):
        found = selected(table[columns])
        assert describe(found)["mean"].tolist() == [0.75]
        assert found.left_out == (
            "1 run of adam at depth=2: others with the same lr and seed stand there, of another affine",
        )


def test_learning_rates_are_compared_over_the_same_seeds() -> None:
    # Over all of its seeds 0.1 would have the better mean; over those that both ran it has not.
    found = selected(grid({(2, 0.1): [0.4, 0.4, 1.0], (2, 0.01): [0.5, 0.5]}))
    assert describe(found)[["lr", "n", "mean"]].to_numpy().tolist() == [[0.01, 2, 0.5]]
    assert found.runs["seed"].tolist() == [0, 1, 0, 1]
    assert found.left_out == ("1 run of adam at depth=2: lr=0.1 with seed 2 cannot be compared with the others",)


def test_the_chosen_learning_rate_too_counts_with_the_seeds_that_all_ran() -> None:
    row = describe(selected(grid({(2, 0.1): [0.8, 0.6, 0.1], (2, 0.01): [0.5, 0.5]}))).iloc[0]
    assert (row["lr"], row["n"], row["mean"]) == (0.1, 2, pytest.approx(0.7))


def test_a_learning_rate_that_half_of_the_seeds_ran_is_compared_over_those() -> None:
    found = selected(grid({(2, 0.1): [0.4] * 4, (2, 0.01): [0.9] * 2}))
    assert describe(found)[["lr", "n"]].to_numpy().tolist() == [[0.01, 2]]


def test_a_depth_at_which_half_of_the_learning_rates_were_tried_is_compared() -> None:
    cells: Cells = {(2, lr): [0.9] for lr in (0.1, 0.01, 0.001, 0.0001)} | {(4, lr): [0.8] for lr in (0.1, 0.01)}
    assert set(selected(grid(cells)).runs["depth"]) == {2, 4}
    del cells[4, 0.01]
    assert set(selected(grid(cells)).runs["depth"]) == {2}


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_if_no_seed_ran_all_learning_rates_the_one_with_most_seeds_stands(order: list[int]) -> None:
    table = runs(
        ("adam", 2, 0.1, 0, 0.9),
        ("adam", 2, 0.01, 1, 0.2),
        ("adam", 2, 0.01, 2, 0.4),
        ("adam", 2, 0.001, 3, 0.9),
        ("adam", 2, 0.001, 4, 0.9),
    )
    # Of 0.01 and 0.001, with two seeds each and none in common, the lower one: a rule that no score has a say in.
    assert describe(selected(table.iloc[order]))[["lr", "n"]].to_numpy().tolist() == [[0.001, 2]]
    more = together(table.iloc[order], runs(("adam", 2, 0.01, 5, 0.0)))
    assert describe(selected(more))[["lr", "n", "mean"]].to_numpy().tolist() == [[0.01, 3, pytest.approx(0.2)]]
    assert len(selected(more).left_out) == 2


def test_seeds_may_differ_from_depth_to_depth() -> None:
    cells = grid({(2, 0.1): [0.9, 0.8, 0.7], (2, 0.01): [0.1, 0.1, 0.1], (4, 0.1): [0.6], (4, 0.01): [0.5]})
    found = selected(cells)
    assert describe(found)[["depth", "n"]].to_numpy().tolist() == [[2, 3], [4, 1]]
    assert found.left_out == ()


@given(
    ran=st.sets(st.tuples(st.sampled_from([2, 4]), st.sampled_from([0.1, 0.01, 0.001]), st.integers(0, 3)), min_size=1),
    shuffled=st.randoms(use_true_random=False),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_every_run_is_compared_over_the_seeds_of_its_rivals_or_said_to_be_left_out(
    ran: set[tuple[int, float, int]], shuffled: random.Random
) -> None:
    rows = [("adam", depth, lr, seed, (seed + round(1000 * lr)) % 4 / 4) for depth, lr, seed in sorted(ran)]
    found = selected(runs(*rows))
    assert len(found.runs) + sum(int(re.match(r"\d+", line)[0]) for line in found.left_out) == len(rows)  # type: ignore[index]
    for depth, cell in found.runs.groupby("depth"):
        assert len(cell) == cell["lr"].nunique() * cell["seed"].nunique()
        assert found.best[found.best["depth"] == depth]["lr"].nunique() == 1
    shuffled.shuffle(rows)
    again = selected(runs(*rows))
    assert again.left_out == found.left_out
    pd.testing.assert_frame_equal(describe(again), describe(found))


# --- outcomes by seed ------------------------------------------------------------------------------------------------


def test_outcomes_are_ordered_by_seed_depth_and_learning_rate() -> None:
    table = grid({(4, 0.1): [0.1, 0.2], (2, 0.1): [0.3, 0.4], (4, 0.01): [0.5, 0.6], (2, 0.01): [0.7, 0.8]})
    found = outcomes(table.sample(frac=1, random_state=0))
    assert list(found.x) == [2, 4]
    assert found.values.tolist() == [[[0.7, 0.3], [0.5, 0.1]], [[0.8, 0.4], [0.6, 0.2]]]


def test_an_arm_without_runs_has_no_outcomes() -> None:
    assert Outcomes.of(selected(grid(FULL)), "fromage") is None


def test_what_the_selection_left_out_is_no_outcome() -> None:
    stray = runs(("adam", 4, 0.03, 0, 1.0), ("adam", 6, 0.01, 0, 0.0))
    found, before = outcomes(together(grid(FULL), stray)), outcomes(grid(FULL))
    assert found.x == before.x
    np.testing.assert_array_equal(found.values, before.values)


def test_a_learning_rate_that_nobody_ran_at_a_depth_is_not_asked_for() -> None:
    found = outcomes(grid({(2, 0.1): [1.0, 1.0], (2, 0.01): [0.6, 0.6], (4, 0.1): [0.9, 0.7]}))
    assert found.n == 2
    assert found.statistic(reach) == 4


def test_a_depth_counts_by_one_learning_rate_and_the_average_of_the_seeds() -> None:
    found = outcomes(grid({(2, 0.1): [1.0, 0.0], (2, 0.01): [0.4, 0.5], (4, 0.1): [0.9, 0.0], (4, 0.01): [0, 1]}))
    assert found.statistic(reach) == 4  # 2: lr 0.1 at 0.5; 4: lr 0.01 at 0.5
    assert found.resampled(reach, np.array([[0], [1]])) == [4, 4]
    split = outcomes(grid({(2, 0.1): [0.9, 0.0], (2, 0.01): [0.0, 0.9]}))
    assert split.statistic(reach) == 0  # no single learning rate, although each seed has one
    assert split.resampled(reach, np.array([[0], [1]])) == [2, 2]


@pytest.mark.parametrize(("comparison", "value"), [(DEPTH, 0.75), (ERROR_DEPTH, 0.25)], ids=["max", "min"])
def test_the_statistic_is_taken_of_the_best_means_whichever_way_is_better(comparison: Comparison, value: float) -> None:
    found = Outcomes.of(selected(grid({(2, 0.1): [1.0, 0.5], (2, 0.01): [0.5, 0.5]}), comparison), "adam")
    assert found is not None
    assert found.statistic(lambda _, means: means[0]) == value


def test_the_statistic_is_that_of_the_means_that_the_figure_shows() -> None:
    table = grid({(depth, lr): [lr, depth / 10, 0.5] for depth in (2, 4, 8) for lr in (0.1, 0.01)})
    line = describe(selected(table))["mean"]
    assert outcomes(table).statistic(lambda _, means: sum(means)) == pytest.approx(line.sum())


UNEVEN = {(2, 0.1): [0.9, 0.9, 0.9], (4, 0.1): [0.9, 0.9, 0.0], (8, 0.1): [0.9]}


def test_seeds_that_differ_from_depth_to_depth_count_at_the_depths_that_they_ran() -> None:
    found = outcomes(grid(UNEVEN))
    assert found.n == 1  # at the depth with the fewest
    assert found.statistic(reach) == 8
    assert found.statistic(lambda _, means: means[1]) == pytest.approx(0.6)  # of three seeds


def test_seeds_without_one_depth_in_common_have_a_statistic_too() -> None:
    found = outcomes(runs(("adam", 2, 0.1, 0, 1.0), ("adam", 4, 0.1, 1, 1.0)))
    assert (found.n, found.statistic(reach)) == (1, 4)


def test_a_depth_that_none_of_the_drawn_seeds_ran_counts_with_those_that_did() -> None:
    draws = np.array([[1, 1, 1], [0, 0, 2], [1, 2, 2], [2, 2, 2]])  # only seed 0 ran depth 8, seed 2 breaks at 4
    assert outcomes(grid(UNEVEN)).resampled(reach, draws) == [8, 8, 2, 2]


# --- bootstrap -------------------------------------------------------------------------------------------------------


def reaching(*depths: int, tried: tuple[int, ...] = (2, 4, 8, 16)) -> Outcomes:
    """One seed for each of ``depths``, trained up to there and not further."""
    return Outcomes(list(tried), np.array([[[float(depth <= one)] for depth in tried] for one in depths]), "max")


def test_one_seed_has_no_interval() -> None:
    assert bootstrap_difference(reaching(16), reaching(2, 2), reach) is None
    assert bootstrap_difference(reaching(16, 16), reaching(2), reach) is None


def test_a_certain_difference_has_an_interval_without_width() -> None:
    assert bootstrap_difference(reaching(16, 16, 16), reaching(2, 2), reach, resamples=100) == (14.0, 14.0)
    assert bootstrap_difference(reaching(2, 2), reaching(16, 16, 16), reach, resamples=100) == (-14.0, -14.0)


def test_the_interval_spans_what_the_seeds_disagree_about() -> None:
    interval = bootstrap_difference(reaching(2, 8, 16), reaching(2, 2), reach, resamples=300)
    assert interval is not None
    low, high = interval
    assert low == 0.0  # some resample draws only the first seed
    assert high == 14.0


def test_a_lower_level_gives_a_narrower_interval() -> None:
    a, b = reaching(2, 8, 16), reaching(2, 2)
    wide = bootstrap_difference(a, b, reach, level=1.0, resamples=500)
    narrow = bootstrap_difference(a, b, reach, level=0.2, resamples=500)
    assert wide is not None
    assert narrow is not None
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_the_same_runs_have_the_same_interval_every_time() -> None:
    a, b = reaching(2, 4, 8, 16), reaching(2, 2, 4)
    few = [[bootstrap_difference(a, b, reach, resamples=5, seed=seed) for seed in range(10)] for _ in range(2)]
    assert few[0] == few[1]
    assert len(set(few[0])) > 1  # so few resamples do differ from one seed to another
    assert bootstrap_difference(a, b, reach, resamples=50) == bootstrap_difference(a, b, reach, resamples=50, seed=0)


def test_uneven_seeds_have_an_interval_the_same_every_time() -> None:
    even = grid({cell: [0.9 if cell[0] == 2 else 0.0] * 3 for cell in UNEVEN})
    intervals = {bootstrap_difference(outcomes(grid(UNEVEN)), outcomes(even), reach) for _ in range(2)}
    # Two seeds of three train beyond 2, and where they do also to 8, of which only one seed's run is known.
    assert intervals == {(0.0, 6.0)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("seeds", [(3, 3), (5, 2)])
def test_of_a_full_grid_the_interval_is_that_of_drawing_whole_seeds(seed: int, seeds: tuple[int, int]) -> None:
    # As it was computed before seeds could differ from depth to depth: committed verdicts keep their intervals.
    rng = np.random.default_rng(seed)
    a, b = (Outcomes([2, 4, 8, 16], rng.random((count, 4, 3)) ** 0.6, "max") for count in seeds)
    for statistic in (reach, lambda _, means: sum(means)):
        draw = np.random.default_rng(0)
        differences = []
        for _ in range(300):
            drawn = [one.values[draw.integers(len(one.values), size=len(one.values))] for one in (a, b)]
            of_a, of_b = (statistic(a.x, own.mean(0).max(axis=1)) for own in drawn)
            differences.append(of_a - of_b)
        expected = tuple(np.quantile(differences, [0.025, 0.975]))
        assert bootstrap_difference(a, b, statistic, resamples=300) == pytest.approx(expected, rel=1e-12)
