"""Redraws the experiments' figures and prints their verdicts, from results/summaries alone. Needs no torch."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # so that it works where the package is not installed

from reltrust.reporting import report  # noqa: E402


def main() -> None:
    experiments = report.names()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", help=f"which (default: all): {', '.join(experiments)}")
    parser.add_argument("--results", default="results", help="the folder with summaries/ (default: results)")
    parser.add_argument("--scale", help="only the runs of this scale, quick for example")
    arguments = parser.parse_args()
    if unknown := set(arguments.experiments) - set(experiments):
        parser.error(f"experiments={', '.join(unknown)}: unknown, allowed are {', '.join(experiments)}")
    for experiment in arguments.experiments or experiments:
        print(report.write(arguments.results, experiment, arguments.scale))


if __name__ == "__main__":
    main()
