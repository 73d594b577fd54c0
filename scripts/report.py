"""Redraws all figures and writes results/report/index.html: they, claims, tables, deviations, provenance on one page.

From results/summaries alone; needs no torch.
"""

import sys
from functools import partial

from arguments import Parser
from figures import side_by_side

from reltrust.errors import RecordError
from reltrust.reporting import page, report


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_results("summaries")
    arguments = parser.parse_args()
    chapters, errors = [], []
    for made in side_by_side(partial(chapter, arguments.results), report.names()):
        if isinstance(made, RecordError):  # the others stand there
            errors.append(str(made))
            print(f"error: {made}", file=sys.stderr)
        else:
            text, of_experiment = made
            print(text)
            chapters.append(of_experiment)
    print(page.write(arguments.results, chapters, errors))
    sys.exit(bool(errors))


def chapter(results: str, experiment: str) -> tuple[str, page.Chapter]:
    """Draws its figures; returns what they show in words, and what the page has of it."""
    evaluations: list[report.Evaluation] = []
    text = report.write(results, experiment, then=evaluations.append)
    return text, page.chapter(results, experiment, evaluations)


if __name__ == "__main__":
    main()
