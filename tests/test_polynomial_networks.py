"""Polynomial networks: tables, the search for fillings, fits, verdicts, refusals."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from reltrust.experiments.polynomial_networks import verdicts
from reltrust.experiments.polynomial_networks.analysis import Dimensions, Fillings, expectations, unimodal
from reltrust.experiments.polynomial_networks.fitting import Fits, outputs, polynomials

from reltrust.errors import SettingsError
from reltrust.records.identity import comparison_id
from reltrust.records.store import Status
from reltrust.records.summaries import collect
from reltrust.reporting import report
from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import Selection, select
from reltrust.settings import Settings
from reltrust.theory.algebra import dimension
from runs import metrics, record_of, run

Resolve = Callable[..., Settings]
WORDS = ["experiment=polynomial_networks"]
YES, PARTLY, NO = Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED


class Point:
    state: Any = None

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def reached(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        self.kept.append({key: list(value) if isinstance(value, list) else value for key, value in state().items()})


def task(settings: Resolve, *words: str) -> Any:
    return settings(*WORDS, *words).task


# --- tables and searches ---------------------------------------------------------------------------------------------


def test_what_is_expected_is_what_the_tool_says() -> None:
    for widths in itertools.product((1, 2, 3), repeat=3):
        for power in (1, 2, 3):
            found = dimension(widths, power)
            assert expectations(widths, power)[1:4] == found[1:4]


def test_a_run_logs_every_network_of_its_kind(settings: Resolve) -> None:
    chosen = settings(*WORDS, "task.widest=3", "task.power=1")
    assert run(chosen) is Status.FINISHED
    rows, summary = metrics(chosen), record_of(chosen).summary
    assert len(rows) == summary["networks"] == 27
    assert summary["disagreements"] == 0
    for row in rows:
        k = min(row["d0"], row["d1"], row["d2"])
        assert row["dimension"] == k * (row["d0"] + row["d2"] - k)
    assert summary["defective"] == sum(row["dimension"] < row["expected"] for row in rows) > 0
    assert summary["filling"] == sum(row["dimension"] == row["ambient"] for row in rows)


def test_an_interrupted_table_and_an_interrupted_search_go_on(settings: Resolve) -> None:
    whole, again = Point(), Point()
    row = Dimensions(task(settings, "task.widest=5"), 0).compute(lambda row: None, whole).row
    again.state = whole.kept[0]
    assert Dimensions(task(settings, "task.widest=5"), 0).compute(lambda row: None, again).row == row
    searched = task(settings, "scale=smoke_fillings", "task.depth=3")
    whole, again = Point(), Point()
    row = Fillings(searched, 0).compute(lambda row: None, whole).row
    again.state = whole.kept[0]
    assert Fillings(searched, 0).compute(lambda row: None, again).row == row


def test_minimal_fillings_are_those_of_an_exhaustive_search(settings: Resolve) -> None:
    found: list[Any] = []
    Fillings(task(settings, "scale=smoke_fillings", "task.depth=3", "task.inputs=2"), 0).compute(found.append, Point())
    filling = {
        hidden for hidden in itertools.product(range(1, 5), range(1, 6)) if dimension((2, *hidden, 1), 2).filling
    }
    minimal = {
        one for one in filling
        if not any(other != one and all(a <= b for a, b in zip(other, one, strict=True)) for other in filling)
    }  # fmt: skip
    assert {(row["d1"], row["d2"]) for row in found} == minimal
    assert all(row["unimodal"] == unimodal([2, row["d1"], row["d2"], 1]) for row in found)


def test_unimodal_is_a_rise_and_then_a_fall() -> None:
    for widths, said in [
        ([1, 2, 3], True), ([3, 2, 1], True), ([1, 3, 3, 2], True), ([2, 2], True), ([3, 2, 3], False),
        ([1, 3, 2, 3, 1], False),
    ]:  # fmt: skip
        assert unimodal(widths) is said, widths


# --- fits ------------------------------------------------------------------------------------------------------------


def test_polynomials_of_the_invariant_norm_turn_into_each_other() -> None:
    """The variance of a value depends on |x| alone."""
    rng = np.random.default_rng(0)
    x = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [1 / np.sqrt(3)] * 3])
    values = polynomials(x, 3, rng.normal(size=(20_000, 10)))
    assert values.var(1) == pytest.approx(np.ones(3), rel=0.05)
    assert outputs([np.array([[1.0, 2.0]]), np.array([[3.0]])], np.array([[1.0, 1.0]]), 2).tolist() == [[27.0]]


def test_a_network_that_fills_has_no_floor_and_another_has_one(settings: Resolve) -> None:
    for network, power, filling in (("2-2-1", 2, True), ("2-1-1", 2, False)):
        words = ("scale=smoke_training", f"task.network={network}", f"task.power={power}", "task.restarts=4")
        row = Fits(task(settings, *words), 0).compute(lambda row: None, Point()).row
        assert (row["dimension"] == row["ambient"]) is filling
        assert row["floor_largest"] < 1e-12 if filling else row["floor_least"] > 1e-6


def test_settings_that_do_not_go_together_are_refused(settings: Resolve) -> None:
    refused = {
        ("task.power=0",): "task.power=0: must be greater than or equal to 1",
        ("task.widest=9",): "task.widest=9: must be less than or equal to 8",
        ("task.depth=null",): "task.depth=null: must be given for task.study=dimensions",
        ("+task.targets=3",): "task.targets=3: must be null for task.study=dimensions",
        ("scale=smoke_training", "task.network=3-0-1"): "task.network=3-0-1: must be two to five widths of 1 to 8",
        ("scale=smoke_fillings", "task.outputs=null"): "task.outputs=null: must be given for task.study=fillings",
        ("data=digits",): "data=digits: must be null, as polynomials are drawn",
    }
    for words, message in refused.items():
        with pytest.raises(SettingsError) as error:
            settings(*WORDS, *words)
        assert message in str(error.value), words


# --- verdicts --------------------------------------------------------------------------------------------------------


def of_tables(shares: dict[int, list[float]], dimension: int = 14, disagreements: int = 0) -> Selection:
    """Runs of a depth at powers 1, 2, ..., and one network with a closed form at power 4."""
    runs = [
        {"status": "finished", "seed": 0, "lr": np.nan, "depth": depth, "power": power, "networks": 100,
         "defective": 100 * share, "filling": 0, "disagreements": disagreements, "run": f"{depth}{power}"}
        for depth, own in shares.items()
        for power, share in enumerate(own, 1)
    ]  # fmt: skip
    found = select(pd.DataFrame(runs), verdicts.TABLE, "quick")
    curves = pd.DataFrame(
        {"run": ["24"], "step": [0], "d0": [3], "d1": [5], "d2": [1], "d3": [np.nan], "dimension": [dimension]}
    )
    return Selection(found.comparison, found.scale, found.runs, found.best, found.left_out, curves)


def test_dimensions_are_held_against_closed_forms() -> None:
    assert verdicts.known((3, 5, 1), 4) == 14
    assert verdicts.known((3, 5, 1), 3) == 10
    assert verdicts.known((4, 2, 5), 1) == 14
    assert verdicts.known((2, 5, 1), 2) == 3
    assert verdicts.known((3, 3, 2), 2) is None
    shares = {2: [0.5, 0.4, 0.1, 0.01]}
    assert verdicts.judge_known(of_tables(shares))[1] is YES
    assert verdicts.judge_known(of_tables(shares, disagreements=1))[1] is PARTLY
    assert verdicts.judge_known(of_tables(shares, dimension=15))[1] is NO


def test_high_powers_are_judged_by_the_share_of_defective_networks() -> None:
    for own, verdict in [([0.5, 0.4, 0.1, 0.01], YES), ([0.5, 0.4, 0.1, 0.1], PARTLY), ([0.1, 0.2, 0.3, 0.4], NO)]:
        assert verdicts.judge_high(of_tables({1: [0.0] * 4, 2: own}))[1] is verdict
    assert verdicts.judge_high(of_tables({1: [0.0] * 4})) == ("-", Verdict.NOT_RUN)
    one_power = of_tables({2: [0.5]})
    twice = replace(one_power, best=pd.concat([one_power.best, one_power.best.assign(seed=1)]))
    assert verdicts.judge_high(twice) == ("-", Verdict.NOT_RUN)


def test_fillings_are_judged_by_all_that_were_found() -> None:
    def judged(minimal: list[int], shape: list[int]) -> tuple[Verdict, Verdict]:
        rows = [
            {"status": "finished", "seed": 0, "lr": np.nan, "depth": 3, "inputs": 2 + i, "outputs": 1, "minimal": n,
             "unimodal": m, "computed": 9, "run": str(i)}
            for i, (n, m) in enumerate(zip(minimal, shape, strict=True))
        ]  # fmt: skip
        found = select(pd.DataFrame(rows), verdicts.FILLINGS, "quick_fillings")
        curves = pd.DataFrame({"run": ["0"], "step": [0], "expected": [5], "ambient": [5]})
        ours = Selection(found.comparison, found.scale, found.runs, found.best, found.left_out, curves)
        return verdicts.judge_unimodal(ours)[1], verdicts.judge_bounds(ours)[1]

    assert judged([4, 6], [4, 6]) == (YES, YES)
    assert judged([4, 6], [4, 5]) == (PARTLY, YES)
    assert judged([4, 0], [2, 0]) == (NO, PARTLY)
    assert judged([0, 0], [0, 0]) == (Verdict.NOT_RUN, NO)


def test_floors_are_judged_target_by_target() -> None:
    def judged(full: tuple[float, float, float], other: tuple[float, float, float]) -> Verdict:
        rows = [
            {"status": "finished", "seed": 0, "lr": np.nan, "network": network, "power": 2, "targets": 3,
             "floor_least": floors[0], "floor_median": floors[1], "floor_largest": floors[2],
             "dimension": d, "ambient": 6}
            for network, floors, d in (("3-3-1", full, 6), ("3-2-1", other, 5))
        ]  # fmt: skip
        return verdicts.judge_floors(select(pd.DataFrame(rows), verdicts.TRAINING, "quick_training"))[1]

    assert judged((0, 1e-9, 1e-8), (1e-3, 0.1, 0.2)) is YES
    assert judged((0, 1e-9, 1e-3), (1e-3, 0.1, 0.2)) is PARTLY
    assert judged((0, 1e-2, 0.1), (1e-3, 0.1, 0.2)) is NO


def test_the_figures_of_all_parts_are_drawn(settings: Resolve) -> None:
    scales = {}
    for words in (
        ["task.depth=2"], ["task.depth=1"], ["scale=smoke_fillings"], ["scale=smoke_training", "task.network=2-1-1"],
        ["scale=smoke_training", "task.network=2-2-1"],
    ):  # fmt: skip
        chosen = settings(*WORDS, *words)
        assert run(chosen) is Status.FINISHED
        scales[comparison_id(chosen)] = words[0].removeprefix("scale=") if "scale" in words[0] else "smoke"
    results = chosen.machine.results
    collect(results, "polynomial_networks", scales)
    told = report.write(results, "polynomial_networks", "smoke")
    assert "left out" not in told
    names = {path.stem for path in Path(results, "figures").glob("*.png")}
    assert names == {f"polynomial_networks-{scale}" for scale in ("smoke", "smoke_fillings", "smoke_training")}
