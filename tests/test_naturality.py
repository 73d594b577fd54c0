"""Naturality: the derived table beside measured entries, badly conditioned coordinates, verdicts, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from reltrust.experiments.naturality import verdicts
from reltrust.experiments.naturality.analysis import Defects, network, reparametrisations
from reltrust.experiments.naturality.conditioning import Descent
from reltrust.experiments.naturality.expectations import CLASSES, POPULAR, RULES, expected

from reltrust.errors import SettingsError
from reltrust.records.identity import comparison_id
from reltrust.records.store import Status
from reltrust.records.summaries import collect
from reltrust.reporting import report
from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import Selection, select
from reltrust.settings import Settings
from runs import metrics, record_of, run

Resolve = Callable[..., Settings]
WORDS = ["experiment=naturality"]
DESCENT = [*WORDS, "scale=smoke_descent"]
YES, PARTLY, NO = Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED


class Point:
    state: Any = None

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def reached(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        self.kept.append({"found": list(state()["found"])})


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", POPULAR)
def test_rules_that_need_gradients_alone_are_as_derived(settings: Resolve, rule: str) -> None:
    size = 0.001 if rule in ("momentum", "novograd", "rmsprop") else 0.01
    words = (f"task.rule={rule}", f"task.step_size={size}", "task.iterations=12", "task.halvings=2")
    task: Any = settings(*WORDS, *words).task
    row = pd.Series(Defects(task, 0).compute(lambda row: None, Point()).row)
    assert {kind: verdicts.measured(rule, row, kind) for kind in CLASSES} == {
        kind: expected(rule, kind) for kind in CLASSES
    }


def test_maps_lead_back_to_the_start_and_are_what_they_are_called() -> None:
    _, start = network(0)
    maps = reparametrisations(0)
    assert set(maps) == set(CLASSES)
    for phi in maps.values():
        for w, back in zip(start, phi.to_w(phi.start(start)), strict=True):
            assert torch.allclose(w, back, atol=1e-10)
    for kind in ("signed_permutation", "row_rotation", "rotation"):  # lengths of each tensor stay
        for w, q in zip(start, maps[kind].start(start), strict=True):
            assert q.norm() == pytest.approx(float(w.norm()))
    turned = maps["row_rotation"].to_w([torch.eye(3, 2, dtype=torch.float64), torch.eye(2, 3, dtype=torch.float64)])
    assert torch.linalg.svdvals(turned[0]) == pytest.approx(np.ones(2))
    assert maps["projection"].start(start)[0].shape == (6, 2)


def test_a_run_logs_a_row_a_step_size_and_an_interrupted_one_goes_on(settings: Resolve) -> None:
    chosen = settings(*WORDS, "task.rule=gd")
    assert run(chosen) is Status.FINISHED
    rows, task = metrics(chosen), chosen.task
    assert [row["size"] for row in rows] == [0.01, 0.005]
    whole = Point()
    row = Defects(task, 0).compute(lambda row: None, whole).row  # type: ignore[arg-type]
    again = Point()
    again.state = whole.kept[0]
    assert Defects(task, 0).compute(lambda row: None, again).row == row  # type: ignore[arg-type]
    assert record_of(chosen).summary["defect_affine"] == row["defect_affine"]


# --- descent ---------------------------------------------------------------------------------------------------------


def descent(settings: Resolve, *words: str) -> Descent:
    chosen = settings(*DESCENT, *words)
    built: Any = chosen.task.build(chosen, torch.device("cpu"))
    return built  # type: ignore[no-any-return]


def test_every_condition_number_starts_from_the_same_function(settings: Resolve) -> None:
    found = []
    for condition in (1, 100):
        one = descent(settings, f"task.condition={condition}")
        found.append(one.model.through(one.phi).outputs(one.phi.start(one.start)))
        (matrix,) = torch.func.jacrev(lambda v, one=one: one.phi.to_w([v, one.start[1]])[0][:, 0])(one.start[0])[
            :, :, 0
        ].unsqueeze(0)
        values = torch.linalg.svdvals(matrix)
        assert values[0] / values[-1] == pytest.approx(condition)
    assert torch.allclose(*found, atol=1e-10)


def test_natural_gradient_goes_the_same_way_at_every_condition_number(settings: Resolve) -> None:
    ends = {}
    for rule, size in (("ngd", 10.0), ("gd", 0.1)):
        for condition in (1, 100):
            words = (f"task.rule={rule}", f"task.condition={condition}", f"task.step_size={size}", "task.iterations=5")
            ends[rule, condition] = descent(settings, *words).compute(lambda row: None, Point()).row["loss_share"]
    assert ends["ngd", 1] == pytest.approx(ends["ngd", 100], rel=1e-6)
    assert abs(ends["gd", 1] - ends["gd", 100]) > 1e-3


def test_settings_that_do_not_go_together_are_refused(settings: Resolve) -> None:
    refused = {
        ("task.rule=adamw",): "task.rule=adamw: must be one of gd, ",
        ("task.step_size=0",): "task.step_size=0: must be greater than 0",
        ("task.halvings=null",): "task.halvings=null: must be a number in an analysis of defects",
        ("+task.hidden=3",): "task.hidden=3: must be null in an analysis of defects",
        ("data=digits",): "data=digits: must be null in an analysis of defects",
        ("scale=smoke_descent", "task.condition=0.5"): "task.condition=0.5: must be greater than or equal to 1",
        ("scale=smoke_descent", "task.images=null"): "task.images=null: must be a number in an analysis of a descent",
        ("scale=smoke_descent", "task.images=2000"): "task.images=2000: must be at most 1500, all images",
        ("scale=smoke_descent", "data=mnist"): "data=mnist",
    }
    for words, message in refused.items():
        with pytest.raises(SettingsError) as error:
            settings(*WORDS, *words)
        assert message in str(error.value), words


# --- verdicts --------------------------------------------------------------------------------------------------------

NUMBERS = {"exact": (1e-12, -0.3), "limit": (1e-3, 1.0), "no": (0.5, 0.0)}


def of_table(changed: dict[tuple[str, str], str], rules: Any = RULES) -> Selection:
    """The derived table with some entries changed."""
    rows = []
    for rule in rules:
        row: dict[str, Any] = {
            "status": "finished",
            "seed": 0,
            "lr": np.nan,
            "rule": rule,
            "step_size": 0.01,
            "travelled": 1.0,
        }
        for kind in CLASSES:
            defect, order = NUMBERS[changed.get((rule, kind), expected(rule, kind))]
            row |= {f"defect_{kind}": defect, f"order_{kind}": order}
        rows.append(row)
    return select(pd.DataFrame(rows), verdicts.DEFECTS, "quick")


def test_an_entry_is_measured_by_its_size_and_by_how_it_falls() -> None:
    for defect, order, said in [(1e-9, 0.0, "exact"), (1e-3, 0.9, "limit"), (1e-3, 0.3, "no"), (0.4, 0.9, "no")]:
        row = pd.Series({"defect_affine": defect, "order_affine": order})
        assert verdicts.measured("gd", row, "affine") == said
    assert verdicts.measured("muon", pd.Series({"defect_affine": 0.02}), "affine") == "exact"
    assert verdicts.measured("gd", pd.Series({"order_affine": 1.0}), "affine") is None


def test_the_table_is_judged_entry_by_entry() -> None:
    assert verdicts.judge_derived(of_table({}))[1] is YES
    assert verdicts.judge_derived(of_table({("gd", "affine"): "exact"}))[1] is PARTLY
    wrong = {(rule, kind): "limit" for rule in ("gd", "adam", "sign", "madam") for kind in CLASSES}
    assert verdicts.judge_derived(of_table(wrong))[1] is NO
    assert verdicts.judge_derived(of_table({}, ["gd"])) == ("-", Verdict.NOT_RUN)


def test_most_are_unnatural_if_more_than_half_are() -> None:
    assert verdicts.judge_unnatural(of_table({}))[1] is YES
    assert "10 of 10" in verdicts.judge_unnatural(of_table({}))[0]
    half = {(rule, "nonlinear"): "limit" for rule in POPULAR[:5]}
    assert verdicts.judge_unnatural(of_table(half))[1] is PARTLY
    assert verdicts.judge_unnatural(of_table({(rule, "nonlinear"): "limit" for rule in POPULAR}))[1] is NO


def test_rules_are_natural_if_they_commute_with_every_map() -> None:
    every = tuple(CLASSES)
    rules = ("ngd", "ngd_geodesic")
    assert verdicts.judge_natural(rules, every, of_table({}))[1] is YES
    assert verdicts.judge_natural(rules, every, of_table({("ngd", "nonlinear"): "no"}))[1] is PARTLY
    assert verdicts.judge_natural(("gd",), every, of_table({}))[1] is NO
    assert verdicts.judge_natural(("ngd",), every, of_table({}, ["gd"])) == ("-", Verdict.NOT_RUN)


def test_descent_is_judged_at_the_largest_condition_number() -> None:
    def judged(**steps: list[float]) -> Verdict:
        rows = [
            {"status": "finished", "seed": 0, "lr": np.nan, "rule": rule, "condition": condition, "step_size": 0.1,
             "steps_needed": needed, "loss_share": 0.1}
            for rule, own in steps.items()
            for condition, needed in zip((1.0, 100.0), own, strict=False)
        ]  # fmt: skip
        return verdicts.judge_descent(select(pd.DataFrame(rows), verdicts.DESCENT, "quick_descent"))[1]

    assert judged(gd=[100, 400], ngd=[10, 10]) is YES
    assert judged(gd=[100, 400], ngd=[10, 20]) is PARTLY
    assert judged(gd=[100, 120], ngd=[10, 20]) is NO
    assert judged(gd=[100, 400]) is Verdict.NOT_RUN


def test_the_figures_of_both_parts_are_drawn(settings: Resolve) -> None:
    scales = {}
    for words in ([*WORDS], [*WORDS, "task.rule=madam"], [*DESCENT], [*DESCENT, "task.rule=ngd"]):
        chosen = settings(*words)
        assert run(chosen) is Status.FINISHED
        scales[comparison_id(chosen)] = "smoke_descent" if chosen.task.condition else "smoke"  # type: ignore[attr-defined]
    results = chosen.machine.results
    collect(results, "naturality", scales)
    told = report.write(results, "naturality", "smoke")
    assert "left out" not in told
    names = {path.stem for path in Path(results, "figures").glob("*.png")}
    assert names == {"naturality-smoke", "naturality-smoke_descent"}
