"""Processes that share the packs of a sweep."""

import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

from reltrust.errors import SettingsError
from reltrust.pack_runner import Outcome, obstacle, run_pack
from reltrust.records.provenance import cores
from reltrust.runner import resolve_device
from reltrust.settings import Launcher, Settings
from reltrust.sweeps.packing import packs
from reltrust.training.stopping import StopRequest


def run_packs(runs: Sequence[Settings], launcher: Launcher) -> list[Outcome]:
    """Runs of any shapes, each as :func:`~reltrust.pack_runner.run_pack` does; the outcome of each.

    On a CPU one process for each core trains with one thread; on an accelerator this process does everything. SIGTERM
    reaches all of them: they leave checkpoints, and the outcome is ``preempted``.

    Raises:
        SettingsError: packing is required, and a run cannot be packed; nothing has been started.
    """
    if launcher.require_packing:
        for settings in runs:
            if reason := obstacle(settings):
                raise SettingsError(f"launcher.require_packing=true, but {reason}")
    on_cpu = resolve_device(runs[0].machine.device).type == "cpu"
    workers = launcher.workers or (cores() if on_cpu else 1)
    dealt = packs(runs, workers=workers, max_members=launcher.max_members)
    workers = min(workers, len(dealt))
    limits: dict[str, Any] = {
        "max_members": launcher.max_members,
        "memory_fraction": launcher.memory_fraction / workers,
    }
    outcomes: dict[int, Outcome] = {}
    if workers == 1:
        with StopRequest():
            for pack in dealt:
                outcomes |= dict(zip(pack, run_pack([runs[i] for i in pack], **limits), strict=True))
    else:
        # Forked processes would share torch's threads and locks; spawned ones have their own.
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)
        with pool, _forwarding(pool):
            futures = [pool.submit(run_pack, [runs[i] for i in pack], **limits) for pack in dealt]
            for pack, future in zip(dealt, futures, strict=True):
                outcomes |= dict(zip(pack, _answers(future, len(pack)), strict=True))
    return [outcomes[i] for i in range(len(runs))]


def _answers(future: "Future[list[Outcome]]", members: int) -> list[Outcome]:
    """A process that died takes its runs with it; they can be run again."""
    try:
        return future.result()
    except Exception as error:
        return [error] * members


@contextmanager
def _forwarding(pool: ProcessPoolExecutor) -> Iterator[None]:
    """SIGTERM and Ctrl-C are for the processes to hear; this one waits for them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def forward(number: int, frame: FrameType | None) -> None:
        for process in multiprocessing.active_children():
            process.terminate()  # SIGTERM

    earlier = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _start() -> None:
    """In a new process: what asks it to stop between two packs is remembered, and during one the trainer hears it."""
    StopRequest().__enter__()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches every process; the first one forwards it
