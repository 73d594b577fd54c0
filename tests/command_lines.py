"""Several command lines in one process, one after another: ``python command_lines.py < words.json > answers.json``.

For tests that need processes of their own, with another source tree or before anything is imported, and would pay for
importing torch at each command. Each is what ``python`` would be given: ``-m module ...`` or ``script.py ...``.
"""

import io
import json
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any


def answer(words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """What ``python`` with these words answers, here in this process; what was logged is in no stream."""
    code: Any = 0
    before = sys.argv, list(sys.path)
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            if words[0] == "-m":
                sys.argv = list(words[1:])
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                sys.argv = list(words)
                sys.path.insert(0, str(Path(words[0]).parent))
                runpy.run_path(words[0], run_name="__main__")
        except SystemExit as leaving:
            code = leaving.code or 0
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
        finally:
            sys.argv, sys.path[:] = before
            signal.set_wakeup_fd(-1)  # a process that ends need not put it back
    return subprocess.CompletedProcess(list(words), code, out.getvalue(), err.getvalue())


if __name__ == "__main__":
    answers = [answer(words) for words in json.load(sys.stdin)]
    json.dump([(one.returncode, one.stdout, one.stderr) for one in answers], sys.stdout)
