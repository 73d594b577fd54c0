"""The README's table: a row for each published finding, at the strongest scale that bears a verdict."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from reltrust.reporting import findings, report
from reltrust.reporting.claims import Claim, Judgement, Verdict
from reltrust.reporting.findings import Finding
from reltrust.reporting.report import Report
from reltrust.reporting.selection import Comparison, Measure, Selection
from runs import FINISHED

ACCURACY = Measure("train_accuracy", "accuracy", best="max", diverged=0.0, ties="train_loss")
BY_DEPTH = Comparison(ACCURACY, x="hidden_layers")
GOOD, HALF, BAD, NONE = Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED, Verdict.NOT_RUN


def judge(ours: Selection) -> tuple[str, Verdict]:
    """reproduced: always."""
    return f"{len(ours.best)} runs", Verdict.REPRODUCED


def claim(text: str, *scales: str, finding: str = "it works", label: str = "") -> Claim:
    return Claim(text, BY_DEPTH, scales, f"{text} published", judge, finding=finding, label=label)


def stated(*claims: Claim) -> Report:
    cost = {scale: (f"make {scale}", f"cost of {scale}") for scale in ("paper", "paper20", "quick")}
    return Report("Nobody, figure 1", (), claims, cost)


def said(report: Report, **verdicts: list[Verdict]) -> list[tuple[str, str, str]]:
    """Finding, scale and verdict, where the claims of scales have these verdicts."""
    judged = {
        scale: [
            Judgement(own.text, own.published, str(verdict), verdict)
            for own, verdict in zip(report.claims_of(scale), verdicts[scale], strict=True)
        ]
        for scale in report.cost
    }
    return [(one.text, one.scale, one.in_words) for one in findings.findings(report, judged)]


def test_a_finding_stands_at_the_strongest_scale_that_was_run() -> None:
    everywhere = stated(claim("a", "quick", "paper", "paper20"))
    assert said(everywhere, paper=[GOOD], paper20=[BAD], quick=[BAD]) == [("it works", "paper", "**reproduced**")]
    assert said(everywhere, paper=[NONE], paper20=[BAD], quick=[GOOD]) == [
        ("it works", "paper20", "**not reproduced**")
    ]


def test_a_finding_of_which_no_scale_was_run_is_not_run_at_the_cheapest() -> None:
    nothing = said(stated(claim("a", "quick", "paper")), paper=[NONE], paper20=[], quick=[NONE])
    assert nothing == [("it works", "quick", "**not run**")]


def test_a_scale_at_which_all_claims_were_judged_comes_before_a_stronger_one_with_some() -> None:
    both = stated(claim("a", "quick", "paper"), claim("b", "quick", "paper"))
    assert said(both, paper=[GOOD, NONE], paper20=[], quick=[GOOD, GOOD]) == [("it works", "quick", "**reproduced**")]
    some = said(both, paper=[GOOD, NONE], paper20=[], quick=[NONE, NONE])
    assert some == [("it works", "paper", "**partly** (1 of 2 reproduced)")]


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ([GOOD, GOOD], GOOD),
        ([BAD, BAD], BAD),
        ([HALF, HALF], HALF),
        ([NONE, NONE], NONE),
        ([GOOD, BAD], HALF),
        ([HALF, BAD], HALF),
        ([GOOD, HALF], HALF),
        ([GOOD, NONE], HALF),
        ([BAD, NONE], BAD),
    ],
)
def test_claims_of_one_finding_are_judged_together(verdicts: list[Verdict], together: Verdict) -> None:
    for order in (verdicts, verdicts[::-1]):
        judgements = tuple(Judgement("", "", "", verdict) for verdict in order)
        assert Finding("", "quick", (claim("a"), claim("b")), judgements).verdict is together


def test_claims_of_one_finding_stand_below_each_other_with_their_labels_unless_they_say_the_same() -> None:
    claims = (claim("a", label="Adam"), claim("b", label="SGD"))
    judgements = tuple(Judgement(one.text, "abstract", ours, GOOD) for one, ours in zip(claims, "12", strict=True))
    one = Finding("it works", "quick", claims, judgements)
    assert (one.published, one.ours) == ("abstract", "Adam: 1<br>SGD: 2")


def test_what_most_claims_say_is_said_once_and_too_many_numbers_are_a_count_of_verdicts() -> None:
    claims = tuple(claim(name, label=name) for name in ("Adam", "SGD", "LARS"))
    published = ("abstract", "half", "abstract")

    def finding(*ours: str) -> Finding:
        judged = zip(claims, published, ours, (GOOD, BAD, GOOD), strict=True)
        return Finding("", "quick", claims, tuple(Judgement(c.text, theirs, own, v) for c, theirs, own, v in judged))

    one = finding("1", "2", "1")
    assert (one.published, one.ours) == ("abstract<br>SGD: half", "Adam, LARS: 1<br>SGD: 2")
    assert finding("1" * 300, "2" * 300, "3" * 300).ours == "reproduced: Adam; LARS<br>not reproduced: SGD"


def test_a_scale_is_judged_with_its_parts_where_it_has_claims_of_the_finding_itself() -> None:
    both = replace(stated(claim("a", "paper"), claim("b", "quick")), parts={"paper": ("quick",)})
    assert said(both, paper=[GOOD], paper20=[], quick=[BAD]) == [
        ("it works", "paper", "**partly** (1 of 2 reproduced)")
    ]
    assert said(both, paper=[NONE], paper20=[], quick=[GOOD]) == [("it works", "quick", "**reproduced**")]
    # What is of a part alone does not stand for the whole once some of that was judged.
    assert said(both, paper=[BAD], paper20=[], quick=[NONE]) == [
        ("it works", "paper", "**not reproduced** (0 of 2 reproduced)")
    ]
    three = replace(stated(claim("a", "paper"), claim("c", "paper"), claim("b", "quick")), parts={"paper": ("quick",)})
    assert said(three, paper=[BAD, NONE], paper20=[], quick=[GOOD]) == [
        ("it works", "paper", "**partly** (1 of 3 reproduced)")
    ]
    other = claim("b", "quick", finding="another")
    apart = replace(stated(claim("a", "paper"), other), parts={"paper": ("quick",)})
    assert said(apart, paper=[GOOD], paper20=[], quick=[BAD]) == [
        ("it works", "paper", "**reproduced**"), ("another", "quick", "**not reproduced**"),
    ]  # fmt: skip


def test_a_claim_without_a_finding_is_in_no_row() -> None:
    assert said(stated(claim("a", "quick", finding="")), paper=[], paper20=[], quick=[GOOD]) == []


def test_the_table_holds_what_was_measured_and_what_was_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = (claim("|a|", "quick", "paper"), claim("b", "paper20", finding="it |too|"))
    monkeypatch.setattr(findings, "names", lambda: ["mlp_depth"])
    monkeypatch.setattr(findings, "load_report", lambda _: stated(*claims))

    def rows() -> list[list[str]]:
        head, rule, *lines = findings.table(tmp_path).splitlines()
        assert head.count("|") == rule.count("|") == 9
        return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]

    first = ["Nobody, figure 1", "it works", r"\|a\| published"]
    second = ["Nobody, figure 1", r"it \|too\|", "b published", "-", "**not run**", "paper20", "`make paper20`"]
    second.append("cost of paper20")
    assert rows() == [[*first, "-", "**not run**", "quick", "`make quick`", "cost of quick"], second]
    (tmp_path / "summaries").mkdir()
    pd.DataFrame([FINISHED]).to_csv(tmp_path / "summaries" / "mlp_depth.csv", index=False)
    assert rows() == [[*first, "1 runs", "**reproduced**", "quick", "`make quick`", "cost of quick"], second]


# --- the experiments' ------------------------------------------------------------------------------------------------


def test_the_readme_has_at_most_thirty_findings_and_three_of_an_experiment() -> None:
    counts = {name: len({claim.finding for claim in report.load_report(name).claims} - {""}) for name in report.names()}
    assert {name: count for name, count in counts.items() if count > 3} == {}
    assert sum(counts.values()) <= 30


@pytest.mark.parametrize("name", report.names())
def test_the_claims_of_a_finding_are_told_apart_by_their_labels(name: str) -> None:
    stated = report.load_report(name)
    for scale in stated.cost:
        own = [(claim.finding, claim.label) for claim in stated.claims_of(scale) if claim.finding]
        assert len(set(own)) == len(own), f"{name}, {scale}"


@pytest.mark.parametrize("name", report.names())
def test_every_claim_is_judged_by_a_rule_in_words(name: str) -> None:
    for one in report.load_report(name).claims:
        assert "reproduced" in one.rule or "judge_" in one.rule, one.text
