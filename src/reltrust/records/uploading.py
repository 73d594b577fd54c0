"""``wandb sync`` in a process of its own: a server that is sick delays or breaks that process and nothing else.

``python -m reltrust.records.uploading WORDS`` is that process: W&B's command line, which ends with whoever started it.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path


class Upload:
    """Uploads folders of W&B's offline runs in the background.

    Args:
        folders: at least one, all in one folder.
        live: the run in the folder is still being logged.
    """

    def __init__(self, folders: Sequence[Path], *, live: bool = False) -> None:
        self._folders = folders
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process writes to it)
        words = ["beta", "sync", "--live"] if live else ["sync"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *words, *map(str, folders)],
            stdin=subprocess.PIPE,  # closed by the end of this process, however it ends
            stdout=self._output,
            stderr=subprocess.STDOUT,
            # With WANDB_SERVICE it would join the service of the run in this process, and that would wait for it.
            env={key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
            | {"WANDB_DIR": str(folders[0].parent.parent)},  # its logs
            start_new_session=True,  # Ctrl-C asks the run to stop, not the upload
        )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def missing(self) -> list[Path]:
        """The folders that are not yet uploaded as a whole."""
        return [folder for folder in self._folders if not any(folder.glob("*.wandb.synced"))]

    def wait(self, seconds: float) -> str | None:
        """Waits for the end, at most so many seconds from one uploaded folder to the next, and then ends it.

        Returns:
            Why folders are missing, in one line; None if none is.
        """
        missing, deadline = len(self.missing), time.monotonic() + seconds
        try:
            while self.running and time.monotonic() < deadline:
                time.sleep(0.05)
                if len(self.missing) < missing:
                    missing, deadline = len(self.missing), time.monotonic() + seconds
            late = self.running
        finally:
            self._process.kill()
            self._process.communicate()
        with self._output:
            self._output.seek(0)
            lines = self._output.read().decode(errors="replace").splitlines()
        if not self.missing:
            return None
        return "it did not answer in time" if late else next(reversed(lines), "no reason given")


def _sync(words: Sequence[str]) -> None:
    from wandb.cli.cli import cli

    def leave_with_parent() -> None:
        os.read(0, 1)  # nothing comes, but an end; no lock is held as by sys.stdin
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    try:
        cli(words, prog_name="wandb")
    except Exception as error:  # whatever W&B raises: its last line is what the parent tells
        sys.exit(str(error))


if __name__ == "__main__":
    _sync(sys.argv[1:])
