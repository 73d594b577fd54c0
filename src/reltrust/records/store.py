"""The store of runs: ``results/runs``.

A run's directory holds ``config.yaml`` (resolved settings), ``provenance.json``, ``status.json``, ``metrics.jsonl``,
at its end ``summary.json``, and until then perhaps ``checkpoint.pt``, of several processes that share parameters with a
folder ``checkpoint-*.shards``. It is named for the run's settings, so a repeated job finds it and either has nothing to
do or goes on from the checkpoint.
"""

import itertools
import json
import logging
import os
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from reltrust.errors import DamagedError, EndedError, RecordError, SettingsError, first_line
from reltrust.records import provenance
from reltrust.records.files import (
    read_json,
    read_json_lines,
    remove_checkpoints,
    remove_scraps,
    write_atomically,
    write_json,
    write_text,
    writing,
)
from reltrust.records.identity import any_length_id, comparison_id, run_directory, run_id
from reltrust.records.lease import Lease, Seen, held
from reltrust.settings import Settings

log = logging.getLogger(__name__)

Row = dict[str, Any]
FORMAT = 1  # of records; those from before there was a number have none
_SET_ASIDE = ".damaged-"  # in the names of directories
_LONGEST_ROW = 4096  # bytes


class Status(StrEnum):
    """``finished`` and ``diverged`` are results. ``running``, ``preempted`` and ``failed`` are run again.

    ``damaged`` no run calls itself: its files are not what was written. They are set aside when it is run again.
    """

    RUNNING = "running"
    PREEMPTED = "preempted"
    FAILED = "failed"
    FINISHED = "finished"
    DIVERGED = "diverged"
    DAMAGED = "damaged"

    @property
    def is_result(self) -> bool:
        return self in (Status.FINISHED, Status.DIVERGED)


@dataclass
class _StatusFile:
    status: Status


@dataclass
class _Attempt:
    code: dict[str, Any]
    versions: dict[str, Any]
    hardware: dict[str, Any]


@dataclass
class _Provenance:
    id: str
    comparison: str
    protocol: int
    attempts: list[_Attempt]


_SCHEMAS: dict[str, TypeAdapter[Any]] = {
    "provenance.json": TypeAdapter(_Provenance),
    "status.json": TypeAdapter(_StatusFile),
    "summary.json": TypeAdapter(dict[str, Annotated[float, Strict()] | bool | dict[str, Any] | None]),
}


@dataclass
class Result:
    """What is read of a run that has one."""

    status: Status
    config: dict[str, Any]
    provenance: dict[str, Any]
    summary: Row


class RunRecord:
    """One run's directory. Reading needs nothing; writing happens between ``begin`` and one of the endings.

    What is read raises DamagedError where a file is not what was written, RecordError where a newer version wrote it.
    """

    def __init__(self, path: Path, dead: Seen | None = None) -> None:
        self.path = path
        self.lease = Lease(path / ".lease", dead)

    def __reduce__(self) -> tuple[type["RunRecord"], tuple[Path, Seen | None]]:
        return type(self), (self.path, self.lease.dead)  # another process has no part in this one's lease

    # --- reading ---

    @property
    def status(self) -> Status | None:
        """None if the run was never begun."""
        try:
            return self._status()
        except DamagedError:
            return Status.DAMAGED

    @property
    def error(self) -> str | None:
        """What a failed run failed of, or what is wrong with a damaged one, in one line; None for the others."""
        try:
            failed = self._status() is Status.FAILED
        except DamagedError as error:
            return str(error)
        return str(self._read("status.json").get("error")).splitlines()[0] if failed else None

    def result(self) -> Result | None:
        """All that collecting the run needs, each file read once; None if it has no result."""
        found = self._begun()
        if found is None or not found[0].is_result:
            return None
        status, origin = found
        return Result(status, self._config(origin), origin, self.summary)

    def _status(self) -> Status | None:
        """Once all that collecting the run's result needs has been read."""
        found = self._begun()
        if found is None:
            return None
        status, origin = found
        if status.is_result:
            _ = self.summary, self._config(origin)
        return status

    def _begun(self) -> tuple[Status, dict[str, Any]] | None:
        """Its status and its provenance; None if it was never begun."""
        if self.status_time is None:
            return None
        origin = self.provenance
        if not origin["attempts"]:
            raise DamagedError(f"{self.path / 'provenance.json'}: damaged: no attempts")
        return Status(self._read("status.json")["status"]), origin

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            value = read_json(path)
            _SCHEMAS[name].validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            raise DamagedError(f"{path}: damaged: {first['loc'][:1]}: {first['msg']}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise DamagedError(f"{path}: damaged: {getattr(error, 'strerror', None) or first_line(error)}") from None
        return dict(value)

    @property
    def status_time(self) -> int | None:
        """When the status last changed, in nanoseconds of the file system's clock; None if the run was never begun."""
        try:
            return (self.path / "status.json").stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None

    @property
    def is_busy(self) -> bool:
        """Whether a living process holds the run: ``running`` without it is what a killed process left."""
        return busy([self])[0]

    @property
    def metrics(self) -> list[Row]:
        """The rows logged so far, in order of their ``step``."""
        return list(read_json_lines(self.path / "metrics.jsonl"))

    @property
    def last_row(self) -> Row:
        """The last row logged so far, empty if there is none; reads the end of the file only."""
        try:
            with (self.path / "metrics.jsonl").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_ROW))
                lines = file.read().splitlines(keepends=True)
            row = json.loads([line for line in lines if line.endswith(b"\n")][-1])
            return row if isinstance(row["step"], int) else {}
        except (OSError, IndexError, ValueError, KeyError, TypeError):  # damaged: its own run will tell
            return {}

    @property
    def last_step(self) -> int:
        """The step of the last row logged so far, 0 if there is none."""
        return int(self.last_row.get("step", 0))

    @property
    def summary(self) -> Row:
        return self._read("summary.json")

    @property
    def config(self) -> dict[str, Any]:
        """The resolved settings; ``config.yaml`` is for people, and for records that have them nowhere else."""
        return self._config(self.provenance)

    def _config(self, origin: dict[str, Any]) -> dict[str, Any]:
        path, config = self.path / "config.yaml", origin.get("config")
        if config is None:
            try:
                config = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            except (OSError, ValueError, yaml.YAMLError) as error:
                raise DamagedError(
                    f"{path}: damaged: {getattr(error, 'strerror', None) or first_line(error)}"
                ) from None
        if not isinstance(config, dict):
            raise DamagedError(f"{path}: damaged: no settings")
        return config

    @property
    def provenance(self) -> dict[str, Any]:
        found = self._read("provenance.json")
        if (number := found.get("format", 0)) > FORMAT:
            path = self.path / "provenance.json"
            raise RecordError(f"{path}: format {number}, of a newer version of reltrust; this one reads up to {FORMAT}")
        return found

    @property
    def files(self) -> list[Path]:
        """What is kept beside the record, in order of its names."""
        return sorted((self.path / "files").glob("[!.]*"))

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one, or the one before it."""
        return any(self.path.glob("checkpoint*.pt"))

    @property
    def weights_path(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def levels_path(self) -> Path:
        return self.path / "weights.lns"

    # --- writing ---

    def begin(self, settings: Settings, device: str, members: int = 1, processes: int = 1) -> None:
        """Takes the run for this process and marks it running.

        Args:
            members: how many runs make their steps together.
            processes: how many compute this one.

        Raises:
            SettingsError: there can be no such directory.
            BusyError: another process has it.
            EndedError: another process has brought it to its result.
            RuntimeError: the directory belongs to other settings (their ids share the first eight digits).
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lease.acquire()
        except OSError as error:
            raise SettingsError(f"machine.results={settings.machine.results!r}: {error}") from None
        try:
            attempts, earlier, identity = [], {}, run_id(settings)
            try:
                status = self._status()
                if (self.path / "provenance.json").exists():
                    earlier = self.provenance
                    if earlier["id"] != identity:
                        raise RuntimeError(f"{self.path} belongs to another run ({earlier['id']}, not {identity})")
                    attempts = list(earlier["attempts"])
                if status is not None and status.is_result:
                    raise EndedError(f"{self.path}: {status}")
            except DamagedError as error:
                log.warning("%s; set aside as %s, begun again", error, self._set_aside().name)
            remove_scraps(self.path)
            config = asdict(settings)
            write_text(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            attempts.append(provenance.attempt(device) | {"members": members, "processes": processes})
            origin = {**earlier, "format": FORMAT, "id": identity, "comparison": comparison_id(settings)}
            origin |= {"any_length": any_length_id(settings), "protocol": settings.task.protocol}
            write_json(self.path / "provenance.json", origin | {"attempts": attempts, "config": config})
            self._set_status(Status.RUNNING)
        except BaseException:
            self.lease.release()
            raise

    def _set_aside(self) -> Path:
        """Moves all files to a directory beside this one, and returns it."""
        numbers = (self.path.with_name(f"{self.path.name}{_SET_ASIDE}{n}") for n in itertools.count(1))
        aside = next(path for path in numbers if not path.exists())
        with writing(aside):
            aside.mkdir()
            for path in self.path.iterdir():
                if path != self.lease.path:
                    path.rename(aside / path.name)
        return aside

    def write_file(self, name: str, content: bytes) -> Path:
        """Keeps a file beside the record, in ``files/``; returns where. Raises BusyError as :meth:`append`."""
        self.lease.check()
        path = self.path / "files" / Path(name).name
        with writing(path):
            path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda file: file.write(content))
        return path

    def append(self, row: Row) -> None:
        """Adds one row to the metrics; what was written before stays readable whatever happens.

        Raises:
            BusyError: another process has taken the run over.
        """
        self.lease.check()
        path = self.path / "metrics.jsonl"
        with writing(path), path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rewind(self, step: int) -> None:
        """Drops the rows after ``step``, those that a run resumed from a checkpoint will write again, and whatever is
        no row. Raises BusyError as :meth:`append`."""
        self.lease.check()
        path, rows = self.path / "metrics.jsonl", []
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            rows.append(line)
        write_atomically(path, lambda file: file.writelines(rows))

    def end(self, status: Status, summary: Row, *, keep_checkpoint: bool = False) -> None:
        """Ends the run with a result. The checkpoint has served, unless a longer run is to go on from it."""
        self.lease.check()
        path = self.path / "metrics.jsonl"
        with writing(path), path.open("a") as file:
            os.fsync(file.fileno())
        write_json(self.path / "summary.json", summary)
        self._end(status, keep_checkpoint)

    def preempted(self) -> None:
        self._end(Status.PREEMPTED)

    def failed(self, error: BaseException) -> None:
        text = f"{type(error).__name__}: {first_line(error)}"
        self._end(Status.FAILED, error=text, traceback=traceback.format_exception(error))

    def _end(self, status: Status, keep_checkpoint: bool = False, **details: Any) -> None:
        try:
            self.lease.check()
            record = self.provenance
            record["attempts"][-1] |= {"ended": provenance.now(), "status": status.value}
            write_json(self.path / "provenance.json", record)
            self._set_status(status, **details)
            if status.is_result:
                remove_checkpoints(self.path, keep=self.checkpoint_path if keep_checkpoint else None)
        finally:
            self.lease.release()

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
            if _SET_ASIDE not in path.parent.name and not path.parent.name.startswith("."):  # half of a merge
                yield RunRecord(path.parent)

    def experiments(self) -> list[str]:
        """Those of which a run was ever begun, in alphabetical order."""
        return sorted({path.parts[-4] for path in self.root.glob("*/*/*/status.json")})


def busy(records: Sequence[RunRecord]) -> list[bool]:
    """Which of the runs living processes hold, see :func:`~reltrust.records.lease.held`."""
    return held([record.lease for record in records])


def check_writable(results: str) -> None:
    """Raises SettingsError if no store can be kept below ``results``."""
    root = Store(results).root.absolute()
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise SettingsError(f"machine.results={results!r}: {nearest} is no folder that may be written to")
