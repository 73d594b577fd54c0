"""What a store no longer needs."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from reltrust.errors import RecordError
from reltrust.records.store import Store


def spent_checkpoints(results: str | Path) -> dict[Path, int]:
    """Checkpoints of runs that have their result, and their bytes; not of what is damaged or of a newer version."""
    spent: dict[Path, int] = {}
    for record in Store(results).records():
        with suppress(RecordError):
            status = record.status
            if status is not None and status.is_result:
                paths = sorted([*record.path.glob("checkpoint*.pt"), *record.path.glob("checkpoint-*.shards/*")])
                spent |= {path: path.stat().st_size for path in paths}
    return spent


def remove(paths: Iterable[Path]) -> None:
    """Removes files, whether or not somebody else has done so."""
    for path in paths:
        path.unlink(missing_ok=True)
        if path.parent.suffix == ".shards" and not any(path.parent.glob("*")):
            path.parent.rmdir()
