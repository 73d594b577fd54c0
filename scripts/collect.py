"""Writes the tables in results/summaries from the runs in results/runs, however those were started.

A sweep does this at its end; runs that were started one by one, from a job array of one's own, are collected by this.
"""

import sys

from arguments import Parser

from hydra_plugins.reltrust_plugins.scripting import scales_by_comparison
from reltrust import experiment
from reltrust.errors import RecordError
from reltrust.records.store import Store
from reltrust.records.summaries import collect


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("experiments", nargs="*", help=f"which (default: all): {', '.join(experiment.names())}")
    parser.add_results("runs")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.experiments) - set(experiment.names())):
        parser.error(f"experiments={', '.join(unknown)}: unknown, allowed are {', '.join(experiment.names())}")
    begun = Store(arguments.results).experiments()  # to know the scales of one takes a second
    for name in arguments.experiments or [name for name in experiment.names() if name in begun]:
        try:
            if path := collect(arguments.results, name, scales_by_comparison(name)):
                print(path)
        except RecordError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
