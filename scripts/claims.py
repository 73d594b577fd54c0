"""Prints the README's table of claims, from results/summaries; ``--write`` puts it into the README."""

import argparse
from pathlib import Path

from figures import load_figure  # scripts/figures.py

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- claims: python scripts/claims.py -->\n", "<!-- end of claims -->"
COMMANDS = {
    ("mlp_depth", "quick"): ("`make reproduce-mlp-depth SEEDS=3`", "about 6 minutes, 2 CPU cores"),
    ("mlp_depth", "paper"): ("`make reproduce-mlp-depth SCALE=paper`", "264 runs of 24,000 steps: a GPU"),
}
FIGURES = {"mlp_depth": "Fromage, figure 3 (left)"}
PROTOCOLS = ("quick", "paper")


def table(results: Path) -> str:
    lines = ["| figure | claim | published | ours | verdict | command | cost |", "|---|---|---|---|---|---|---|"]
    for experiment, figure in FIGURES.items():
        judgements = load_figure(experiment).judgements(results)
        for protocol in PROTOCOLS:
            for judgement in judgements.get(protocol, []):
                command, cost = COMMANDS[experiment, protocol]
                cells = (f"{figure}, {protocol}", judgement.claim, judgement.published, judgement.ours)
                lines.append(f"| {' | '.join(cells)} | **{judgement.verdict}** | {command} | {cost} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", default="results", help="the folder with summaries/ (default: results)")
    parser.add_argument("--write", action="store_true", help="into README.md")
    arguments = parser.parse_args()
    text = table(Path(arguments.results))
    if arguments.write:
        readme = ROOT / "README.md"
        before, _, rest = readme.read_text().partition(START)
        readme.write_text(before + START + text + END + rest.partition(END)[2])
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
