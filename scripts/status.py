"""Lists what has run, what runs and for how long, what failed and of what, from the records under results/runs.

With settings (sweep=mlp_depth scale=quick seed=0,1,2) only the runs of that sweep, and those of it that are missing.
"""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from arguments import Parser

from reltrust.errors import RecordError, SettingsError
from reltrust.records.store import RunRecord, Status, Store, busy

INTERRUPTED, MISSING, UNKNOWN = "interrupted", "missing", "unknown"  # what no run calls itself
COLUMNS = [*Status, INTERRUPTED, UNKNOWN, MISSING]


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("settings", nargs="*", help="of a sweep, as its command has them")
    parser.add_argument("--watch", nargs="?", type=float, const=10.0, metavar="SECONDS", help="again and again")
    parser.add_results("runs")
    arguments = parser.parse_args()
    if wrong := [word for word in arguments.settings if "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    try:
        wanted = sweep(arguments.settings, arguments.results) if arguments.settings else None
        while True:
            text = report(wanted if wanted is not None else list(Store(arguments.results).records()))
            if arguments.watch is None:
                break
            print(f"\x1b[H\x1b[2J{text}", flush=True)  # in the place of the one before
            time.sleep(arguments.watch)
    except SettingsError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    print(text or f"no runs in {arguments.results}/runs")


def sweep(words: Sequence[str], results: str) -> list[RunRecord]:
    """The records of a sweep's runs, begun or not."""
    from hydra_plugins.reltrust_plugins.scripting import settings_of_sweep  # a second, only for those who ask

    store = Store(results)
    found = [store.record(settings) for settings in settings_of_sweep(words)]
    return list({record.path: record for record in found}.values())


def report(records: Sequence[RunRecord]) -> str:
    """A table of the statuses by experiment and optimizer, then a line for each run that has no result yet."""
    statuses: dict[RunRecord, tuple[str, str]] = {}
    for record in records:
        try:
            statuses[record] = (str(record.status or MISSING), "")
        except RecordError as error:
            statuses[record] = (UNKNOWN, str(error))
    running = [record for record, (status, _) in statuses.items() if status == Status.RUNNING]
    for record, held in zip(running, busy(running), strict=True):
        if not held:
            statuses[record] = (INTERRUPTED, "")  # its process was killed without a word; it will be resumed
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record, (status, _) in statuses.items():
        counts["/".join(record.path.parts[-3:-1])][status] += 1
    shown = [column for column in COLUMNS if any(count[column] for count in counts.values())]
    rows = [["", *shown]] + [[group, *(str(count[column]) for column in shown)] for group, count in counts.items()]
    if len(counts) > 1:
        rows.append(["all", *(str(sum(count[column] for count in counts.values())) for column in shown)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows if counts]
    for record, (status, text) in statuses.items():
        if status not in (Status.FINISHED, Status.DIVERGED, MISSING):
            lines.append(f"{status:>12}  {record.path}  {text or describe(record, status)}".rstrip())
    return "\n".join(lines)


def describe(record: RunRecord, status: str) -> str:
    """How far the run is, and what it failed of."""
    if status == Status.DAMAGED:
        return record.error or ""
    row, planned = record.last_row, (record.config.get("training") or {}).get("steps")
    text = "no step logged" if not row else f"step {row['step']}"
    if row and planned:
        text += f"/{planned} ({row['step'] / planned:.0%})"
        if status == Status.RUNNING:
            text += remaining(row, planned)
    return text if record.error is None else f"{text}  {record.error}"


def remaining(row: dict[str, Any], planned: int) -> str:
    """The time that the other steps will take if they take as long as these did."""
    if not row.get("seconds"):
        return ""
    seconds = row["seconds"] / row["step"] * (planned - row["step"])
    return f", {seconds / 3600:.1f} h left" if seconds > 5400 else f", {seconds / 60:.0f} min left"


if __name__ == "__main__":
    main()
