"""Processes that share the packs of a sweep."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Any

from reltrust import build
from reltrust.errors import SettingsError
from reltrust.packing.eligibility import obstacle
from reltrust.packing.grouping import group_into_packs
from reltrust.packing.runner import Outcome, run_pack
from reltrust.records import lease, provenance
from reltrust.records.store import Status
from reltrust.settings import Launcher
from reltrust.sweeps.plan import PlannedRun
from reltrust.training.stopping import PREEMPTED, SIGNALS, StopRequest

# What takes each process seconds to import: torch, and what its optimizers import once there is one.
IMPORTED = ("reltrust.packing.runner", "torch._dynamo")
_SECONDS_TO_STOP = 20.0  # for checkpoints, once the process that started this one is dead


def run_packs(runs: Sequence[PlannedRun], launcher: Launcher, cores: int | None = None) -> list[Outcome]:
    """Runs of any shapes, each as :func:`~reltrust.packing.runner.run_pack` does; the outcome of each.

    On a CPU one process for each core trains with one thread; on an accelerator this process does everything. SIGTERM
    reaches all of them: they leave checkpoints, and the outcome is ``preempted``.

    Args:
        cores: that there are to share; None: those that this process may use.

    Raises:
        SettingsError: packing is required, and a run cannot be packed; nothing has been started.
    """
    settings = [run.settings for run in runs]
    obstacles = {i: reason for i, one in enumerate(settings) if (reason := obstacle(one))}
    trained = [reason for i, reason in obstacles.items() if settings[i].training is not None]
    if launcher.require_packing and trained:
        raise SettingsError(f"launcher.require_packing=true, but {trained[0]}")
    on_cpu = build.device(settings[0]).type == "cpu"
    workers = launcher.workers or ((cores or provenance.cores()) if on_cpu else 1)
    packs = group_into_packs(settings, workers=workers, max_members=launcher.max_members, alone=obstacles)
    workers = min(workers, len(packs))
    limits: dict[str, Any] = {
        "max_members": launcher.max_members,
        "memory_fraction": launcher.memory_fraction / workers,
        "require_packing": launcher.require_packing,
    }
    outcomes: dict[int, Outcome] = {}
    if workers == 1:
        with StopRequest():
            for pack in packs:
                outcomes |= dict(zip(pack, run_pack([runs[i] for i in pack], **limits), strict=True))
        return [outcomes[i] for i in range(len(runs))]

    with ProcessPoolExecutor(workers, new_processes(), _start_worker) as pool, _forwarded_signals() as stop:
        with _held_back(SIGNALS):  # in new processes too, until they can listen
            futures = [_submit(pool, [runs[i] for i in pack], limits) for pack in packs]
        if stop.is_set():
            _terminate_children()  # those too that were started after the signal
        for pack, future in zip(packs, futures, strict=True):
            outcomes |= dict(zip(pack, _outcomes_of(future, len(pack), stop), strict=True))
    return [outcomes[i] for i in range(len(runs))]


def new_processes() -> BaseContext:
    """How processes are started: forks of this one would share torch's threads and locks, those of a server that only
    imports have none, and share what is imported. Elsewhere than on Linux not all that is imported bears it."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


def _submit(pool: ProcessPoolExecutor, pack: list[PlannedRun], limits: dict[str, Any]) -> "Future[list[Outcome]]":
    try:
        return pool.submit(run_pack, pack, **limits)
    except BrokenExecutor as error:  # a process of the pool has died already
        refused: Future[list[Outcome]] = Future()
        refused.set_exception(error)
        return refused


def _outcomes_of(future: "Future[list[Outcome]]", members: int, stop: threading.Event) -> list[Outcome]:
    """A process that dies (killed for memory, say) takes the pool with it; the sweep goes on when it is repeated."""
    try:
        return future.result()
    except Exception as error:
        if stop.is_set():  # whoever asks to stop may soon kill
            return [Status.PREEMPTED] * members
        if isinstance(error, BrokenExecutor):
            what = "a process of the sweep died; if for want of memory, lower launcher.memory_fraction"
            return [RuntimeError(what)] * members
        return [error] * members


@contextmanager
def _forwarded_signals() -> Iterator[threading.Event]:
    """What asks to stop is for this process's children to hear; it waits for them. Set once there was a signal."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def forward(number: int, frame: FrameType | None) -> None:
        stop.set()
        _terminate_children()

    earlier = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def _held_back(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Signals that come meanwhile come afterwards; to processes that are started meanwhile, when they let them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _terminate_children() -> None:
    for process in multiprocessing.active_children():
        process.terminate()  # SIGTERM


def _start_worker() -> None:
    """In a new process: what asks it to stop between two packs is remembered, and during one the trainer hears it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    StopRequest().__enter__()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches every process; the first one forwards it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _end_with_parent() -> None:
    """Nobody would hear of what goes on after the first process was killed: it is asked to stop, and soon has to."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + _SECONDS_TO_STOP
    while lease.holds_any() and time.monotonic() < deadline:
        time.sleep(0.05)
    os._exit(PREEMPTED)
