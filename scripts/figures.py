"""Redraws the experiments' figures and prints their verdicts, from results/summaries alone. Needs no torch."""

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from arguments import Parser

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # so that it works where the package is not installed

from reltrust import experiment  # noqa: E402
from reltrust.errors import RecordError  # noqa: E402
from reltrust.reporting import report  # noqa: E402

Made = TypeVar("Made")


def main() -> None:
    experiments = report.names()
    parser = Parser(description=__doc__)
    parser.add_argument("experiments", nargs="*", help=f"which (default: all): {', '.join(experiments)}")
    parser.add_results("summaries")
    parser.add_argument("--scale", help="only the runs of this scale, quick for example")
    arguments = parser.parse_args()
    if unknown := set(arguments.experiments) - set(experiments):
        parser.error(f"experiments={', '.join(sorted(unknown))}: unknown, allowed are {', '.join(experiments)}")
    chosen = arguments.experiments or experiments
    allowed = {scale for name in chosen for scale in scales(name)}
    if arguments.scale not in (None, *allowed):
        parser.error(f"--scale={arguments.scale}: unknown, allowed are {', '.join(sorted(allowed))}")
    failed = False
    for drawn in side_by_side(partial(report.write, arguments.results, only=arguments.scale), chosen):
        if isinstance(drawn, RecordError):  # the other experiments' figures are drawn
            print(f"error: {drawn}", file=sys.stderr)
            failed = True
        else:
            print(drawn)
    sys.exit(failed)


def scales(name: str) -> set[str]:
    """Those that an experiment's figures may be of; none where its report is damaged, which drawing it will say."""
    with suppress(RecordError):
        one = report.load_report(name)
        of_grid = (*one.cost, "smoke")  # one that spans experiments
        return set(experiment.scales(name) or of_grid) - set(one.elsewhere)
    return set()


def side_by_side(work: Callable[[str], Made], experiments: Sequence[str]) -> Iterator[Made | RecordError]:
    """What ``work`` makes of each experiment, in their order, by as many processes as there are cores."""

    def figures(name: str) -> int:
        with suppress(RecordError):
            one = report.load_report(name)
            return sum(figure.is_of(scale) for scale in one.cost for figure in one.figures)
        return 0

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # What a process leaves behind goes with it: looking for it is a tenth of the time.
    with ProcessPoolExecutor(min(cores, len(experiments)), initializer=gc.disable) as pool:
        most_first = sorted(experiments, key=figures, reverse=True)  # so that all end together
        futures = {name: pool.submit(work, name) for name in most_first}
        for name in experiments:
            try:
                yield futures[name].result()
            except RecordError as error:
                yield error


if __name__ == "__main__":
    main()
