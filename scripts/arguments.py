"""The command line of the scripts: what is wrong with it is one line on standard error and exit status 2."""

import argparse
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` without its usage before an error; ``--help`` shows that."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")

    def add_results(self, part: str) -> None:
        """``--results``, which has to be there.

        Args:
            part: the folder in it that the script reads.
        """
        text = f"the folder with {part}/ (default: results)"
        self.add_argument("--results", default="results", type=existing_folder, help=text)


def existing_folder(path: str) -> str:
    """Raises ArgumentTypeError if there is no such folder."""
    if not Path(path).is_dir():
        what = "a file, no folder" if Path(path).exists() else "there is no such folder"
        raise argparse.ArgumentTypeError(f"{path!r}: {what}")
    return path
