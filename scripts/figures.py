"""Redraws the experiments' figures and prints their verdicts, from results/summaries alone. Needs no torch."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from arguments import Parser

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # so that it works where the package is not installed

from reltrust import experiment  # noqa: E402
from reltrust.errors import RecordError  # noqa: E402
from reltrust.reporting import report  # noqa: E402


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
    reports = {name: report.load_report(name) for name in chosen}
    scales = {
        scale
        for name, one in reports.items()
        for scale in experiment.scales(name) or (*one.cost, "smoke")  # those of a grid that spans experiments
        if scale not in one.elsewhere
    }
    if arguments.scale not in (None, *scales):
        parser.error(f"--scale={arguments.scale}: unknown, allowed are {', '.join(sorted(scales))}")
    failed = False
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ProcessPoolExecutor(min(cores, len(chosen))) as pool:  # an experiment's figures know no other's
        for drawn in [pool.submit(report.write, arguments.results, name, arguments.scale) for name in chosen]:
            try:
                print(drawn.result())
            except RecordError as error:  # the other experiments' figures are drawn
                print(f"error: {error}", file=sys.stderr)
                failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
