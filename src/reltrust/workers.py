"""Processes that share the packs of a sweep."""

import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

from reltrust.errors import SettingsError
from reltrust.pack_runner import Outcome, obstacle, run_pack
from reltrust.records.provenance import cores
from reltrust.records.store import Status
from reltrust.runner import resolve_device
from reltrust.settings import Launcher, Settings
from reltrust.sweeps.packing import deal
from reltrust.training.stopping import StopRequest


def run_packs(runs: Sequence[Settings], launcher: Launcher) -> list[Outcome]:
    """Runs of any shapes, each as :func:`~reltrust.pack_runner.run_pack` does; the outcome of each.

    On a CPU one process for each core trains with one thread; on an accelerator this process does everything. SIGTERM
    reaches all of them: they leave checkpoints, and the outcome is ``preempted``.

    Raises:
        SettingsError: packing is required, and a run cannot be packed; nothing has been started.
    """
    obstacles = {i: reason for i, settings in enumerate(runs) if (reason := obstacle(settings))}
    if launcher.require_packing and obstacles:
        raise SettingsError(f"launcher.require_packing=true, but {next(iter(obstacles.values()))}")
    on_cpu = resolve_device(runs[0].machine.device).type == "cpu"
    workers = launcher.workers or (cores() if on_cpu else 1)
    dealt = deal(runs, workers=workers, max_members=launcher.max_members, alone=obstacles)
    workers = min(workers, len(dealt))
    limits: dict[str, Any] = {
        "max_members": launcher.max_members,
        "memory_fraction": launcher.memory_fraction / workers,
        "require_packing": launcher.require_packing,
    }
    outcomes: dict[int, Outcome] = {}
    if workers == 1:
        with StopRequest():
            for pack in dealt:
                outcomes |= dict(zip(pack, run_pack([runs[i] for i in pack], **limits), strict=True))
    else:
        # Forked processes would share torch's threads and locks; spawned ones have their own.
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)
        with pool, _forwarding() as stop:
            futures = [_submit(pool, [runs[i] for i in pack], limits) for pack in dealt]
            if stop.is_set():
                _terminate_children()  # those too that were started after the signal
            for pack, future in zip(dealt, futures, strict=True):
                outcomes |= dict(zip(pack, _answers(future, len(pack), stop), strict=True))
    return [outcomes[i] for i in range(len(runs))]


def _submit(pool: ProcessPoolExecutor, pack: list[Settings], limits: dict[str, Any]) -> "Future[list[Outcome]]":
    try:
        return pool.submit(run_pack, pack, **limits)
    except BrokenExecutor as error:  # a process of the pool has died already
        refused: Future[list[Outcome]] = Future()
        refused.set_exception(error)
        return refused


def _answers(future: "Future[list[Outcome]]", members: int, stop: threading.Event) -> list[Outcome]:
    """A process that dies (killed for memory, say) takes the pool with it; the sweep goes on when it is repeated."""
    try:
        return future.result()
    except Exception as error:
        if stop.is_set():  # a process that is asked to stop before it can listen just ends
            return [Status.PREEMPTED] * members
        if isinstance(error, BrokenExecutor):
            what = "a process of the sweep died; if for want of memory, lower launcher.memory_fraction"
            return [RuntimeError(what)] * members
        return [error] * members


@contextmanager
def _forwarding() -> Iterator[threading.Event]:
    """SIGTERM and Ctrl-C are for this process's children to hear; it waits for them. Set once there was a signal."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def forward(number: int, frame: FrameType | None) -> None:
        stop.set()
        _terminate_children()

    earlier = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _terminate_children() -> None:
    for process in multiprocessing.active_children():
        process.terminate()  # SIGTERM


def _start() -> None:
    """In a new process: what asks it to stop between two packs is remembered, and during one the trainer hears it."""
    StopRequest().__enter__()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches every process; the first one forwards it
