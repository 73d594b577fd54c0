"""Files that are either wholly there or not there at all."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from reltrust.errors import DamagedError, RecordError, first_line


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses, on a full disk for example, is a RecordError of one line that names the path."""
    try:
        yield
    except Exception as error:
        refused: BaseException | None = error
        while refused is not None and not isinstance(refused, OSError):
            refused = refused.__cause__ or refused.__context__  # torch raises an error of its own in its place
        if refused is None:
            raise
        raise RecordError(f"{path}: cannot be written: {refused.strerror or refused}") from error


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], backup: Path | None = None) -> None:
    """Calls ``write`` with a temporary file beside ``path``, then moves that to ``path`` in one step.

    Args:
        backup: where to move what was at ``path``.

    Raises:
        RecordError: the system refuses it; the earlier file is as it was.
    """
    with writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".scrap")
        scrap = Path(name)
        try:
            with os.fdopen(handle, "w+b") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            scrap.chmod(0o644)  # mkstemp's 0600 would hide a shared store from one's group
            if backup is not None and path.exists():
                path.replace(backup)
            scrap.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            scrap.unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    """So that the new name too outlives a crash of the system."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_scraps(folder: Path, *, older_than_seconds: float = 0.0) -> None:
    """Removes what killed processes have left of files that they were writing."""
    for scrap in folder.glob(".*.scrap"):
        with suppress(OSError):
            if time.time() - scrap.stat().st_mtime >= older_than_seconds:
                scrap.unlink()


def shards_of(checkpoint: Path) -> list[Path]:
    """The folders of shared tensors beside the checkpoint ``checkpoint.pt``, the last written one last."""
    return sorted(checkpoint.parent.glob(f"{checkpoint.stem}-*.shards"), key=lambda path: path.stat().st_mtime_ns)


def remove_checkpoints(folder: Path, *, keep: Path | None = None) -> None:
    """Removes all checkpoints of a run's folder but ``keep``, the last one, and what belongs to it."""
    others = [path for path in folder.glob("checkpoint*.pt") if path != keep]
    # Those that belong to a checkpoint are written just before it, and after the one before it.
    before = max((path.stat().st_mtime_ns for path in others), default=0)
    for path in shards_of(folder / "checkpoint.pt"):
        if keep is None or path.stat().st_mtime_ns <= before:
            shutil.rmtree(path)
    for path in others:
        path.unlink()


def sha256(file: IO[bytes], size: int) -> str:
    """Of the next ``size`` bytes."""
    found = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(size, 1 << 20))):
        found.update(chunk)
        size -= len(chunk)
    return found.hexdigest()


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def read_json_lines(path: Path) -> Iterator[Any]:
    """The rows of a JSON-lines file; a last line without its end, as a killed process leaves it, is left out.

    Raises:
        DamagedError: a line is no JSON.
    """
    if path.exists():
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
            if line.endswith(b"\n"):
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DamagedError(f"{path}: damaged: line {number}: {first_line(error)}") from None
