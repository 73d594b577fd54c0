"""Takes records and tables of another results folder, of a cluster or a colleague, into this one.

The same run twice is one if it measured the same; if not, it is told, stays as it is here, and the exit status is 1.
"""

import sys
from collections import Counter
from pathlib import Path

from arguments import Parser, existing_folder

from hydra_plugins.reltrust_plugins.scripting import scales_by_comparison
from reltrust import experiment
from reltrust.errors import RecordError
from reltrust.records.merging import DIFFERENT, KEPT, SAME, TAKEN, merge_runs, merge_tables
from reltrust.records.store import Store
from reltrust.records.summaries import collect


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("other", type=existing_folder, help="the other folder, with runs/ or summaries/")
    parser.add_argument("--results", default="results", help="the folder that takes them (default: results)")
    arguments = parser.parse_args()
    if Path(arguments.results).exists() and Path(arguments.other).samefile(arguments.results):
        parser.error(f"other={arguments.other}: is --results itself")
    if not any(Path(arguments.other, part).is_dir() for part in ("runs", "summaries")):
        parser.error(f"other={arguments.other}: has neither runs/ nor summaries/")
    try:
        counts: Counter[str] = Counter()
        for what, place in merge_runs(arguments.results, arguments.other):
            counts[what.partition(":")[0]] += 1
            if what not in (TAKEN, SAME, KEPT):
                print(f"{place}: {what}")
        begun = Store(arguments.results).experiments()  # to know the scales of one takes a second
        for name in (name for name in experiment.names() if name in begun):
            collect(arguments.results, name, scales_by_comparison(name))
        for what, place in merge_tables(arguments.results, arguments.other):
            if what.startswith(DIFFERENT):
                counts[DIFFERENT] += 1
            print(f"{place}: {what}")
    except RecordError as error:
        sys.exit(f"error: {error}")
    print(f"runs: {', '.join(f'{count} {what}' for what, count in counts.items()) or 'none'}")
    sys.exit(1 if counts[DIFFERENT] else 0)


if __name__ == "__main__":
    main()
