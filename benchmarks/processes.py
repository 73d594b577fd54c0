"""What the processes of a sweep cost before they train: forks of a server that imports, against new interpreters.

Each process imports what a run does. Seconds of CPU are those of all of them together, with the server; memory is what
a process shares with no other. Each way is tried in a process of its own.

    python benchmarks/processes.py
"""

import argparse
import importlib
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from multiprocessing.queues import Queue

import psutil
import torch
from comparing import circumstances, of_own_process, ratio

from reltrust.packing.workers import IMPORTED, new_processes

Cost = tuple[float, float, float]  # seconds, seconds of CPU, bytes
WAYS = ("forked", "spawned")


def ready(everyone_is: float) -> int:
    """Bytes of this process alone, once all others are there too."""
    for module in IMPORTED:
        importlib.import_module(module)
    time.sleep(everyone_is)
    own: int = psutil.Process().memory_full_info().uss
    return own


def start(way: str, processes: int, answer: "Queue[Cost]") -> None:
    context: BaseContext = new_processes() if way == "forked" else multiprocessing.get_context("spawn")
    started = time.perf_counter()
    with ProcessPoolExecutor(processes, context) as pool:
        futures = [pool.submit(ready, 1.0) for _ in range(processes)]
        own = [future.result() for future in futures]
        seconds = time.perf_counter() - started - 1.0
        times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    answer.put((seconds, sum(one.user + one.system for one in times), statistics.mean(own)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(circumstances(torch.device("cpu"), torch.get_num_threads(), arguments.repeats), "\n")
    print("| processes | way | seconds | CPU seconds | MB of each alone | CPU seconds, spawned / forked |")
    print("|---|---|---|---|---|---|")
    for processes in arguments.processes:
        costs: dict[str, list[Cost]] = {way: [] for way in WAYS}
        for _ in range(arguments.repeats):
            for way in WAYS:
                costs[way].append(of_own_process(start, way, processes))
        cpu = {way: [one[1] for one in costs[way]] for way in WAYS}
        for way in WAYS:
            seconds, used, own = (statistics.median(column) for column in zip(*costs[way], strict=True))
            compared = ratio(cpu["spawned"], cpu["forked"]) if way == "forked" else "1"
            print(f"| {processes} | {way} | {seconds:.1f} | {used:.1f} | {own / 1e6:.0f} | {compared} |", flush=True)


if __name__ == "__main__":
    main()
