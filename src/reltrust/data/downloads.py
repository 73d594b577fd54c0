"""Downloads that fail leave nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def no_trace_of_failure(root: str) -> Iterator[None]:
    """Removes the empty folders that a download made below ``root`` before it failed, ``root`` itself included."""
    before = {path for path in (Path(root), *Path(root).rglob("*")) if path.is_dir()}
    try:
        yield
    except BaseException:
        made = {path for path in (Path(root), *Path(root).rglob("*")) if path.is_dir()} - before
        for path in sorted(made, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # it has files
                path.rmdir()
        raise
