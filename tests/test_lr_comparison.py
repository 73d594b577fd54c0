"""One learning rate for all benchmarks: scores, what tuning is expected to give, and the verdicts."""

import itertools
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from reltrust.experiments.lr_comparison import verdicts
from reltrust.experiments.lr_comparison.figure import REPORT

from reltrust.reporting import report
from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import Selection, select

LRS = (1.0, 0.1, 0.01, 0.001, 0.0001)
# Errors by optimizer and benchmark in the order of LRS; those of a GAN are distances.
ERRORS = {
    "fromage": {"classifier": (9, 4, 1, 2, 3), "GAN": (90, 40, 11, 20, 30), "transformer": (900, 400, 100, 200, 300)},
    "madam": {"classifier": (9, 4, 1.05, 1, 3), "GAN": (90, 40, 11, 20, 30), "transformer": (900, 400, 110, 200, 300)},
    "adam": {"classifier": (9, 9, 8, 1, 2), "GAN": (90, 80, 70, 60, 10), "transformer": (900, 800, 300, 90, 110)},
    "sgd": {"classifier": (5, 1, 2, 5, 9), "GAN": (90, 50, 40, 50, 60), "transformer": (150, 300, 900, 950, 999)},
}


def selections(errors: dict[str, dict[str, tuple[float, ...]]] = ERRORS, scale: str = "quick") -> list[Selection]:
    found = []
    for name, comparison in zip(verdicts.BENCHMARKS, verdicts.comparisons(scale), strict=True):
        measure = comparison.measure
        rows: list[dict[str, Any]] = [
            {"arm": arm, "lr": lr, "seed": 0, "status": "finished", "run": f"{arm}{lr}", "comparison": "c",
             measure.column: value, measure.ties: value}
            for arm, of_arm in errors.items() if name in of_arm
            for lr, value in zip(LRS, of_arm[name], strict=False)
        ]  # fmt: skip
        table = pd.DataFrame(rows)
        if measure.exp:
            table[measure.column] = np.log(table[measure.column])
        found.append(select(table, comparison, scale))
    return found


@pytest.mark.parametrize("trials", [1, 2, 3, 4, 5])
def test_the_expected_best_of_some_trials_is_the_mean_over_all_that_could_be_drawn(trials: int) -> None:
    values = [0.3, 1.0, 0.0, 0.7, 0.7]
    every = [max(drawn) for drawn in itertools.combinations(values, trials)]
    assert verdicts.expected_best(values, trials) == pytest.approx(statistics.mean(every), rel=1e-12)


def test_trials_are_counted_until_the_expectation_is_as_good() -> None:
    values = [1.0, 0.5, 0.0]  # expectations 1/2, 5/6, 1
    assert [verdicts.trials_to_match(values, target) for target in (0.5, 0.51, 5 / 6 - 1e-9, 1.0, 1.01)] == [
        1,
        2,
        2,
        3,
        None,
    ]


def test_one_learning_rate_serves_all_benchmarks_or_nearly_or_does_not() -> None:
    ours = selections()
    assert verdicts.judge_default("fromage", *ours) == (
        "best 0.01, 0.01, 0.01; 0.01 everywhere costs x 1",
        Verdict.REPRODUCED,
    )
    assert verdicts.judge_default("madam", *ours) == (
        "best 0.001, 0.01, 0.01; 0.01 everywhere costs x 1.05",
        Verdict.PARTLY,
    )
    assert verdicts.judge_default("sgd", *ours)[1] is Verdict.NOT_REPRODUCED


def test_whoever_needs_a_learning_rate_for_each_is_told_what_the_least_bad_one_costs() -> None:
    ours = selections()
    assert verdicts.judge_own("sgd", *ours) == ("best 0.1, 0.01, 1; 0.1 everywhere costs x 2", Verdict.REPRODUCED)
    assert verdicts.judge_own("madam", *ours)[1] is Verdict.PARTLY
    assert verdicts.judge_own("fromage", *ours)[1] is Verdict.NOT_REPRODUCED


def test_tuning_is_needed_where_one_trial_is_expected_to_do_worse() -> None:
    ours = selections()
    text, verdict = verdicts.judge_trials("fromage", "sgd", *ours)
    assert (text, verdict) == ("classifier 5, GAN never, transformer never (of 5 trials)", Verdict.REPRODUCED)
    bad = ERRORS | {"fromage": dict.fromkeys(verdicts.BENCHMARKS, (9000000000.0,) * 5)}
    text, verdict = verdicts.judge_trials("fromage", "adam", *selections(bad))
    assert (text, verdict) == ("classifier 1, GAN 1, transformer 1 (of 5 trials)", Verdict.NOT_REPRODUCED)


@pytest.mark.parametrize("missing", verdicts.BENCHMARKS)
def test_nothing_is_said_while_a_benchmark_is_missing(missing: str) -> None:
    some = {arm: {name: values for name, values in own.items() if name != missing} for arm, own in ERRORS.items()}
    some = {"lars": ERRORS["sgd"]} | some  # so that the benchmark has some runs
    ours = selections(some)
    for judged in (
        verdicts.judge_default("fromage", *ours),
        verdicts.judge_own("adam", *ours),
        verdicts.judge_trials("fromage", "adam", *ours),
    ):
        assert judged == ("-", Verdict.NOT_RUN)


def test_only_learning_rates_that_every_benchmark_has_are_compared() -> None:
    some = ERRORS | {"fromage": ERRORS["fromage"] | {"GAN": (90, 40, 11)}}
    assert verdicts.grid_of(verdicts.errors(selections(some)), "fromage").index.tolist() == [1.0, 0.1, 0.01]
    two = ERRORS | {"fromage": ERRORS["fromage"] | {"GAN": (90, 40)}}
    assert verdicts.judge_default("fromage", *selections(two)) == ("-", Verdict.NOT_RUN)


def test_the_published_errors_bear_the_published_findings() -> None:
    """Those of the Madam paper are test errors; its Adam and SGD were tuned too, and are not what is quoted."""
    of_fromage, of_madam = verdicts.published("fromage"), verdicts.published("madam")
    assert set(of_fromage.columns) == set(of_madam.columns) == set(verdicts.BENCHMARKS)
    assert (verdicts.grid_of(of_fromage, "fromage").idxmin() == 0.01).all()
    assert (verdicts.grid_of(of_madam, "madam").idxmin() == 0.01).all()
    assert verdicts.grid_of(of_fromage, "adam").idxmin().tolist() == [0.001, 0.0001, 0.001]
    assert verdicts.grid_of(of_fromage, "sgd").idxmin().tolist() == [0.1, 0.01, 1.0]
    assert verdicts.costs(verdicts.grid_of(of_fromage, "fromage"))[0.01] == 1


def write(results: Path, *names: str) -> Path:
    """Tables of the benchmarks at quick scale, as their runs would leave them."""
    (results / "summaries").mkdir(parents=True)
    for name, one in zip(verdicts.BENCHMARKS, selections(), strict=True):
        experiment, scale = one.comparison.source or ("", "")
        if name in names:
            rows = one.runs.drop(columns=["value", "arm"]).assign(
                scale=scale, optimizer=one.runs["arm"], hyperparameters="{}", comparison="abcdef01"
            )
            rows.to_csv(results / "summaries" / f"{experiment}.csv", index=False)
    return results


def test_it_is_drawn_and_judged_from_the_tables_of_the_benchmarks(tmp_path: Path) -> None:
    told = report.write(write(tmp_path, *verdicts.BENCHMARKS), "lr_comparison")
    assert (tmp_path / "figures" / "lr_comparison-quick.pdf").exists()
    assert "x 1 " in told
    (found,) = report.evaluate(tmp_path, "lr_comparison", REPORT)
    judged = [one.verdict for one in found.judgements]
    assert judged[:2] == [Verdict.REPRODUCED, Verdict.PARTLY]
    cells = pd.read_csv(tmp_path / "summaries" / "lr_comparison-quick-selected.csv")
    assert cells.groupby("experiment").size().to_dict() == dict.fromkeys(REPORT.reads, 20)


def test_what_is_there_is_drawn_while_a_benchmark_is_missing(tmp_path: Path) -> None:
    told = report.write(write(tmp_path, "GAN", "transformer"), "lr_comparison")
    assert (tmp_path / "figures" / "lr_comparison-quick.pdf").exists()
    (found,) = report.evaluate(tmp_path, "lr_comparison", REPORT)
    assert {one.verdict for one in found.judgements} == {Verdict.NOT_RUN}
    assert "not run" in told


def test_holes_are_those_of_each_benchmark_and_optimizers_that_nobody_ran_are_drawn_as_published(
    tmp_path: Path,
) -> None:
    write(tmp_path, *verdicts.BENCHMARKS)
    path = tmp_path / "summaries" / "cifar_gan.csv"
    table = pd.read_csv(path, dtype={"comparison": str})
    second = table[(table["optimizer"] != "fromage") | (table["lr"] != 1.0)]
    second = second.assign(seed=1, run=second["run"] + "-seed1")
    pd.concat([table, second]).to_csv(path, index=False)
    assert "missing: cifar_gan: 1 of 10 runs of fromage" in report.write(tmp_path, "lr_comparison")
    for name in ("cifar_gan", "cifar_classifier", "transformer_lm"):
        path = tmp_path / "summaries" / f"{name}.csv"
        table = pd.read_csv(path, dtype={"comparison": str})
        table[table["optimizer"] == "fromage"].to_csv(path, index=False)
    assert "lr_comparison-quick.png" in report.write(tmp_path, "lr_comparison")


def test_without_any_table_there_is_nothing_yet(tmp_path: Path) -> None:
    assert report.write(tmp_path, "lr_comparison") == f"lr_comparison: nothing in {tmp_path}/summaries yet"
    assert list(report.evaluate(tmp_path, "lr_comparison", REPORT)) == []
