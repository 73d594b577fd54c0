"""A step of each optimizer against its peers: one table for one device.

    python benchmarks/optimizers.py                                  # this machine's GPU if it has one, else its CPU
    python benchmarks/optimizers.py --device cpu --sets small large --repeats 9
    python benchmarks/optimizers.py --memory                         # bytes of weights and state a parameter

Ours against (1) the literal loop over tensors in float32, (2) torch's fused Adam and SGD, (3) pytorch-optimizer's
version, where it has the same algorithm, (4) the copy bound: the time that the bytes which an update must move would
take at the bandwidth of a copy. Every set of tensors has a process of its own; in it, each repeat times a stretch of
every candidate in turn, and the table has medians of ratios within a repeat.

The C library is told to keep the memory it is given. Left to itself it may hand large temporaries back to the system
after each use and pay for every page again, which makes the loops up to four times slower, or not, depending on what
else the process has freed: the table has the case that is better for them.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import date
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reltrust.optim import LARS, Fromage, IntegerMadam, Madam, NovoGrad, SignSGD

Step = Callable[[], Any]

# --- the sets of tensors ---------------------------------------------------------------------------------------------


def resnet18() -> list[tuple[int, ...]]:
    from torchvision.models import resnet18

    with torch.device("meta"):
        return [tuple(p.shape) for p in resnet18().parameters()]


def gpt124m() -> list[tuple[int, ...]]:
    d = 768
    layer: list[tuple[int, ...]] = [(d,), (d,), (3 * d, d), (3 * d,), (d, d), (d,)]
    layer += [(d,), (d,), (4 * d, d), (4 * d,), (d, 4 * d), (d,)]
    return [(50257, d), (1024, d), *(12 * layer), (d,), (d,)]


SETS: dict[str, Callable[[], list[tuple[int, ...]]]] = {
    "large": lambda: 50 * [(784, 784), (784,)],
    "small": lambda: 50 * [(64, 64), (64,)],
    "resnet18": resnet18,
    "gpt124m": gpt124m,
}

# --- the literal loops, by the equations, one tensor after another ---------------------------------------------------

LR = 0.01


@torch.no_grad()
def fromage_loop(params: list[Tensor], state: dict[Any, Any], shrink: float = 1 / math.sqrt(1 + LR**2)) -> None:
    for p in params:
        assert p.grad is not None
        p_norm, g_norm = p.norm(), p.grad.norm()
        if p_norm > 0 and g_norm > 0:
            p.sub_(LR * p.grad * (p_norm / g_norm))
        else:
            p.sub_(LR * p.grad)
        p.mul_(shrink)


def lars_loop(params: list[Tensor], state: dict[Any, Any]) -> None:
    fromage_loop(params, state, shrink=1.0)


@torch.no_grad()
def madam_loop(params: list[Tensor], state: dict[Any, Any]) -> None:
    state["t"] = t = state.get("t", 0) + 1
    for i, p in enumerate(params):
        g = p.grad
        assert g is not None
        if i not in state:
            state[i] = torch.zeros_like(p), 3.0 * p.square().mean().sqrt()
        v, w_max = state[i]
        v.mul_(0.999).add_(0.001 * g**2)
        normalised = g / (v / (1 - 0.999**t)).sqrt()
        normalised[normalised.isnan()] = 0.0
        normalised.clamp_(-10.0, 10.0)
        p.copy_((p * torch.exp(-LR * normalised * p.sign())).clamp(-w_max, w_max))


@torch.no_grad()
def integer_madam_loop(params: list[Tensor], state: dict[Any, Any]) -> None:
    state["t"] = t = state.get("t", 0) + 1
    for i, p in enumerate(params):
        g = p.grad
        assert g is not None
        if i not in state:
            w_max = 3.0 * p.square().mean().sqrt()
            state[i] = torch.zeros_like(p), w_max, (torch.log(w_max / p.abs()) / 0.001).round().clamp(0, 4095)
        v, w_max, level = state[i]
        v.mul_(0.999).add_(0.001 * g**2)
        normalised = g / (v / (1 - 0.999**t)).sqrt()
        normalised[normalised.isnan()] = 0.0
        normalised.clamp_(-10.0, 10.0)
        level.add_((LR / 0.001 * normalised).round() * p.sign()).clamp_(0, 4095)
        p.copy_(p.sign() * w_max * torch.exp(-0.001 * level))


@torch.no_grad()
def signsgd_loop(params: list[Tensor], state: dict[Any, Any]) -> None:
    for p in params:
        assert p.grad is not None
        p.sub_(LR * p.grad.sign())


@torch.no_grad()
def novograd_loop(params: list[Tensor], state: dict[Any, Any]) -> None:
    for i, p in enumerate(params):
        g = p.grad
        assert g is not None
        squares = g.norm() ** 2
        m, v = state.get(i, (torch.zeros_like(p), squares))
        v = 0.98 * v + 0.02 * squares
        m.mul_(0.95).add_(g / (v.sqrt() + 1e-8))
        p.sub_(LR * m)
        state[i] = m, v


# our class, its literal loop, pytorch-optimizer's class with the arguments that make it the same algorithm, and the
# bytes that an update of one float32 weight must move
OURS: dict[str, tuple[Any, Callable[..., None], tuple[str, dict[str, Any]] | None, int]] = {
    "Fromage": (Fromage, fromage_loop, ("Fromage", {}), 20),  # read w, g for the norms; read w, g, write w
    "LARS": (LARS, lars_loop, None, 20),  # pytorch-optimizer's LARS has momentum and a trust coefficient
    "Madam": (Madam, madam_loop, None, 20),  # read w, g, v; write w, v
    "IntegerMadam": (IntegerMadam, integer_madam_loop, None, 24),  # read w, g, n, v; write w, n, v; n in 2 bytes
    "SignSGD": (SignSGD, signsgd_loop, ("SignSGD", {"momentum": 0.0}), 12),  # read w, g; write w
    "NovoGrad": (NovoGrad, novograd_loop, ("NovoGrad", {}), 24),  # read g for the norm; read w, g, m; write w, m
}
# For the C library of GNU: 32 MiB is the most that it does not always hand back.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
FUSED = ("Fromage", "LARS", "Madam")

# --- measuring -------------------------------------------------------------------------------------------------------


def parameters(shapes: Iterable[tuple[int, ...]], device: str) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    return [(0.03 * torch.randn(s, generator=generator, device=device)).requires_grad_() for s in shapes]


def seconds(step: Step, count: int, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / count


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def medians(candidates: dict[str, Step], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds a step of every candidate in every repeat, interleaved."""
    for step in candidates.values():
        step(), step(), step()
    counts = {name: max(1, int(0.05 / seconds(step, 2, device))) for name, step in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, step in candidates.items():
            times[name].append(seconds(step, counts[name], device))
    return times


def extra_memory(step: Step, device: str) -> int:
    """The most bytes that one step holds beyond what it finds and leaves."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return int(torch.cuda.max_memory_allocated() - before)
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    results: Any = profile.profiler
    changes = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(changes, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def with_gradients(params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    return params


def measure(name: str, device: str, repeats: int, only: list[str]) -> list[dict[str, Any]]:
    """The rows of one set of tensors. To be called in a process of its own."""
    shapes = SETS[name]()
    grads = [1e-3 * g.detach() for g in parameters(shapes, device)]
    numel = sum(math.prod(shape) for shape in shapes)
    rows = []

    def fresh() -> list[Tensor]:
        return with_gradients(parameters(shapes, device), grads)

    source, target = torch.ones(numel, device=device), torch.ones(numel, device=device)
    for ours, (cls, loop, peer, moved) in OURS.items():
        if ours not in only:
            continue
        candidates: dict[str, Step] = {"default": cls(fresh(), lr=LR).step}
        if ours in FUSED:
            candidates["fused=True"] = cls(fresh(), lr=LR, fused=True).step
        paths = list(candidates)
        candidates["loop"] = partial(loop, fresh(), {})
        candidates["Adam"] = torch.optim.Adam(fresh(), lr=1e-9, fused=True).step
        candidates["SGD"] = torch.optim.SGD(fresh(), lr=1e-9, fused=True).step
        if peer is not None:
            try:
                import pytorch_optimizer

                candidates["peer"] = getattr(pytorch_optimizer, peer[0])(fresh(), lr=LR, **peer[1]).step
            except ImportError:
                print("pytorch-optimizer is not installed: its column stays empty", file=sys.stderr)
        candidates["copy"] = partial(target.copy_, source)
        times = medians(candidates, repeats, device)
        for path in paths:
            row: dict[str, Any] = {"set": name, "optimizer": ours, "path": path}
            row["ms"] = 1e3 * statistics.median(times[path])
            for other in ("loop", "Adam", "SGD", "peer"):
                if other in times:
                    row[other] = [a / b for a, b in zip(times[path], times[other], strict=True)]
            # A copy moves 8 bytes an element.
            row["bound"] = [moved / 8 * b / a for a, b in zip(times[path], times["copy"], strict=True)]
            row["extra"] = extra_memory(candidates[path], device) / (4 * numel)
            rows.append(row)
        del candidates
    return rows


# --- bytes of weights and state --------------------------------------------------------------------------------------


def memory_table() -> None:
    """Bytes a parameter of ResNet-18 after one step: counted, not calculated."""
    from torchvision.models import resnet18 as build

    from reltrust.optim import lns

    print("| optimizer | weights | state | together | weights packed by lns.save, bits | of FP32 |")
    print("|---|---|---|---|---|---|")
    choices: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
        ("Adam", torch.optim.Adam, {}),
        ("Madam", Madam, {}),
        *((f"IntegerMadam, {lns.bits(n)} bits", IntegerMadam, {"levels": n}) for n in (4096, 1024, 256)),
    ]
    for name, cls, arguments in choices:
        torch.manual_seed(0)
        model: nn.Module = build()
        for norm in model.modules():  # as in the papers' runs with Madam, which moves no zero
            if isinstance(norm, nn.BatchNorm2d):
                norm.register_parameter("weight", None)
                norm.register_parameter("bias", None)
        optimizer = cls(model.parameters(), **arguments)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
        numel = sum(p.numel() for p in model.parameters())
        weights = sum(p.numel() * p.element_size() for p in model.parameters()) / numel
        tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        state = sum(v.numel() * v.element_size() for v in tensors) / numel
        packed = "- | -"
        if cls is IntegerMadam:
            held = [optimizer.quantized(p) for p in model.parameters()]
            size = sum(lns.pack(q.sign, q.level, levels=levels).numel() for q, levels, _ in held)
            packed = f"{8 * size / numel:.2f} | {size / numel / 4:.4f}"
        print(f"| {name} | {weights:.2f} | {state:.2f} | {weights + state:.2f} | {packed} |")


# --- the table -------------------------------------------------------------------------------------------------------


def cell(values: list[float] | None) -> str:
    return "-" if not values else f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--optimizers", nargs="+", choices=list(OURS), default=list(OURS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true", help="print the bytes of weights and state instead")
    parser.add_argument("--one-set", choices=list(SETS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        memory_table()
        return
    if arguments.one_set:
        rows = measure(arguments.one_set, arguments.device, arguments.repeats, arguments.optimizers)
        print(json.dumps(rows))
        return

    where = f"{os.cpu_count()} cores, {arguments.threads} threads, {platform.machine()}"
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else where
    print(f"{date.today()}, {where}, torch {torch.__version__}, float32,", end=" ")
    print(f"medians (and ranges) of {arguments.repeats} interleaved repeats, ratios of times")
    print("| tensors | optimizer, path | ms | / loop | / fused Adam | / fused SGD | / pytorch-optimizer |", end="")
    print(" copy bound / time | extra memory / parameters |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.sets:
        command = [sys.executable, __file__, "--one-set", name, "--device", arguments.device]
        command += ["--repeats", str(arguments.repeats), "--threads", str(arguments.threads)]
        command += ["--optimizers", *arguments.optimizers]
        done = subprocess.run(command, env=os.environ | KEEP_MEMORY, stdout=subprocess.PIPE, check=True)
        for row in json.loads(done.stdout.splitlines()[-1]):
            ratios = " | ".join(cell(row.get(other)) for other in ("loop", "Adam", "SGD", "peer", "bound"))
            print(f"| {name} | {row['optimizer']}, {row['path']} | {row['ms']:.3f} | {ratios} | {row['extra']:.3f} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
