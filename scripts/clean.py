"""Removes the checkpoints of finished and diverged runs, after showing what that frees. Results and records stay."""

import sys

from arguments import Parser

from reltrust.records.cleaning import remove, spent_checkpoints


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_results("runs")
    arguments = parser.parse_args()
    spent = spent_checkpoints(arguments.results)
    for path, size in spent.items():
        print(f"{size / 1e6:10.1f} MB  {path}")
    print(f"{sum(spent.values()) / 1e6:10.1f} MB in {len(spent)} checkpoints of runs that have their result")
    if not spent:
        return
    if not arguments.yes:
        try:
            answer = input("remove them? Longer runs could no longer go on from them. [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            sys.exit("nothing was removed")
    remove(spent)


if __name__ == "__main__":
    main()
