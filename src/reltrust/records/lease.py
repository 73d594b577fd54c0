"""One run, one writer: a file that the holder of a run keeps touching, and that others take once the holder is dead.

It needs no locks of the file system, which shared ones often lack, and compares no clocks: on this machine the holder's
process is looked up, and on any other the file has to change while one looks at it.
"""

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil

from reltrust.errors import BusyError, RecordError
from reltrust.records import provenance

BEAT_SECONDS = 5.0
PATIENCE_SECONDS = 30.0  # a holder on another machine that lets so many pass without a beat is dead


class Seen(NamedTuple):
    """A lease file at one moment."""

    content: str
    beat: int  # when it was last touched, by whichever clock


class Lease:
    """The right to write to a run.

    Args:
        path: the file that stands for it, in the run's directory.
        dead: how the file of a holder looks that is known to be dead.
    """

    def __init__(self, path: Path, dead: Seen | None = None) -> None:
        self.path, self.dead = path, dead
        self._content: str | None = None

    def acquire(self) -> None:
        """Raises BusyError if a living process, this one included, holds it; OSError if there can be no such file."""
        content = json.dumps({
            "host": _host(),
            "pid": os.getpid(),
            "process": _start(os.getpid()),
            "since": provenance.now(),
            "token": uuid.uuid4().hex,
        })  # fmt: skip
        while True:
            try:
                file = self.path.open("x")
            except FileExistsError:
                if held([self])[0]:
                    raise BusyError(f"{self.path.parent}: another process is working on this run") from None
                self._remove_dead()
                continue
            try:
                with file:
                    file.write(content)
            except BaseException:
                self.path.unlink(missing_ok=True)
                raise
            break
        self._content = content
        _held.add(self)
        _start_beating()

    def check(self) -> None:
        """Raises BusyError if another process has taken the run over, RecordError if the file is gone."""
        if (seen := _look(self.path)) is None:
            raise RecordError(f"{self.path.parent}: was removed while the run was going on")
        if seen.content != self._content:
            raise BusyError(f"{self.path.parent}: another process has taken this run over")

    def beat(self) -> None:
        with suppress(OSError, BusyError, RecordError):
            self.check()
            os.utime(self.path)

    def release(self) -> None:
        _held.discard(self)
        with suppress(BusyError, RecordError):
            self.check()
            self.path.unlink(missing_ok=True)
        self._content = None

    def _remove_dead(self) -> None:
        """One of those that found the same holder dead removes its file, if it is still that one's."""
        guard = Lease(self.path.with_name(f"{self.path.name}.takeover"))
        guard.acquire()
        try:
            if self.dead is not None and _look(self.path) == self.dead:
                self.path.unlink()
        finally:
            guard.release()


def held(leases: Sequence[Lease]) -> list[bool]:
    """Which of them a living process holds.

    Looks at all of them at once, without writing: ``PATIENCE_SECONDS`` for those that a process on another machine has
    left behind, and until the next beat for those that it keeps.
    """
    verdicts: dict[int, bool] = {}
    watched: dict[int, Seen] = {}
    for i, lease in enumerate(leases):
        seen = _look(lease.path)
        alive = None if seen is None else _is_alive(seen)
        if seen is not None and alive is None and seen != lease.dead:
            watched[i] = seen
            continue
        verdicts[i] = bool(alive)
        lease.dead = None if alive else seen
    deadline = time.monotonic() + PATIENCE_SECONDS
    while watched and time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS / 10)
        for i, seen in list(watched.items()):
            if (now := _look(leases[i].path)) != seen:
                del watched[i]
                verdicts[i], leases[i].dead = now is not None, None
    for i, seen in watched.items():
        verdicts[i], leases[i].dead = False, seen
    return [verdicts[i] for i in range(len(leases))]


def holds_any() -> bool:
    """Whether this process holds a lease."""
    return bool(_held)


_held: set[Lease] = set()  # by this process
_heart: threading.Thread | None = None


def _start_beating() -> None:
    """One thread touches all leases of this process: steps and evaluations may take minutes."""
    global _heart
    if _heart is None or not _heart.is_alive():
        _heart = threading.Thread(target=_beat_for_ever, daemon=True)
        _heart.start()


def _beat_for_ever() -> None:
    while True:
        time.sleep(BEAT_SECONDS)
        for lease in list(_held):
            lease.beat()


def _look(path: Path) -> Seen | None:
    """None if there is no such file."""
    try:
        content = path.read_text(errors="replace")  # opening it brings a network file system's view up to date
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # somebody else's
        content = ""
    try:
        return Seen(content, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return None


def _is_alive(seen: Seen) -> bool | None:
    """Whether the holder is alive; None where this machine cannot tell."""
    try:
        holder = json.loads(seen.content)
        host, pid, started = holder["host"], int(holder["pid"]), holder["process"]
    except (ValueError, KeyError, TypeError):  # torn, as an interrupted system leaves it
        return None
    if host != _host():
        return None
    return psutil.pid_exists(pid) and _start(pid) in (None, started)


@cache
def _host() -> str:
    """Names this machine since its last start, and the numbering of processes: that of containers is their own."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _start(pid: int) -> str | None:
    """When the process started, which tells it from a later one of its number; None if that cannot be seen."""
    with suppress(OSError):  # Linux: in ticks since the system started, whatever happens to its clock
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if state in "ZX" else fields[18]
    with suppress(psutil.Error):
        return repr(psutil.Process(pid).create_time())
    return None
