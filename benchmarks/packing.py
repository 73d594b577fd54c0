"""Packed runs against the best that runs alone can do: member-steps a second, and how they grow with the pack.

On a CPU the peer is two processes of one thread each, every one of them training one run after another; against them
stand two processes of one thread that train half of the members each as one program. Both kinds of work alternate
within the same processes, in step with each other, so that what disturbs the machine meets both. On CUDA one process
does everything, and a captured pack stands against a run alone.

    python benchmarks/packing.py                      # the table and the plot's numbers, minutes on a CPU
    python benchmarks/packing.py --plot benchmarks/packing.png
    python benchmarks/packing.py --device cuda --widths 784 --depths 2 10 25 50 --members 9 27 --precision fp32 tf32
"""

import argparse
import math
import multiprocessing
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from reltrust.experiments.mlp_depth.task import MlpDepth

from reltrust.data.images import Examples, ImageData
from reltrust.optim import Fromage
from reltrust.packing.program import PackedProgram
from reltrust.records.provenance import hardware
from reltrust.settings import Trainer
from reltrust.training.program import Program, TrainingProgram

KINDS = [  # the depth benchmark's optimizers and learning rates
    *(("sgd_momentum", lr) for lr in (1.0, 0.1, 0.01)),
    *(("adam", lr) for lr in (0.01, 0.001, 0.0001)),
    *(("fromage", lr) for lr in (0.1, 0.01, 0.001)),
]


@dataclass(frozen=True)
class Case:
    """A pack to measure."""

    device: str
    width: int
    depth: int
    batch: int
    members: int
    precision: Literal["fp32", "tf32", "bf16"]

    @property
    def flops(self) -> float:
        """Floating-point operations of the matrix products of one step of one member: forward, and twice backward."""
        weights = self.width * self.width * self.depth + self.width * 10
        return 6.0 * self.batch * weights


def kind(case: Case, number: int) -> int:
    """Of which kind member ``number`` of the pack is: as many of each as can be."""
    return number * len(KINDS) // case.members


def program(case: Case, number: int) -> Program:
    """Member ``number``, on images of noise: a step costs the same whatever they show."""
    optimizer, lr = KINDS[kind(case, number)]
    device = torch.device(case.device)
    task = MlpDepth(
        _data(case),
        hidden_layers=case.depth,
        width=case.width,
        init="torch",
        batch_size=case.batch,
        seed=number,
        device=device,
    )
    params = list(task.module.parameters())
    if optimizer == "fromage":
        rule: torch.optim.Optimizer = Fromage(params, lr=lr)
    elif optimizer == "adam":
        rule = torch.optim.Adam(params, lr=lr, fused=True)
    else:
        rule = torch.optim.SGD(params, lr=lr, momentum=0.9, fused=True)
    return Program(task, [rule], 10_000, Trainer(precision=case.precision))


def pack(case: Case, numbers: Sequence[int]) -> PackedProgram:
    return PackedProgram([program(case, i) for i in numbers], [kind(case, i) for i in numbers])


_shared: dict[tuple[str, int, int], ImageData] = {}


def _data(case: Case) -> ImageData:
    key = (case.device, case.width, case.batch)
    if key not in _shared:
        n = max(1_500, 2 * case.batch)
        images = torch.randn(n, case.width, generator=torch.Generator().manual_seed(0))
        examples = Examples(images, torch.arange(n) % 10)
        _shared[key] = ImageData(examples, examples, classes=10).to(torch.device(case.device))
    return _shared[key]


def member_steps_per_second(steps: TrainingProgram, members: int, seconds: float, device: str) -> float:
    """As many steps as fit into the time."""
    done, start = 0, time.perf_counter()
    while (took := time.perf_counter() - start) < seconds:
        for _ in range(max(1, 20 // members)):
            steps.training_step(done % 100, [1.0] * members)
            done += 1
        steps.fetch_window(done)
        if device == "cuda":
            torch.cuda.synchronize()
    return done * members / took


def measure(case: Case, numbers: Sequence[int], repeats: int, seconds: float, barrier: Barrier, out: Any) -> None:
    """In a process: packed and alone in turn; sends the two rates of every repeat."""
    torch.set_num_threads(1)
    packed = pack(case, numbers)
    alone = [program(case, i) for i in {kind(case, i): i for i in numbers}.values()]  # one of every kind
    member_steps_per_second(packed, len(numbers), seconds / 4, case.device)
    rates = []
    for _ in range(repeats):
        barrier.wait()
        rate = member_steps_per_second(packed, len(numbers), seconds, case.device)
        barrier.wait()
        # The mean time of a step over the kinds is what a sweep pays that trains them one after another.
        times = [1 / member_steps_per_second(one, 1, seconds / len(alone), case.device) for one in alone]
        rates.append((rate, len(times) / sum(times)))
    out.put(rates)


def compare(case: Case, processes: int, repeats: int, seconds: float) -> list[tuple[float, float]]:
    """Member-steps a second of all processes together, packed and alone, for each repeat."""
    context = multiprocessing.get_context("spawn")
    processes = min(processes, case.members)
    out, barrier = context.Queue(), context.Barrier(processes)
    shares = [range(i, case.members, processes) for i in range(processes)]
    workers = [context.Process(target=measure, args=(case, share, repeats, seconds, barrier, out)) for share in shares]
    for worker in workers:
        worker.start()
    answers = [out.get() for _ in workers]
    for worker in workers:
        worker.join()
    return [
        (sum(packed for packed, _ in repeat), sum(alone for _, alone in repeat))
        for repeat in zip(*answers, strict=True)
    ]


def matmul_peak(case: Case) -> float:
    """FLOP/s of a large matrix product in the precision, the best of several."""
    n = 8192 if case.device == "cuda" else 1024
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    torch.set_float32_matmul_precision("high" if case.precision == "tf32" else "highest")
    a = torch.randn(n, n, device=case.device, dtype=dtype)
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(3):
            a @ a
        if case.device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / 3)
    return 2.0 * n**3 / best


def table(cases: Sequence[Case], processes: int, repeats: int, seconds: float) -> None:
    peaks: dict[str, float] = {}
    rate, size = "member-steps/s", "width | depth | batch | members | precision"
    print(f"| {size} | packed, {rate} | alone, {rate} | packed / alone | GFLOP/s | of the peak | MiB a member |")
    print("|" + "---|" * 11)
    for case in cases:
        torch.set_num_threads(1)
        peak = peaks.setdefault(case.precision, matmul_peak(case) * processes)
        rates = compare(case, processes, repeats, seconds)
        packed = statistics.median(rate for rate, _ in rates)
        alone = statistics.median(rate for _, rate in rates)
        ratios = [p / a for p, a in rates]
        memory = f"{memory_a_member(case) / 2**20:.1f}" if case.device == "cuda" else "-"
        print(
            f"| {case.width} | {case.depth} | {case.batch} | {case.members} | {case.precision} | {packed:,.0f} "
            f"| {alone:,.0f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {packed * case.flops / 1e9:,.1f} | {packed * case.flops / peak:.0%} | {memory} |",
            flush=True,
        )


def memory_a_member(case: Case) -> float:
    """Bytes of CUDA memory at the peak of a few steps, divided by the members."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    packed = pack(case, range(case.members))
    for step in range(8):
        packed.training_step(step, [1.0] * case.members)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / case.members


def scaling(case: Case, sizes: Sequence[int], repeats: int, seconds: float) -> dict[int, float]:
    """Milliseconds a member-step of one process, against the number of members; medians."""
    found: dict[int, list[float]] = {size: [] for size in sizes}
    packs = {size: pack(replace(case, members=size), range(size)) for size in sizes}
    for _ in range(repeats):
        for size, packed in packs.items():
            found[size].append(1000 / member_steps_per_second(packed, size, seconds, case.device))
    return {size: statistics.median(times) for size, times in found.items()}


def plot(times: dict[int, float], case: Case, path: Path) -> None:
    figure = Figure(figsize=(4.5, 3.2))
    axes = figure.subplots()
    axes.loglog(list(times), list(times.values()), "o-", color="#D55E00")
    axes.set_xticks(list(times), [str(size) for size in times])
    axes.set_yticks(list(times.values()), [f"{value:.2g}" for value in times.values()])
    axes.minorticks_off()
    axes.set_xlabel("members of the pack")
    axes.set_ylabel("ms a member-step, one thread" if case.device == "cpu" else "ms a member-step")
    axes.set_title(f"{case.depth} hidden layers of {case.width}, batch {case.batch}")
    figure.savefig(path, dpi=200, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--depths", type=int, nargs="+", default=[20])
    parser.add_argument("--members", type=int, nargs="+", default=[81])
    parser.add_argument("--batch", type=int, default=None, help="default: 50, on CUDA 250")
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--processes", type=int, default=None, help="default: 2, on CUDA 1")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a stretch of one kind")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 3, 9, 27, 81], help="of the packs of the plot")
    parser.add_argument("--plot", type=Path, help="where to draw the scaling")
    chosen = parser.parse_args()

    batch = chosen.batch or (250 if chosen.device == "cuda" else 50)
    processes = chosen.processes or (1 if chosen.device == "cuda" else 2)
    machine = hardware(chosen.device)
    print(
        f"{date.today()}, {machine.get('gpu', machine['cpu'])}, {machine['cores']} cores, {processes} process(es) of "
        f"one thread, torch {torch.__version__.split('+')[0]}, Python {platform.python_version()}, "
        f"{chosen.repeats} repeats\n"
    )
    cases = [
        Case(chosen.device, width, depth, batch, members, precision)
        for precision in chosen.precision
        for width in chosen.widths
        for depth in chosen.depths
        for members in chosen.members
    ]
    table(cases, processes, chosen.repeats, chosen.seconds)
    if chosen.sizes:
        torch.set_num_threads(1)
        case = Case(chosen.device, 784 if chosen.device == "cuda" else 64, 20, batch, 81, chosen.precision[0])
        times = scaling(case, chosen.sizes, chosen.repeats, chosen.seconds)
        print("\n| members | ms a member-step | alone / packed |\n|---|---|---|")
        for size, value in times.items():
            print(f"| {size} | {value:.3f} | {times[chosen.sizes[0]] / value:.2f} |")
        if chosen.plot:
            plot(times, case, chosen.plot)


if __name__ == "__main__":
    main()
