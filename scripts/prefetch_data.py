"""Downloads a data set, or the network that FID is measured by, and checks it, for machines without a network."""

import sys
from pathlib import Path

from arguments import Parser

from reltrust import data
from reltrust.data.sizes import TOKENS
from reltrust.errors import DataError
from reltrust.metrics import features

SETS = ["mnist", "cifar10", "cifar100", "svhn", "wikitext2"]


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("name", choices=[*SETS, "inception"], help="others travel inside Python packages")
    parser.add_argument("--data", default="data", help="where to keep it: machine.data of the runs (default: data)")
    arguments = parser.parse_args()
    if Path(arguments.data).exists() and not Path(arguments.data).is_dir():
        parser.error(f"--data={arguments.data}: a file, no folder")
    try:
        if arguments.name == "inception":
            print(f"inception: {features.load('inception').dims} features, in torch's cache ($TORCH_HOME)")
            return
        found = data.load(arguments.name, arguments.data)
    except DataError as error:
        sys.exit(f"error: {error}")
    what = "words" if arguments.name in TOKENS else "images"
    print(f"{arguments.name}: {len(found.train)} training and {len(found.test)} test {what} in {arguments.data}")


if __name__ == "__main__":
    main()
