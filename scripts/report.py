"""Writes results/report/index.html: claims, figures, tables, deviations, provenance on one page. Needs no torch.

Figures are those in results/figures; ``make report`` draws them first.
"""

import sys

import figures  # noqa: F401 - also makes the package importable
from arguments import Parser

from reltrust.reporting import page


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_results("summaries")
    arguments = parser.parse_args()
    path, errors = page.write(arguments.results)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    print(path)
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
