"""An experiment's figures, tables and verdicts, from saved tables alone: what its ``figure.py`` states, carried out."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from reltrust import experiments
from reltrust.records.artifacts import keep_pictures, read_curves, summary_path, write_table
from reltrust.reporting.captions import caption, missing
from reltrust.reporting.claims import Claim, Judgement, as_text
from reltrust.reporting.selection import Comparison, Selection, describe, held_out, select
from reltrust.reporting.statistics import with_intervals
from reltrust.reporting.style import Styles, annotate, save
from reltrust.reporting.table import at_step, load, scales


@dataclass(frozen=True)
class Figure:
    """One figure of an experiment."""

    suffix: str
    """Its file is ``<experiment>-<scale><suffix>``."""
    comparison: Comparison
    draw: Callable[..., Any]
    """A Selection of our runs, one more for each of ``also``, and their Styles, to a figure of matplotlib; named after
    the published figure or table that it redraws. The first line of its docstring says what is seen."""
    also: tuple[Comparison, ...] = ()
    scales: tuple[str, ...] | None = None
    """Where it is drawn; None: at every scale."""
    only: Mapping[str, Any] = field(default_factory=dict)
    """By column, values: of the runs those that have them are shown."""
    selected: str | None = None
    """The caption's sentence on what is selected, where that is not what the comparison selects."""
    note: str = ""
    """The caption's last sentence."""
    curves: bool = False
    """Whether it draws what runs have measured on their way."""
    pictures: str | None = None
    """The name of a file of the runs that it shows: ``draw`` then gets, after the Styles, by arm and step the paths of
    those that the selected run with the lowest seed has kept, copied to ``results/pictures``."""

    def is_of(self, scale: str) -> bool:
        """Whether it is drawn at this scale."""
        return self.scales is None or scale in self.scales


@dataclass(frozen=True)
class Report:
    """What an experiment's ``figure.py`` defines as ``REPORT``."""

    title: str
    """The figure's name in the paper."""
    figures: tuple[Figure, ...]
    claims: tuple[Claim, ...]
    cost: Mapping[str, tuple[str, str]]
    """By scale, those whose claims are reported: the command, and what it costs. The strongest evidence comes first,
    the published protocol before its beginning, that before reduced ones: the README has a finding at the first of them
    that bears a verdict."""
    published: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """By scale: published runs, in columns of the experiment's table, for the column beside ours."""
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By scale: others whose runs its sweep makes too, as an analysis and a training are never of one scale."""
    elsewhere: tuple[str, ...] = ()
    """Scales whose runs are compared by another report, and not by this one."""

    def compared(self, scale: str | None = None) -> list[Comparison]:
        """What its figures and claims compare, at this scale or at any; the main comparison first."""
        if scale in self.elsewhere:
            return []
        figures = [one for one in self.figures if scale is None or one.is_of(scale)]
        claims = [one for one in self.claims if scale is None or scale in one.scales]
        shown = [comparison for figure in figures for comparison in (figure.comparison, *figure.also)]
        judged = [comparison for claim in claims for comparison in claim.comparisons]
        return list(dict.fromkeys([*shown, *judged]))

    @property
    def reads(self) -> list[str]:
        """The other experiments whose runs it compares; none: its own are compared."""
        return sorted({one.source[0] for one in self.compared() if one.source})

    def claims_of(self, scale: str) -> list[Claim]:
        """Those that may be judged at this scale."""
        return [claim for claim in self.claims if scale in claim.scales]

    def not_run(self, scale: str) -> list[Judgement]:
        """What is said of the scale's claims while it has no runs."""
        return [claim.judged() for claim in self.claims_of(scale)]


@dataclass(frozen=True)
class Evaluation:
    """The runs of one scale, selected once for figures, tables and verdicts."""

    report: Report
    scale: str
    runs: pd.DataFrame
    styles: Styles
    selections: Mapping[Comparison, Selection]
    """Of each of the report's comparisons at this scale, the main one first."""
    judgements: list[Judgement]
    """On each of its claims, in their order."""

    @property
    def main(self) -> Selection:
        return next(iter(self.selections.values()))

    def shown(self, figure: Figure) -> list[Selection]:
        """What this figure is drawn from."""
        return [self.selections[comparison].where(figure.only) for comparison in (figure.comparison, *figure.also)]

    @property
    def figures(self) -> list[Figure]:
        """Those of this scale of which there is something to show."""
        own = [figure for figure in self.report.figures if figure.is_of(self.scale)]
        return [figure for figure in own if any(not one.runs.empty for one in self.shown(figure))]

    def caption(self, figure: Figure) -> str:
        """What this figure shows, in words."""
        return caption(*self.shown(figure), selected=figure.selected, note=figure.note)

    @property
    def left_out(self) -> list[str]:
        """A line for all that may not be compared, and for all that is missing."""
        lines = [f"left out: {line}" for one in self.selections.values() for line in one.left_out]
        if self.report.reads:
            for one in self.selections.values():
                name, scale = one.comparison.source or ("", "")
                lines += [f"missing: {name}: {line}" for line in missing(one.runs, one, None)]
                if one.runs.empty:
                    lines.append(f"missing: {name}: all runs of scale {scale}")
        else:
            published = self.report.published.get(self.scale)
            lines += [f"missing: {line}" for line in missing(self.runs, self.main, published)]
        beside = {str(arm) for runs in self.report.published.values() for arm in runs["arm"]}  # named already
        for claim in self.report.claims_of(self.scale):
            there = {arm for comparison in claim.comparisons for arm in self.selections[comparison].runs["arm"]}
            absent = [arm for arm in claim.arms if arm not in there | beside]
            lines += [f"missing: all runs of {arm}, which a claim is of" for arm in absent if there]
        for figure in self.figures:
            if figure.curves and all(one.curves.empty for one in self.shown(figure)):
                lines.append(
                    f"missing: what its runs measured on their way, which a figure draws ({self.scale}{figure.suffix})"
                )
        return list(dict.fromkeys(lines))

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Of the main comparison: n, mean, spread and interval of every cell at its selected learning rate, its mean
        where learning rates are selected by other seeds than it is taken over, and the published value of the same
        cell, selected by the same rule. Of a report that reads others: of all comparisons, without published values.
        """
        if self.report.reads:
            every = {
                comparison.source[0]: with_intervals(describe(one))
                for comparison, one in self.selections.items()
                if comparison.source
            }
            cells = pd.concat(every, names=["experiment"]).reset_index("experiment")
            return cells.rename(columns={"arm": "optimizer"})
        main = self.main.comparison
        cells = with_intervals(describe(self.main))
        if main.tuned:
            cells = cells.merge(held_out(self.main), how="left", on=["arm", main.x])
        if self.scale in self.report.published:
            tuned = [main.tuned] if main.tuned else []
            theirs = describe(select(self.report.published[self.scale], main, "published"))
            theirs = theirs[["arm", main.x, *tuned, "mean"]]
            theirs = theirs.rename(columns={"mean": "published", **{key: f"published_{key}" for key in tuned}})
            cells = cells.merge(theirs, how="left", on=["arm", main.x])
        named = "optimizer" if main.arm == "arm" else main.arm
        return cells.rename(columns={"arm": named} if isinstance(named, str) else {})


def names() -> list[str]:
    """The experiments that have figures."""
    return sorted({path.parent.name for folder in experiments.__path__ for path in Path(folder).glob("*/figure.py")})


def load_report(experiment: str) -> Report:
    """Raises DamagedError as :func:`~reltrust.records.artifacts.read_published` does."""
    report: Report = importlib.import_module(f"{experiments.__name__}.{experiment}.figure").REPORT
    return report


def evaluate(
    results: str | Path, experiment: str, report: Report, wanted: Callable[[str], bool] = lambda scale: True
) -> Iterator[Evaluation]:
    """What the committed tables hold of every scale, or of those that are ``wanted``; nothing if there are none."""
    tables = {}
    for name in report.reads or [experiment]:
        if summary_path(results, name).exists():
            compared = partial(_compared_of, report, name) if report.reads else report.compared
            tables[name] = _Tables(load(results, name, compared), read_curves(results, name))
    if not tables:
        return
    also = {str(arm) for runs in report.published.values() for arm in runs["arm"]}
    styles = Styles(pd.concat([one.runs for one in tables.values()]), also=also)
    known = list(report.cost) if report.reads else [scale for scale, _ in scales(tables[experiment].runs)]
    for scale in known:
        # Not runs of somebody's own settings, where there are figures of named scales alone.
        if not (wanted(scale) and report.compared(scale)):
            continue
        selections = {}
        for comparison in report.compared(scale):
            name, of_scale = comparison.source or (experiment, scale)
            selections[comparison] = tables.get(name, _NOTHING).selection(comparison, of_scale)
        runs = pd.concat([one.runs for one in selections.values()]) if report.reads else tables[experiment].of(scale)
        if not runs.empty:
            judged = [
                claim.judged(*(selections[comparison] for comparison in claim.comparisons))
                for claim in report.claims_of(scale)
            ]
            yield Evaluation(report, scale, runs, styles, selections, judged)


def _compared_of(report: Report, experiment: str, scale: str) -> list[Comparison]:
    """What a report that reads others compares of these runs."""
    return [one for one in report.compared() if one.source == (experiment, scale)]


@dataclass(frozen=True)
class _Tables:
    """An experiment's tables: a row a run, and a row an evaluation."""

    runs: pd.DataFrame
    curves: pd.DataFrame

    def of(self, scale: str) -> pd.DataFrame:
        """The runs of one scale."""
        return dict(scales(self.runs)).get(scale, self.runs.iloc[:0])

    def selection(self, comparison: Comparison, scale: str) -> Selection:
        """Selected once, for figure, table and verdict."""
        runs = self.of(scale)
        rows = runs if comparison.step is None else at_step(runs, self.curves, comparison)
        found = select(rows, comparison, scale)
        if not self.curves.empty:
            own = self.curves.merge(found.best[["comparison", "run", "arm", "seed"]], on=["comparison", "run"])
            found = replace(found, curves=own)
        return found


_NOTHING = _Tables(
    pd.DataFrame(columns=["comparison", "scale", "run", "arm", "optimizer", "seed", "status", "lr"]),
    pd.DataFrame(columns=["comparison", "run", "step"]),
)


def write(
    results: str | Path,
    experiment: str,
    only: str | None = None,
    then: Callable[[Evaluation], object] = lambda found: None,
) -> str:
    """Draws the figures of every scale of which there are runs (or of ``only`` that), and says what they show.

    Beside the figures it writes ``summaries/<experiment>-<scale>-selected.csv``, the cells of an :class:`Evaluation`.
    ``then`` gets each of these, once its figures are drawn.
    """
    report, texts = load_report(experiment), []
    if not any(summary_path(results, name).exists() for name in report.reads or [experiment]):
        return f"{experiment}: nothing in {results}/summaries yet"

    def wanted(scale: str) -> bool:
        return only in (None, scale) or scale in report.parts.get(str(only), ())

    for found in evaluate(results, experiment, report, wanted):
        paths = _draw(results, experiment, found)
        text = found.cells.to_csv(index=False, float_format="%.10g")
        selected = write_table(results, f"{experiment}-{found.scale}-selected", text)
        texts.append(
            "\n".join([
                f"{experiment}, scale {found.scale}",
                *found.left_out,
                as_text(found.judgements) if found.judgements else "no claim can be judged at this scale",
                f"means, spreads, published numbers: {selected}",
                f"figures: {', '.join(map(str, paths))}",
            ])
        )  # fmt: skip
        then(found)
    which = "a scale that it draws" if only is None else f"the scale {only}"
    return "\n\n".join(texts) if texts else f"{experiment}: no runs of {which} in {results}/summaries"


def _draw(results: str | Path, experiment: str, found: Evaluation) -> list[Path]:
    """Draws the figures of a scale; returns their files."""
    paths = []
    for figure in found.figures:
        shown = found.shown(figure)
        more = [_pictures(results, experiment, shown[0], figure.pictures)] if figure.pictures else []
        drawn = figure.draw(*shown, found.styles, *more)
        annotate(drawn, found.caption(figure))
        paths += save(drawn, results, f"{experiment}-{found.scale}{figure.suffix}")
        plt.close(drawn)
    return paths


def _pictures(results: str | Path, experiment: str, selection: Selection, name: str) -> dict[str, dict[int, Path]]:
    """By arm and step, the pictures of its selected run with the lowest seed; of the arms that have any."""
    found = {}
    for arm, runs in selection.best.groupby("arm"):
        first = runs.sort_values("seed", kind="stable").iloc[0]
        if pictures := keep_pictures(results, experiment, first["run"], name):
            found[str(arm)] = pictures
    return found
