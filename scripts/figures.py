"""Redraws the experiments' figures and prints their verdicts, from results/summaries alone. Needs no torch."""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # so that it works where the package is not installed


def load_figure(experiment: str) -> Any:
    """The module ``experiments/<experiment>/figure.py``."""
    spec = importlib.util.spec_from_file_location(experiment, ROOT / "experiments" / experiment / "figure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    experiments = sorted(path.parent.name for path in ROOT.glob("experiments/*/figure.py"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", help=f"which (default: all): {', '.join(experiments)}")
    parser.add_argument("--results", default="results", help="the folder with summaries/ (default: results)")
    parser.add_argument("--scale", help="only the runs of this protocol: paper, quick or smoke")
    arguments = parser.parse_args()
    if unknown := set(arguments.experiments) - set(experiments):
        parser.error(f"experiments={', '.join(unknown)}: unknown, allowed are {', '.join(experiments)}")

    for experiment in arguments.experiments or experiments:
        if not Path(arguments.results, "summaries", f"{experiment}.csv").exists():
            print(f"{experiment}: nothing in {arguments.results}/summaries yet")
            continue
        print(load_figure(experiment).report(arguments.results, arguments.scale))


if __name__ == "__main__":
    main()
