"""Sweeps as processes of their own, to be watched, stopped and compared with undisturbed ones."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reltrust.records.store import RunRecord, Status, Store

# Runs of some seconds: long enough to be disturbed.
LONG = ("scale=smoke", "training.steps=9000", "training.log_every=500", "training.evaluate_every=3000",
        "schedule.every=3000", "machine.progress=false", "tracking=none", "machine.device=cpu")  # fmt: skip
# An optimizer that fails at its second step while there is a file called broken; the first one is a trial.
BREAKABLE = (
    "import torch, pathlib\n"
    "class Mine(torch.optim.SGD):\n"
    "    def step(self, closure=None):\n"
    "        self.steps = getattr(self, 'steps', 0) + 1\n"
    "        if self.steps > 1 and self.param_groups[0]['lr'] > 0.05 and pathlib.Path('broken').exists():\n"
    "            raise ZeroDivisionError('as planned')\n"
    "        return super().step(closure)\n"
)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "reltrust", *words]


def answer(folder: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What the command says when it has ended."""
    return subprocess.run(
        command(*words), cwd=folder, capture_output=True, text=True, check=False, env=os.environ | environment
    )


@contextmanager
def going(folder: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """The command while it goes."""
    with subprocess.Popen(
        command(*words), cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def records(folder: Path) -> list[RunRecord]:
    return list(Store(folder / "results").records())


def statuses(folder: Path) -> list[Status | None]:
    return [record.status for record in records(folder)]


def wait_until(what: Callable[[], bool], seconds: float = 90.0) -> None:
    """Raises AssertionError if it does not come to be."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.05)


def has_rows(folder: Path, runs: int = 1) -> bool:
    """Whether so many runs have logged something."""
    return sum(path.stat().st_size > 0 for path in folder.glob("results/runs/*/*/*/metrics.jsonl")) >= runs


def holder(record: RunRecord) -> int:
    """The process that holds the run."""
    return int(json.loads(record.lease.path.read_text())["pid"])


def measured(folder: Path) -> dict[str, list[dict[str, float]]]:
    """What the runs have measured, without the time it took, by their directories."""
    return {
        record.path.name: [{key: value for key, value in row.items() if key != "seconds"} for row in record.metrics]
        for record in records(folder)
    }


def jobs(folder: Path) -> list[list[str]]:
    """The job of each attempt of each run."""
    return [[attempt["job"] for attempt in record.provenance["attempts"]] for record in records(folder)]


def ask_slurm(*words: str) -> str:
    """What a command of SLURM prints."""
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def slurm_is_up() -> bool:
    """Whether scripts/local_slurm.sh has started one here."""
    try:
        return shutil.which("sinfo") is not None and "high" in ask_slurm("sinfo", "--noheader")
    except (OSError, subprocess.SubprocessError):
        return False
