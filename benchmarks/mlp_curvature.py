"""What a point of a curvature slice costs beside its forward and backward pass.

At the paper's width on as many images as MNIST has (random ones: the arithmetic is the same), in turns in one process:
``passes`` is a loop of forward and backward passes over the same chunks of images, written out; ``slice`` is the
analysis of experiments/mlp_curvature, which moves the weights along the gradient, makes the passes, and measures the
change of every layer's gradient. Seconds are CPU time of the process.

    python benchmarks/mlp_curvature.py
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from comparing import circumstances, ratio
from reltrust.experiments.mlp_curvature import analysis
from reltrust.experiments.mlp_curvature.network import perceptron
from reltrust.experiments.mlp_curvature.settings import Subject
from torch.nn import functional as F

from reltrust.data.images import Examples
from reltrust.models.mlp import MLP

WIDTH, CLASSES = 784, 10


class NoStop:
    """A computation that nobody interrupts."""

    state = None

    def reached(self, step: int, state: Callable[[], object]) -> None: ...


def no_log(row: dict[str, Any]) -> None: ...


def passes(network: MLP, examples: Examples, points: int) -> None:
    """Forward and backward over all images, ``points`` times."""
    for _ in range(points):
        network.zero_grad()
        chunks = zip(examples.images.split(analysis.CHUNK), examples.labels.split(analysis.CHUNK), strict=True)
        for images, labels in chunks:
            (F.cross_entropy(network(images), labels, reduction="sum") / len(examples)).backward()


def cpu_seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--points", type=int, default=2, help="of a slice, each a pass over all images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    draws = torch.Generator().manual_seed(0)
    examples = Examples(
        torch.randn(arguments.images, WIDTH, generator=draws),
        torch.randint(CLASSES, (arguments.images,), generator=draws),
    )
    print(circumstances(torch.device("cpu"), arguments.threads, arguments.repeats))
    print(f"{arguments.images:,} images, {arguments.points} points a slice, CPU seconds a point\n")
    print("| network | passes | slice | slice / passes |")
    print("|---|---|---|---|")
    for kind, depth in (("plain", 1), ("plain", 15), ("residual", 15)):
        network = perceptron(kind, WIDTH, WIDTH, depth, CLASSES, seed=0)
        subject = Subject(
            network=kind,
            hidden_layers=depth,
            width=WIDTH,
            train_steps=0,
            train_batch=250,
            train_lr=0.01,
            train_decay=0.9,
            train_decay_every=240,
            points=arguments.points,
            spacing=0.001,
        )
        sliced = analysis.CurvatureSlice(subject, examples, network, seed=0)
        loops = (partial(passes, network, examples, arguments.points), partial(sliced.compute, no_log, NoStop()))
        of_passes, of_slice = [], []
        for repeat in range(arguments.repeats + 1):
            seconds = [cpu_seconds(loop) / arguments.points for loop in loops]
            if repeat:  # the first one warms up
                of_passes.append(seconds[0])
                of_slice.append(seconds[1])
        times = " | ".join(f"{statistics.median(own):.2f}" for own in (of_passes, of_slice))
        print(f"| {kind}, {depth + 1} layers | {times} | {ratio(of_slice, of_passes)} |", flush=True)


if __name__ == "__main__":
    main()
