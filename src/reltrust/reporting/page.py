"""The report: one page that needs no network, from saved tables and figures that are drawn already."""

import base64
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from reltrust import experiments
from reltrust.records.artifacts import figure_path, report_path, summary_path, write_report
from reltrust.reporting import pages
from reltrust.reporting.captions import named
from reltrust.reporting.claims import Claim, Judgement, Verdict
from reltrust.reporting.pairwise import pairwise
from reltrust.reporting.report import Evaluation, Report, load_report

_WIDEST = 1400  # pixels of an embedded figure
_RUN_COLUMNS = ("seed", "status", "steps", "seconds", "device", "commit")


@dataclass(frozen=True)
class Table:
    """Cells as they are shown, and which columns hold numbers."""

    columns: list[str]
    rows: list[list[str]]
    numeric: list[bool]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Table":
        numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
        rows = [[shown(value) for value in row] for row in frame.itertuples(index=False)]
        return cls([named(str(column)) for column in frame], rows, numeric)


@dataclass(frozen=True)
class Line:
    """One claim at one scale: a row of the table of claims, and what it expands to."""

    figure: str
    judgement: Judgement
    rule: str
    tuned: bool
    """Whether a learning rate is selected."""
    tables: list[str]
    """The experiments in whose tables the runs are: its own, or those that the claim compares."""
    scale: str
    command: str
    cost: str
    hardware: str = ""
    runs: Table | None = None
    """Those behind the verdict, at their selected learning rates."""
    compared: int = 0
    """How many there are at every learning rate."""


@dataclass(frozen=True)
class Picture:
    name: str
    about: str
    caption: str
    data: str | None
    """The image as a URI; None: it was not drawn."""


@dataclass(frozen=True)
class Block:
    """What the page has of a scale of an experiment."""

    scale: str
    pictures: list[Picture]
    cells: Table
    pairs: Table | None
    notes: list[str]


@dataclass(frozen=True)
class Chapter:
    """What the page has of an experiment: texts, numbers and pictures, whichever process they were made in."""

    name: str
    title: str
    question: str
    readme: str | None
    summary: str | None
    deviations: str
    lines: list[Line]
    blocks: list[Block]
    provenance: list[dict[str, Any]]
    """A row a scale."""


def write(results: str | Path, chapters: Sequence[Chapter], errors: Sequence[str] = ()) -> Path:
    """Writes ``report/index.html``: the chapters, and what could not be read, an error a line; returns its path."""
    provenance = [row for chapter in chapters for row in chapter.provenance]
    lines = [line for chapter in chapters for line in chapter.lines]
    environment = Environment(
        loader=PackageLoader("reltrust.reporting", "html"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template("report.html.jinja").render(
        chapters=chapters,
        lines=lines,
        counts=Counter(str(line.judgement.verdict) for line in lines),
        verdicts=[str(verdict) for verdict in Verdict],
        errors=errors,
        provenance=Table.of(pd.DataFrame(provenance)) if provenance else None,
        protocol=_link(results, Path(experiments.__path__[-1]).parent / "docs" / "protocol.md"),
        versions={package: version(package) for package in ("matplotlib", "pandas")},
    )
    return write_report(results, html)


def chapter(results: str | Path, name: str, evaluations: Sequence[Evaluation]) -> Chapter:
    """Of an experiment and what was found at its scales.

    Figures are those in ``results/figures``: the page says which are not drawn.
    """
    report, found = load_report(name), {one.scale: one for one in evaluations}
    folder = next(Path(path, name) for path in experiments.__path__ if Path(path, name, "figure.py").exists())
    readme = folder / "README.md"
    page = readme.read_text(encoding="utf-8") if readme.exists() else ""

    def moved(target: str) -> str:
        return _link(results, folder / target) or target

    return Chapter(
        name=name,
        title=report.title,
        question=pages.heading(page) or name,
        readme=_link(results, readme),
        summary=_link(results, summary_path(results, name)),
        deviations=pages.deviations(page, moved),
        lines=list(_lines(name, report, found)),
        blocks=[_block(results, name, one) for one in evaluations],
        provenance=[_provenance(name, one) for one in evaluations],
    )


def _lines(name: str, report: Report, found: Mapping[str, Evaluation]) -> Iterator[Line]:
    """Of every scale, the strongest first."""
    for scale, (command, cost) in report.cost.items():
        evaluation = found.get(scale)
        judgements = evaluation.judgements if evaluation else report.not_run(scale)
        for claim, judgement in zip(report.claims_of(scale), judgements, strict=True):
            tables = sorted({one.source[0] if one.source else name for one in claim.comparisons})
            tuned = claim.comparison.tuned is not None
            line = Line(report.title, judgement, claim.rule, tuned, tables, scale, command, cost)
            if evaluation and judgement.verdict is not Verdict.NOT_RUN:
                about = [evaluation.selections[comparison] for comparison in claim.comparisons]
                runs = pd.concat([_of_arms(one.best, claim.arms) for one in about])
                compared = pd.concat([_of_arms(one.runs, claim.arms) for one in about])
                hardware, table = ", ".join(sorted(set(runs["device"].astype(str)))), _runs(runs, claim)
                line = replace(line, hardware=hardware, runs=table, compared=len(compared))
            yield line


def _of_arms(runs: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    return runs[runs["arm"].isin(arms)] if arms else runs


def _runs(runs: pd.DataFrame, claim: Claim) -> Table:
    """Rows of the experiment's table, by the columns that a reader needs to find and to weigh a run."""
    comparison = claim.comparison
    several = ["experiment"] if claim.also else []
    kept = [
        *several,
        "run",
        "arm",
        comparison.x,
        *([comparison.tuned] if comparison.tuned else []),
        "value",
        *_RUN_COLUMNS,
    ]
    frame = runs[[column for column in dict.fromkeys(kept) if column in runs]]
    frame = frame.sort_values([*several, "arm", comparison.x, "seed"], kind="stable")
    if not several:  # else there are several measures
        frame = frame.rename(columns={"value": comparison.measure.label})
    if "commit" in frame:
        frame = frame.assign(commit=frame["commit"].astype(str).str[:10])
    return Table.of(frame)


def _block(results: str | Path, name: str, found: Evaluation) -> Block:
    pictures = []
    for figure in found.figures:
        file = f"{name}-{found.scale}{figure.suffix}"
        about = (figure.draw.__doc__ or "").strip().partition("\n")[0]
        text = found.caption(figure)
        pictures.append(Picture(file, about, text, embedded(figure_path(results, file, "png"))))
    pairs = pairwise(found.main)
    cells = found.cells.dropna(axis="columns", how="all")  # of one seed there is neither spread nor interval
    return Block(found.scale, pictures, Table.of(cells), None if pairs.empty else Table.of(pairs), found.left_out)


def embedded(path: Path) -> str | None:
    """An image as a URI, at most 1400 pixels wide: as PNG of 32 colours, or as WebP, whichever is smaller (photographs
    are WebP). None if there is none."""
    if not path.exists():
        return None
    with Image.open(path) as image:
        flat = image.convert("RGB")
    if flat.width > _WIDEST:
        flat = flat.resize((_WIDEST, round(flat.height * _WIDEST / flat.width)), Image.Resampling.LANCZOS)
    few = flat.quantize(32, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    contents = {"png": io.BytesIO(), "webp": io.BytesIO()}
    few.save(contents["png"], format="png")
    flat.save(contents["webp"], format="webp", quality=80, method=0)
    kind, content = min(contents.items(), key=lambda one: len(one[1].getvalue()))
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def _provenance(name: str, found: Evaluation) -> dict[str, Any]:
    """Where a scale's numbers come from: how many runs, of which code, on what, when."""
    runs = found.runs

    def all_of(column: str, digits: int | None = None) -> str:
        values: set[str] = set(runs[column].dropna().astype(str).str[:digits]) if column in runs else set()
        return ", ".join(sorted(values))

    dirty = int((runs["dirty"].astype(str) == "True").sum()) if "dirty" in runs else 0
    return {
        "experiment": name,
        "scale": found.scale,
        "runs": len(runs),
        "diverged": int((runs["status"] == "diverged").sum()),
        "seeds": int(runs["seed"].nunique()),
        "data": all_of("data"),
        "protocol": all_of("protocol"),
        "hardware": all_of("device"),
        "torch": all_of("torch"),
        "commits": all_of("commit", 10),
        "of changed code": dirty,
        "ended": " to ".join(dict.fromkeys([runs["ended"].min()[:10], runs["ended"].max()[:10]])),
    }


def _link(results: str | Path, path: Path) -> str | None:
    """How the page refers to a file; None if there is none."""
    return Path(os.path.relpath(path, report_path(results).parent)).as_posix() if path.exists() else None


def shown(value: Any) -> str:
    """A value as a cell of a table has it."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return "" if value is None else str(value)
