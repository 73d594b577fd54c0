"""The store of runs: ``results/runs``.

A run's directory holds ``config.yaml`` (resolved settings), ``provenance.json``, ``status.json``, ``metrics.jsonl``,
at its end ``summary.json``, and until then perhaps ``checkpoint.pt``. It is named for the run's settings, so a repeated
job finds it and either has nothing to do or goes on from the checkpoint.
"""

import json
import os
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from reltrust.errors import BusyError, SettingsError
from reltrust.records import provenance
from reltrust.records.files import read_json, read_json_lines, write_atomically, write_json, write_text
from reltrust.records.identity import any_length_id, comparison_id, run_directory, run_id
from reltrust.settings import Settings

Row = dict[str, Any]
_LONGEST_ROW = 4096  # bytes


class Status(StrEnum):
    """``finished`` and ``diverged`` are results. ``running``, ``preempted`` and ``failed`` are run again."""

    RUNNING = "running"
    PREEMPTED = "preempted"
    FAILED = "failed"
    FINISHED = "finished"
    DIVERGED = "diverged"

    @property
    def is_result(self) -> bool:
        return self in (Status.FINISHED, Status.DIVERGED)


class RunRecord:
    """One run's directory. Reading needs nothing; writing happens between ``begin`` and one of the endings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock", timeout=0)

    def __reduce__(self) -> tuple[type["RunRecord"], tuple[Path]]:
        return type(self), (self.path,)  # another process has no part in this one's lock

    # --- reading ---

    @property
    def status(self) -> Status | None:
        """None if the run was never begun."""
        try:
            return Status(read_json(self.path / "status.json")["status"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    @property
    def error(self) -> str | None:
        """What a failed run failed of, in one line; None for the others."""
        path = self.path / "status.json"
        return read_json(path).get("error") if path.exists() else None

    @property
    def status_time(self) -> int | None:
        """When the status last changed, in nanoseconds of the file system's clock; None if the run was never begun."""
        try:
            return (self.path / "status.json").stat().st_mtime_ns
        except FileNotFoundError:
            return None

    @property
    def is_busy(self) -> bool:
        """Whether a living process holds the run: ``running`` without it is what a killed process left."""
        if self._lock.is_locked:
            return True
        if not (self.path / ".lock").exists():
            return False
        try:
            with self._lock:
                return False
        except Timeout:
            return True

    @property
    def metrics(self) -> list[Row]:
        """The rows logged so far, in order of their ``step``."""
        return list(read_json_lines(self.path / "metrics.jsonl"))

    @property
    def last_step(self) -> int:
        """The step of the last row logged so far, 0 if there is none; reads the end of the file only."""
        try:
            with (self.path / "metrics.jsonl").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_ROW))
                lines = file.read().splitlines(keepends=True)
        except FileNotFoundError:
            return 0
        whole = [line for line in lines if line.endswith(b"\n")]
        return int(json.loads(whole[-1])["step"]) if whole else 0

    @property
    def summary(self) -> Row:
        return dict(read_json(self.path / "summary.json"))

    @property
    def config(self) -> dict[str, Any]:
        return dict(yaml.safe_load((self.path / "config.yaml").read_text()))

    @property
    def provenance(self) -> dict[str, Any]:
        return dict(read_json(self.path / "provenance.json"))

    @property
    def files(self) -> list[Path]:
        """What is kept beside the record, in order of its names."""
        return sorted((self.path / "files").glob("[!.]*"))

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def weights_path(self) -> Path:
        return self.path / "weights.safetensors"

    # --- writing ---

    def begin(self, settings: Settings, device: str, members: int = 1) -> None:
        """Takes the run for this process and marks it running; ``members`` runs make their steps together.

        Raises:
            SettingsError: there can be no such directory.
            BusyError: another process has it.
            RuntimeError: the directory belongs to other settings (their ids share the first eight digits).
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"machine.results={settings.machine.results!r}: {error}") from None
        try:
            self._lock.acquire()
        except Timeout:
            raise BusyError(f"{self.path}: another process is working on this run") from None
        try:
            attempts, earlier, identity = [], {}, run_id(settings)
            if (self.path / "provenance.json").exists():
                earlier = self.provenance
                if earlier["id"] != identity:
                    raise RuntimeError(f"{self.path} belongs to another run ({earlier['id']}, not {identity})")
                attempts = list(earlier["attempts"])
            write_text(self.path / "config.yaml", yaml.safe_dump(asdict(settings), sort_keys=False))
            attempts.append(provenance.attempt(device) | {"members": members})
            origin = {**earlier, "id": identity, "comparison": comparison_id(settings)}
            origin |= {"any_length": any_length_id(settings), "protocol": settings.task.protocol}
            write_json(self.path / "provenance.json", origin | {"attempts": attempts})
            self._set_status(Status.RUNNING)
        except BaseException:
            self._lock.release()
            raise

    def write_file(self, name: str, content: bytes) -> Path:
        """Keeps a file beside the record, in ``files/``; returns where."""
        path = self.path / "files" / Path(name).name
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda file: file.write(content))
        return path

    def append(self, row: Row) -> None:
        """Adds one row to the metrics; what was written before stays readable whatever happens."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rewind(self, step: int) -> None:
        """Drops the rows after ``step``: those that a run resumed from a checkpoint will write again."""
        rows = [row for row in self.metrics if row["step"] <= step]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def end(self, status: Status, summary: Row, *, keep_checkpoint: bool = False) -> None:
        """Ends the run with a result. The checkpoint has served, unless a longer run is to go on from it."""
        write_json(self.path / "summary.json", summary)
        self._end(status)
        if not keep_checkpoint:
            self.checkpoint_path.unlink(missing_ok=True)

    def preempted(self) -> None:
        self._end(Status.PREEMPTED)

    def failed(self, error: BaseException) -> None:
        self._end(Status.FAILED, error=f"{type(error).__name__}: {error}", traceback=traceback.format_exception(error))

    def _end(self, status: Status, **details: Any) -> None:
        try:
            record = self.provenance
            record["attempts"][-1]["ended"] = provenance.now()
            write_json(self.path / "provenance.json", record)
            self._set_status(status, **details)
        finally:
            self._lock.release()

    def _set_status(self, status: Status, **details: Any) -> None:
        write_json(self.path / "status.json", {"status": status.value, "time": provenance.now(), **details})


class Store:
    """All runs below ``results/runs``."""

    def __init__(self, results: str | Path) -> None:
        self.root = Path(results, "runs")

    def record(self, settings: Settings) -> RunRecord:
        """The record of the run with these settings, begun or not."""
        return RunRecord(self.root / run_directory(settings))

    def records(self, experiment: str = "*") -> Iterator[RunRecord]:
        """Every run of an experiment that was ever begun, in order of their paths."""
        for path in sorted(self.root.glob(f"{experiment}/*/*/status.json")):
            yield RunRecord(path.parent)


def check_writable(results: str) -> None:
    """Raises SettingsError if no store can be kept below ``results``."""
    root = Store(results).root.absolute()
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise SettingsError(f"machine.results={results!r}: {nearest} is no folder that may be written to")
