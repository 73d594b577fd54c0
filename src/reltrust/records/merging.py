"""Two stores become one: records and tables of another machine, or of a colleague."""

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from reltrust.errors import BusyError, RecordError
from reltrust.records.artifacts import curves_path, read_curves, read_summary, summary_path, write_table
from reltrust.records.files import writing
from reltrust.records.identity import canonical
from reltrust.records.store import RunRecord, Status, Store

TAKEN, SAME, KEPT, LEFT, DIFFERENT = "taken", "the same in both", "kept ours", "left there", "different"
# What two machines may differ in without having measured anything else.
_OF_THE_MACHINE = ("seconds", "members", "attempts", "device", "torch", "commit", "dirty", "ended", "style", "scale")


def merge_runs(results: str | Path, other: str | Path) -> Iterator[tuple[str, str]]:
    """Takes the runs of the other store that are not results here yet; what became of each, beside its path.

    A run that is a result in both is one if all its measures are equal; if they are not, it is told and stays as it is
    here. What is still worked on, here or there, is left alone.
    """
    store = Store(results)
    for theirs in Store(other).records():
        place = theirs.path.relative_to(Store(other).root)
        try:
            yield _merge(RunRecord(store.root / place), theirs), str(place)
        except RecordError as error:
            yield f"{LEFT}: {error}", str(place)


def _merge(ours: RunRecord, theirs: RunRecord) -> str:
    status, here = theirs.status, ours.status
    if status is Status.DAMAGED:
        return f"{LEFT}: {theirs.error}"
    if here is not None and ours.provenance["id"] != theirs.provenance["id"]:
        return f"{DIFFERENT}: two runs, {ours.provenance['id']} and {theirs.provenance['id']}"
    if here is not None and here.is_result:
        if status is None or not status.is_result:
            return KEPT
        found = _difference(ours, theirs)
        return SAME if found is None else f"{DIFFERENT}: {found}"
    if theirs.is_busy or (here is not None and ours.is_busy):
        return f"{LEFT}: it is being worked on"
    if here is not None and not (status is not None and status.is_result):
        return KEPT  # unfinished in both
    return TAKEN if _copy(theirs.path, ours) else f"{LEFT}: it is being worked on"


def _copy(source: Path, ours: RunRecord) -> bool:
    """Whole or not at all; not where somebody has begun the run meanwhile."""
    target = ours.path
    scrap, old = (target.with_name(f".{target.name}.{name}") for name in ("scrap", "old"))
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        try:
            ours.lease.acquire()
        except BusyError:
            return False
        try:
            if (status := ours.status) is not None and status.is_result:
                return False
            for left in (scrap, old):
                shutil.rmtree(left, ignore_errors=True)
            shutil.copytree(source, scrap, ignore=shutil.ignore_patterns(".lease*", ".*.scrap"))
            target.rename(old)
            scrap.rename(target)
            shutil.rmtree(old)
        finally:
            ours.lease.release()
            with suppress(OSError):
                target.rmdir()  # if nothing has come into it
    return True


def _difference(ours: RunRecord, theirs: RunRecord) -> str | None:
    """The first thing that two results of one run differ in."""
    if ours.status != theirs.status:
        return f"{ours.status} here, {theirs.status} there"
    for mine, other in zip(ours.metrics, theirs.metrics, strict=False):
        if found := _unequal(mine, other):
            return f"step {mine.get('step')}: {found}"
    if len(ours.metrics) != len(theirs.metrics):
        return f"{len(ours.metrics)} rows of metrics here, {len(theirs.metrics)} there"
    return _unequal(ours.summary, theirs.summary)


def _unequal(mine: dict[str, Any], other: dict[str, Any]) -> str | None:
    for key in dict.fromkeys([*mine, *other]):
        # As text: what is not a number is equal to itself.
        a, b = (json.dumps(canonical(one.get(key))) for one in (mine, other))
        if key not in _OF_THE_MACHINE and a != b:
            return f"{key} {mine.get(key)} here, {other.get(key)} there"
    return None


def merge_tables(results: str | Path, other: str | Path) -> Iterator[tuple[str, str]]:
    """Takes the rows of the other store's tables that no record here stands for; what became of them, beside the table.

    The rows of one comparison come from records, where there are any here, see
    :func:`~reltrust.records.summaries.collect`: then the other store's rows of it are left, as numbers without their
    runs. A row that both tables have is one if its measures are equal; if not, it is told and stays as it is here.
    """
    for path in sorted(Path(other, "summaries").glob("*.csv")):
        experiment = path.stem
        if not summary_path(other, experiment).exists() or experiment.endswith(("-curves", "-selected")):
            continue
        theirs = read_summary(other, experiment)
        ours = read_summary(results, experiment) if summary_path(results, experiment).exists() else theirs.head(0)
        recorded = {record.provenance["comparison"][:8] for record in Store(results).records(experiment)}
        known = {(row["comparison"], row["run"]): row for row in ours.to_dict("records")}
        taken = []
        for row in theirs.to_dict("records"):
            place = f"{experiment}: {row['run']}"
            if (mine := known.get((row["comparison"], row["run"]))) is not None:
                found = _unequal(*({str(k): None if pd.isna(v) else v for k, v in one.items()} for one in (mine, row)))
                if found:
                    yield f"{DIFFERENT}: {found}", place
            elif row["comparison"] in recorded:
                yield f"{LEFT}: records stand for this comparison here, and there is none of this run", place
            else:
                taken.append((row["comparison"], row["run"]))
        if taken:
            _append(results, other, experiment, ours, theirs, set(taken))
            yield f"{TAKEN}: {len(taken)} rows", str(summary_path(results, experiment))


def _append(
    results: str | Path,
    other: str | Path,
    experiment: str,
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    taken: set[tuple[str, str]],
) -> None:
    def chosen(table: pd.DataFrame) -> pd.DataFrame:
        return table[[pair in taken for pair in zip(table["comparison"], table["run"], strict=True)]]

    table = pd.concat([ours, chosen(theirs)]).sort_values(["comparison", "optimizer", "run"], kind="stable")
    if curves_path(other, experiment).exists():
        curves = pd.concat([read_curves(results, experiment), chosen(read_curves(other, experiment))])
        ordered = curves.sort_values(["comparison", "run", "step"], kind="stable")
        write_table(results, f"{experiment}-curves", ordered.to_csv(index=False))
    write_table(results, experiment, table.to_csv(index=False))
