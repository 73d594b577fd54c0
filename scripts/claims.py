"""Prints the README's table of findings, from results/summaries; ``--write`` puts it into the README."""

import sys

from arguments import Parser
from figures import ROOT  # scripts/figures.py: also makes the package importable

from reltrust.errors import RecordError
from reltrust.reporting import findings

START, END = "<!-- claims: python scripts/claims.py -->\n", "<!-- end of claims -->"


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_results("summaries")
    parser.add_argument("--write", action="store_true", help="into README.md")
    arguments = parser.parse_args()
    try:
        text = findings.table(arguments.results)
    except RecordError as error:
        sys.exit(f"error: {error}")
    if arguments.write:
        readme = ROOT / "README.md"
        before, _, rest = readme.read_text().partition(START)
        readme.write_text(before + START + text + END + rest.partition(END)[2])
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
