"""docs/protocol.md: what it says of selection, intervals and tests is what the code does."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from reltrust.reporting.captions import caption, missing
from reltrust.reporting.pairwise import COLUMNS, decision, holm, paired, pairwise
from reltrust.reporting.selection import Comparison, Measure, Selection, describe, held_out, select
from reltrust.reporting.statistics import (
    Outcomes,
    bootstrap_difference,
    student_cdf,
    student_quantile,
    with_intervals,
)

SCORE = Measure("score", "score", best="max", diverged=0.0, ties="loss")
ERROR = Measure("error", "error", best="min", diverged=1.0, ties="loss")
DEPTH, ERROR_DEPTH = Comparison(SCORE, x="depth"), Comparison(ERROR, x="depth")


def table(scores: dict[tuple[str, int, float], list[float]]) -> pd.DataFrame:
    """From, for each (arm, depth, learning rate), the scores of seeds 0, 1, ..."""
    rows = [(*cell, seed, score) for cell, own in scores.items() for seed, score in enumerate(own)]
    found = pd.DataFrame(rows, columns=["arm", "depth", "lr", "seed", "score"])
    return found.assign(error=1 - found["score"], loss=0.0, status="finished")


def selected(scores: dict[tuple[str, int, float], list[float]], comparison: Comparison = DEPTH) -> Selection:
    return select(table(scores), comparison, "quick")


# --- Student's t -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [-30.0, -2.0, -0.1, 0.0, 0.7, 5.0])
def test_with_one_and_two_degrees_of_freedom_the_distribution_is_the_closed_form(t: float) -> None:
    assert student_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-15)
    assert student_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-15)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 6, 9, 10, 29, 30, 99])
def test_the_distribution_and_its_quantiles_are_those_of_scipy(df: int) -> None:
    for t in np.linspace(-8, 8, 33):
        assert student_cdf(float(t), df) == pytest.approx(stats.t.cdf(t, df), abs=1e-13)
    for p in (0.005, 0.025, 0.4, 0.5, 0.975, 0.999):
        assert student_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-9, abs=1e-12)


def test_the_interval_of_a_mean_is_students_and_one_seed_has_none() -> None:
    cells = with_intervals(describe(selected({("adam", 2, 0.1): [0.2, 0.4, 0.9], ("sgd", 2, 0.1): [0.3]})))
    adam, sgd = cells.to_dict("records")
    low, high = stats.t.interval(0.95, 2, np.mean([0.2, 0.4, 0.9]), stats.sem([0.2, 0.4, 0.9]))
    assert (adam["low"], adam["high"]) == (pytest.approx(low), pytest.approx(high))
    assert math.isnan(sgd["low"])
    assert math.isnan(sgd["high"])


def test_of_three_seeds_it_is_2_48_standard_deviations_to_either_side() -> None:
    (cell,) = with_intervals(describe(selected({("adam", 2, 0.1): [0.2, 0.4, 0.9]}))).to_dict("records")
    assert (cell["high"] - cell["mean"]) / cell["std"] == pytest.approx(2.48, abs=0.005)


# --- what a bootstrap over few seeds is ------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[0.2, 0.9], [0.2, 0.4, 0.9]])
def test_a_bootstrap_of_the_mean_of_two_or_three_seeds_is_their_least_and_largest_value(values: list[float]) -> None:
    ours = selected({("a", 2, 0.1): values, ("zero", 2, 0.1): [0.0] * len(values)})
    a, zero = (Outcomes.of(ours, arm) for arm in ("a", "zero"))
    assert a is not None
    assert zero is not None
    found = bootstrap_difference(a, zero, lambda places, means: means[0])
    assert found == (pytest.approx(min(values)), pytest.approx(max(values)))


def test_those_enclose_the_centre_of_a_symmetric_distribution_in_three_of_four_cases() -> None:
    draws = np.random.default_rng(0).standard_normal((40_000, 3))
    assert np.mean((draws.min(axis=1) < 0) & (draws.max(axis=1) > 0)) == pytest.approx(0.75, abs=0.01)


# --- selected and reported apart -------------------------------------------------------------------------------------


def test_each_seed_is_held_out_at_what_the_others_select() -> None:
    # Without seed 0 the others prefer 0.01, without seed 1 or 2 they prefer 0.1.
    scores = {("adam", 2, 0.1): [1.0, 0.1, 0.1], ("adam", 2, 0.01): [0.2, 0.3, 0.3]}
    ours = selected(scores)
    assert describe(ours)["mean"].tolist() == [pytest.approx(0.4)]
    assert held_out(ours)["held_out"].tolist() == [pytest.approx((0.2 + 0.1 + 0.1) / 3)]


def test_where_the_seed_does_not_matter_held_out_is_the_mean() -> None:
    ours = selected({("adam", 2, 0.1): [0.9, 0.8], ("adam", 2, 0.01): [0.5, 0.6], ("sgd", 4, 0.1): [0.25]})
    cells = describe(ours).merge(held_out(ours), on=["arm", "depth"])
    assert cells["held_out"].tolist()[0] == pytest.approx(cells["mean"].tolist()[0])
    assert math.isnan(cells["held_out"].tolist()[1])


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=3, max_size=3), min_size=1, max_size=4),
    comparison=st.sampled_from([DEPTH, ERROR_DEPTH]),
)
def test_what_the_others_select_is_what_select_would_of_their_runs_alone(
    values: list[list[float]], comparison: Comparison
) -> None:
    scores = {("adam", 2, 10.0**-place): own for place, own in enumerate(values)}
    apart = []
    for seed in range(3):
        runs = table(scores)
        (lr,) = set(select(runs[runs["seed"] != seed], comparison, "quick").best["lr"])
        own = runs[(runs["seed"] == seed) & (runs["lr"] == lr)]
        apart.append(float(own[comparison.measure.column].iloc[0]))
    assert held_out(selected(scores, comparison))["held_out"].tolist() == [pytest.approx(np.mean(apart))]


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_pairs_are_compared_over_the_seeds_that_both_have() -> None:
    ours = selected({("a", 2, 0.1): [0.5, 0.7, 0.9, 0.0], ("b", 2, 0.1): [0.4, 0.5, 0.9], ("c", 2, 0.1): [0.1]})
    (row,) = pairwise(ours).to_dict("records")
    test = stats.ttest_rel([0.5, 0.7, 0.9], [0.4, 0.5, 0.9])
    low, high = test.confidence_interval(0.95)
    assert (row["depth"], row["a"], row["b"], row["n"]) == (2, "a", "b", 3)
    assert row["difference"] == pytest.approx(0.1)
    assert (row["low"], row["high"], row["p"]) == tuple(map(pytest.approx, (low, high, test.pvalue)))
    assert row["margin"] == pytest.approx(0.06)
    assert row["decision"] == "undecided"


def test_above_zero_the_first_is_better_whether_more_or_less_is_better() -> None:
    scores = {("a", 2, 0.1): [0.9, 0.9, 0.91], ("b", 2, 0.1): [0.5, 0.51, 0.5]}
    for comparison in (DEPTH, ERROR_DEPTH):
        (row,) = pairwise(selected(scores, comparison)).to_dict("records")
        assert row["difference"] == pytest.approx(0.4)
        assert row["decision"] == "better"
        (row,) = pairwise(
            selected({(arm.replace("a", "z"), *rest): own for (arm, *rest), own in scores.items()}, comparison)
        ).to_dict("records")
        assert (row["a"], row["decision"]) == ("b", "worse")


def test_every_pair_at_every_place_is_a_row_and_single_seeds_make_none() -> None:
    scores = {(arm, depth, 0.1): [0.1, 0.2] for arm in ("a", "b", "c") for depth in (2, 4)}
    rows = pairwise(selected(scores))
    expected = [(depth, *pair) for depth in (2, 4) for pair in itertools.combinations("abc", 2)]
    assert list(rows[["depth", "a", "b"]].itertuples(index=False, name=None)) == expected
    nothing = pairwise(selected({cell: own[:1] for cell, own in scores.items()}))
    assert nothing.empty
    assert list(nothing.columns) == ["depth", *COLUMNS]


def test_values_that_are_not_finite_are_not_tested() -> None:
    # What a diverged run counts as may be infinite.
    endless = Comparison(Measure("score", "score", best="min", diverged=math.inf, ties="loss"), x="depth")
    runs = table({("a", 2, 0.1): [0.1, 0.2], ("b", 2, 0.1): [0.1, 0.2]})
    runs.loc[0, "status"] = "diverged"
    assert pairwise(select(runs, endless, "quick")).empty


def test_differences_that_are_all_the_same_have_an_interval_of_no_width() -> None:
    assert paired(np.array([0.5, 0.5])) == (0.5, 0.5, 0.5, 0.0)
    assert paired(np.array([0.0, 0.0, 0.0])) == (0.0, 0.0, 0.0, 1.0)


def test_holms_correction_is_the_textbooks() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.5, 0.9])).tolist() == pytest.approx([1.0, 1.0])
    assert holm(np.array([])).tolist() == []


@pytest.mark.parametrize(
    ("difference", "low", "high", "corrected", "said"),
    [
        (0.5, 0.4, 0.6, 0.05, "better"),
        (-0.5, -0.6, -0.4, 0.01, "worse"),
        (0.05, 0.04, 0.06, 0.01, "better"),  # by less than the margin: the size stands beside it
        (0.05, 0.04, 0.06, 0.2, "equivalent"),  # what the correction takes back
        (0.0, -0.1, 0.1, 1.0, "equivalent"),  # the margin itself
        (0.3, -0.05, 0.65, 0.2, "competitive"),
        (0.0, -0.11, 0.11, 1.0, "undecided"),
        (-0.5, -1.2, 0.2, 0.3, "undecided"),
    ],
)
def test_a_pair_is_decided_by_the_first_rule_that_holds(
    difference: float, low: float, high: float, corrected: float, said: str
) -> None:
    assert decision(difference, low, high, 0.1, corrected) == said


# --- what a figure says of itself ------------------------------------------------------------------------------------


def test_a_caption_says_the_scale_the_seeds_what_was_selected_and_what_diverged() -> None:
    scores = {("adam", depth, lr): [0.5, 0.6] for depth in (2, 4) for lr in (0.1, 0.01, 0.001)}
    scores[("sgd", 2, 0.1)] = [0.1]
    runs = table(scores)
    runs.loc[3, "status"] = "diverged"
    assert caption(select(runs, DEPTH, "quick")) == (
        "Scale quick, n = 1 to 2 seeds a point. The learning rate of each point is the one of 1 to 3 with the highest "
        "mean over seeds (score). 1 of 13 runs diverged and count as 0."
    )


def test_a_caption_of_what_is_not_selected_says_so() -> None:
    by_lr = Comparison(ERROR, x="lr", tuned=None)
    ours = select(table({("adam", 2, 0.1): [0.5], ("adam", 2, 0.2): [0.5]}), by_lr, "paper")
    assert caption(ours) == "Scale paper, n = 1 seed a point. Nothing is selected: every learning rate is shown."


def test_a_caption_is_of_the_runs_that_are_shown_and_has_the_figures_own_words() -> None:
    # Regression: "every learning rate is shown" below a figure of one, and a selection where all were drawn.
    by_lr = Comparison(ERROR, x="lr", tuned=None)
    ours = select(table({("adam", 2, 0.1): [0.5], ("adam", 2, 0.2): [0.5]}), by_lr, "paper")
    one = ours.where({"lr": 0.1})
    assert (len(one.runs), len(one.best), len(ours.runs)) == (1, 1, 2)
    assert caption(one) == "Scale paper, n = 1 seed a point. Nothing is selected: the learning rate is 0.1."
    assert caption(ours, selected="All are shown.", note="Points are medians.") == (
        "Scale paper, n = 1 seed a point. All are shown. Points are medians."
    )


def test_a_caption_of_one_learning_rate_does_not_speak_of_the_best_one() -> None:
    said = caption(selected({("adam", 2, 0.1): [0.5, 0.6]}))
    assert said == ("Scale quick, n = 2 seeds a point. Nothing is selected: one learning rate was run for each point.")


def test_a_caption_of_several_panels_says_what_holds_of_which() -> None:
    one = selected({("adam", 2, 0.1): [0.5, 0.6]})
    other = replace(one, comparison=replace(DEPTH, measure=ERROR))
    fewer = selected({("adam", 2, 0.1): [0.5]})
    assert caption(one, other) == caption(one)
    assert caption(one, replace(fewer, comparison=other.comparison)) == (
        "Nothing is selected: one learning rate was run for each point. Score: Scale quick, n = 2 seeds a point. "
        "Error: Scale quick, n = 1 seed a point."
    )


def test_what_a_partly_finished_sweep_lacks_is_named() -> None:
    full = {(arm, depth, lr): [0.5, 0.6] for arm in ("adam", "sgd") for depth in (2, 4) for lr in (0.1, 0.01)}
    runs = table(full)
    published = pd.DataFrame({"arm": ["adam", "fromage"]})
    ours = select(runs, DEPTH, "quick")
    assert missing(runs, ours, None) == []
    assert missing(runs, ours, published) == ["all runs of fromage, which was published"]
    places = pd.DataFrame({"arm": "adam", "depth": [2, 8, 16]})
    assert missing(runs, ours, places) == ["2 of 3 published places of adam (depth)"]
    fewer = runs.drop(index=[0, 5])
    assert missing(fewer, ours, None) == ["2 of 8 runs of adam (depth x learning rate x seed)"]


def test_a_few_runs_beside_a_sweep_make_no_grid_that_is_missing() -> None:
    full = table({("adam", depth, lr): [0.5, 0.6, 0.7] for depth in (2, 4, 8) for lr in (0.1, 0.01)})
    stray = full.iloc[:1].assign(lr=0.03)
    runs = pd.concat([full, stray], ignore_index=True)
    assert missing(runs, select(runs, DEPTH, "quick"), None) == []
