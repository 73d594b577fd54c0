"""A training step with its data: this project's program against the literal published loop, in one process.

The published loop: torchvision's MNIST with ToTensor and Normalize, a DataLoader, a plain Sequential, the optimizer
tensor by tensor, and ``.item()`` for loss and accuracy at every step. Both sides train the same network on the same
60,000 images; each repeat times a stretch of one and then of the other, so that what disturbs the machine meets both.

    python benchmarks/training_step.py                      # the table
    python benchmarks/training_step.py --repeats 9 --data DIR

Without MNIST in --data, random images of the same shape in the same file format take its place: the cost of a step does
not depend on what the images show.
"""

import argparse
import itertools
import platform
import resource
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch
from reltrust.experiments.mlp_depth.task import MlpDepth
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from reltrust.data import images
from reltrust.data.images import MNIST_MEAN, MNIST_STD
from reltrust.optim import Fromage
from reltrust.settings import Trainer
from reltrust.training.program import Program

SETTINGS = [  # hidden layers, width, batch size, optimizer
    (10, 784, 250, "sgd_momentum"),
    (10, 784, 250, "adam"),
    (10, 784, 250, "fromage"),
    (20, 64, 50, "sgd_momentum"),
    (20, 64, 50, "adam"),
    (20, 64, 50, "fromage"),
]
CPU = torch.device("cpu")


class LiteralFromage(torch.optim.Optimizer):
    """The update rule as the paper's algorithm reads, one tensor after another."""

    def __init__(self, params: Iterator[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                g_norm, p_norm = p.grad.norm(), p.norm()
                if p_norm > 0 and g_norm > 0:
                    p.add_(-group["lr"] * p.grad * (p_norm / g_norm))
                else:
                    p.add_(-group["lr"] * p.grad)
                p.div_((1 + group["lr"] ** 2) ** 0.5)


def literal_loop(root: str, layers: int, width: int, batch: int, optimizer: str) -> Callable[[int], None]:
    """Trains with the published loop for a number of steps."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MNIST_MEAN,), (MNIST_STD,))])
    data = datasets.MNIST(root, train=True, transform=transform)
    loader = DataLoader(data, batch_size=batch, shuffle=True)
    sizes = [784] + [width] * layers
    hidden = [m for n, k in itertools.pairwise(sizes) for m in (nn.Linear(n, k), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(width, 10))
    if optimizer == "fromage":
        rule: torch.optim.Optimizer = LiteralFromage(model.parameters(), lr=0.01)
    elif optimizer == "adam":
        rule = torch.optim.Adam(model.parameters(), lr=1e-4)
    else:
        rule = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    batches = (pair for _ in iter(int, 1) for pair in loader)

    def steps(count: int) -> None:
        for _ in range(count):
            x, y = next(batches)
            rule.zero_grad()
            output = model(x.view(x.shape[0], -1))
            loss = F.cross_entropy(output, y)
            loss.backward()
            rule.step()
            loss.item()
            (output.argmax(1) == y).float().mean().item()

    return steps


def our_loop(root: str, layers: int, width: int, batch: int, optimizer: str) -> Callable[[int], None]:
    """Trains with this project's task and program for a number of steps, fetching its measures once at the end."""
    parts = (datasets.MNIST(root, train=train) for train in (True, False))
    train, test = (images.mnist_examples(part.data, part.targets) for part in parts)
    data = images.ImageData(train, test, classes=10)
    task = MlpDepth(data, hidden_layers=layers, width=width, init="torch", batch_size=batch, seed=0, device=CPU)
    params = task.module.parameters()
    if optimizer == "fromage":
        rule: torch.optim.Optimizer = Fromage(params, lr=0.01)
    elif optimizer == "adam":
        rule = torch.optim.Adam(params, lr=1e-4, fused=True)
    else:
        rule = torch.optim.SGD(params, lr=0.01, momentum=0.9, fused=True)
    program, done = Program(task, [rule], 1000, Trainer(precision="fp32")), 0

    def steps(count: int) -> None:
        nonlocal done
        for _ in range(count):
            program.training_step(done, [1.0])
            done += 1
        program.fetch_window(done)

    return steps


def seconds_a_step(steps: Callable[[int], None], count: int) -> float:
    start = time.perf_counter()
    steps(count)
    return (time.perf_counter() - start) / count


def write_random_mnist(root: str) -> None:
    """Files in MNIST's format, with random images: 60,000 and 10,000."""
    raw = Path(root, "MNIST", "raw")
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        pixels, labels = rng.integers(256, size=n * 784, dtype=np.uint8), rng.integers(10, size=n, dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, n, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, n) + labels.tobytes())


def peak_memory(root: str, layers: int, width: int, batch: int) -> str:
    """How far the process grows when it loads the data and trains with Adam, in units of what it must hold."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    our_loop(root, layers, width, batch, "adam")(5)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    data = 4 * 784 * 70_000 / 2**20
    params = 4 * (784 * width + (layers - 1) * width**2 + 10 * width) / 2**20
    activations = 4 * batch * (784 + layers * width) * 2 / 2**20
    bound = data + 6 * params + activations
    return (
        f"peak memory, {layers} x {width}, Adam: {grown:.0f} MiB grown, "
        f"bound {bound:.0f} MiB (data + 6 x parameters + activations)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="a folder with MNIST/raw (default: data)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.data
        if not Path(root, "MNIST", "raw").exists():
            root = scratch
            write_random_mnist(root)
        memory = peak_memory(root, 10, 784, 250)
        print(f"{date.today()}, {platform.machine()}, {arguments.threads} threads, torch {torch.__version__}, ", end="")
        print(f"medians of {arguments.repeats} interleaved repeats, data in the step")
        print("| hidden x width, batch | optimizer | published loop, ms | ours, ms | ratio (min to max) |")
        print("|---|---|---|---|---|")
        for layers, width, batch, optimizer in SETTINGS:
            literal = literal_loop(root, layers, width, batch, optimizer)
            ours = our_loop(root, layers, width, batch, optimizer)
            count = 20 if width > 100 else 100
            seconds_a_step(literal, 5), seconds_a_step(ours, 5)
            pairs = [(seconds_a_step(literal, count), seconds_a_step(ours, count)) for _ in range(arguments.repeats)]
            ratios = sorted(a / b for a, b in pairs)
            theirs_ms, ours_ms = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
            print(
                f"| {layers} x {width}, {batch} | {optimizer} | {theirs_ms:.2f} | {ours_ms:.2f} "
                f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |",
                flush=True,
            )
        print(memory)


if __name__ == "__main__":
    main()
