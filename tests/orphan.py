"""A process of a sweep that holds a run, and the first process that started it, to be killed."""

import multiprocessing
import os
import time
from pathlib import Path


def work_until_asked_to_stop(folder: str) -> None:
    from reltrust.packing.workers import _start_worker
    from reltrust.records.lease import Lease
    from reltrust.training.stopping import StopRequest

    _start_worker()
    lease = Lease(Path(folder, ".lease"))
    lease.acquire()
    Path(folder, "worker").write_text(str(os.getpid()))
    for _ in range(1200):
        if StopRequest._outer and StopRequest._outer.requested:
            break
        time.sleep(0.05)
    Path(folder, "checkpoint").touch()
    lease.release()
    time.sleep(60)  # as a worker waits for its next pack


def start_one(folder: str) -> None:
    multiprocessing.get_context("spawn").Process(target=work_until_asked_to_stop, args=(folder,)).start()
    time.sleep(60)
