"""What benchmarks of loops share: loops timed in turn, memory in a process of its own, the words of a table."""

import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

Loop = Callable[[int], None]  # makes so many steps


def seconds_a_step(
    loops: Mapping[str, Loop], *, steps: int, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Of each loop in each repeat, which times a stretch of one and then of the next; a first stretch warms up.

    Args:
        clock: ``time.process_time`` where one thread computes and others may use its core.
    """
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for repeat in range(repeats + 1):
        for name, loop in loops.items():
            started = clock()
            loop(steps)
            if repeat:
                seconds[name].append((clock() - started) / steps)
    return seconds


def ratio(baseline: Sequence[float], own: Sequence[float]) -> str:
    """How many times as fast, as ``median (lowest to highest)`` of the repeats."""
    found = sorted(first / second for first, second in zip(baseline, own, strict=True))
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


def of_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function puts into the queue that is its last argument, in a new process."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=function, args=(*arguments, answer))
    process.start()
    found = answer.get()
    process.join()
    return found


def resident(key: str) -> int:
    """VmRSS: bytes of memory that this process has now; VmHWM: the most that it ever had. Linux only."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return 1024 * int(line.split()[1])


def circumstances(device: torch.device, threads: int, repeats: int) -> str:
    where = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{date.today()}, torch {torch.__version__}, {where}, {threads} threads, n={repeats}"
