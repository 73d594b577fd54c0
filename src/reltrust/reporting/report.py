"""An experiment's figures, tables and verdicts, from saved tables alone: what its ``figure.py`` states, carried out."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from reltrust import experiments
from reltrust.records.artifacts import keep_pictures, read_curves, summary_path, write_table
from reltrust.reporting.claims import Claim, Judgement, as_text
from reltrust.reporting.selection import Comparison, Selection, describe, select
from reltrust.reporting.style import Styles, save
from reltrust.reporting.table import at_step, load, scales


@dataclass(frozen=True)
class Figure:
    """One figure of an experiment."""

    suffix: str
    """Its file is ``<experiment>-<scale><suffix>``."""
    comparison: Comparison
    draw: Callable[..., Any]
    """A Selection of our runs, one more for each of ``also``, and their Styles, to a figure of matplotlib."""
    also: tuple[Comparison, ...] = ()
    scales: tuple[str, ...] | None = None
    """Where it is drawn; None: at every scale."""
    pictures: str | None = None
    """The name of a file of the runs that it shows: ``draw`` then gets, after the Styles, by arm and step the paths of
    those that the selected run with the lowest seed has kept, copied to ``results/pictures``."""


@dataclass(frozen=True)
class Report:
    """What an experiment's ``figure.py`` defines as ``REPORT``."""

    title: str
    """The figure's name in the paper."""
    figures: tuple[Figure, ...]
    claims: tuple[Claim, ...]
    cost: Mapping[str, tuple[str, str]]
    """By scale, those that the readme's table of claims shows: the command, and what it costs."""
    published: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """By scale: published runs, in columns of the experiment's table, for the column beside ours."""
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By scale: others whose runs its sweep makes too, as an analysis and a training are never of one scale."""

    def compared(self, scale: str | None = None) -> list[Comparison]:
        """What its figures and claims compare, at this scale or at any; the main comparison first."""
        figures = [one for one in self.figures if scale is None or one.scales is None or scale in one.scales]
        claims = [one for one in self.claims if scale is None or scale in one.scales]
        shown = [comparison for figure in figures for comparison in (figure.comparison, *figure.also)]
        return list(dict.fromkeys([*shown, *(claim.comparison for claim in claims)]))


def names() -> list[str]:
    """The experiments that have figures."""
    return sorted({path.parent.name for folder in experiments.__path__ for path in Path(folder).glob("*/figure.py")})


def load_report(experiment: str) -> Report:
    report: Report = importlib.import_module(f"{experiments.__name__}.{experiment}.figure").REPORT
    return report


def write(results: str | Path, experiment: str, only: str | None = None) -> str:
    """Draws the figures of every scale of which there are runs (or of ``only`` that), and says what they show.

    Beside the figures it writes ``summaries/<experiment>-<scale>-selected.csv``: n, mean and spread of every cell at
    its selected learning rate, and the published value of the same cell, selected by the same rule.
    """
    if not summary_path(results, experiment).exists():
        return f"{experiment}: nothing in {results}/summaries yet"
    report, texts = load_report(experiment), []
    table, curves = load(results, experiment, report.compared), read_curves(results, experiment)
    styles = Styles(table, also={arm for runs in report.published.values() for arm in runs["arm"]})
    for scale, runs in scales(table):
        if only not in (None, scale) and scale not in report.parts.get(str(only), ()):
            continue
        if not report.compared(scale):  # runs of somebody's own settings, and figures of named scales alone
            continue
        paths, selections = [], _selections(report, runs, curves, scale)
        for figure in report.figures:
            if figure.scales is not None and scale not in figure.scales:
                continue
            shown = [selections[comparison] for comparison in (figure.comparison, *figure.also)]
            more = [_pictures(results, experiment, shown[0], figure.pictures)] if figure.pictures else []
            drawn = figure.draw(*shown, styles, *more)
            paths += save(drawn, results, f"{experiment}-{scale}{figure.suffix}")
            plt.close(drawn)
        left_out = [line for selection in selections.values() for line in selection.left_out]
        main = report.compared(scale)[0]
        cells = describe(selections[main])
        if scale in report.published:
            tuned = [main.tuned] if main.tuned else []
            theirs = describe(select(report.published[scale], main, "published"))[["arm", main.x, *tuned, "mean"]]
            theirs = theirs.rename(columns={"mean": "published", **{key: f"published_{key}" for key in tuned}})
            cells = cells.merge(theirs, how="left", on=["arm", main.x])
        text = cells.rename(columns={"arm": "optimizer" if main.arm == "arm" else main.arm}).to_csv(
            index=False, float_format="%.10g"
        )
        selected = write_table(results, f"{experiment}-{scale}-selected", text)
        judged = _judgements(report, selections, scale)
        texts.append(
            "\n".join([
                f"{experiment}, scale {scale}",
                *(f"left out: {line}" for line in dict.fromkeys(left_out)),
                as_text(judged) if judged else "no claim can be judged at this scale",
                f"means, spreads, published numbers: {selected}",
                f"figures: {', '.join(map(str, paths))}",
            ])
        )  # fmt: skip
    return "\n\n".join(texts) if texts else f"{experiment}: no runs of the scale {only} in {results}/summaries"


def _selections(report: Report, runs: pd.DataFrame, curves: pd.DataFrame, scale: str) -> dict[Comparison, Selection]:
    """Each of the report's comparisons of this scale, selected once for figure, table and verdict."""
    selections = {}
    for comparison in report.compared(scale):
        rows = runs if comparison.step is None else at_step(runs, curves, comparison.step)
        found = select(rows, comparison, scale)
        if not curves.empty:
            own = curves.merge(found.best[["comparison", "run", "arm", "seed"]], on=["comparison", "run"])
            found = replace(found, curves=own)
        selections[comparison] = found
    return selections


def _pictures(results: str | Path, experiment: str, selection: Selection, name: str) -> dict[str, dict[int, Path]]:
    """By arm and step, the pictures of its selected run with the lowest seed; of the arms that have any."""
    found = {}
    for arm, runs in selection.best.groupby("arm"):
        first = runs.sort_values("seed", kind="stable").iloc[0]
        if pictures := keep_pictures(results, experiment, first["run"], name):
            found[str(arm)] = pictures
    return found


def _judgements(report: Report, selections: Mapping[Comparison, Selection], scale: str) -> list[Judgement]:
    """A judgement on every claim that may be judged at this scale, from its runs if there are any."""
    return [claim.judged(selections.get(claim.comparison)) for claim in report.claims if scale in claim.scales]


def claims_table(results: str | Path) -> str:
    """All claims of all experiments as a table in Markdown, those without runs too."""
    lines = ["| figure | claim | published | ours | verdict | command | cost |", "|---|---|---|---|---|---|---|"]
    for name in names():
        report = load_report(name)
        runs = dict(scales(load(results, name, report.compared))) if summary_path(results, name).exists() else {}
        curves = read_curves(results, name)
        for scale, (command, cost) in report.cost.items():
            selections = _selections(report, runs[scale], curves, scale) if scale in runs else {}
            for one in _judgements(report, selections, scale):
                cells = (f"{report.title}, {scale}", one.claim, one.published, one.ours)
                lines.append(f"| {' | '.join(cells)} | **{one.verdict}** | `{command}` | {cost} |")
    return "\n".join(lines) + "\n"
