"""Inner steps a second of a whole population as one batched program, over those of its members one at a time.

A member here is a learned optimizer of the population, with its perturbed copies on all their problems, and beside
that a single training: one copy on one problem. Each repeat times one way and then the next.

    python benchmarks/learned_optimizers.py
"""

import argparse
import statistics
from collections.abc import Iterator

import torch
from comparing import Loop, circumstances, ratio, seconds_a_step
from reltrust.experiments.learned_optimizers.problems import Family, Perceptrons, Problems, Quadratics, pooled
from reltrust.experiments.learned_optimizers.rule import DECAYS, initial
from reltrust.experiments.learned_optimizers.unrolls import antithetic, begun, unroll
from torch import Tensor

from reltrust.data import images
from reltrust.data.draws import generator

DIMENSION, PIXELS, CLASSES, UNITS, BATCH = 16, 4, 10, 8, 16  # of configs/experiment/learned_optimizers/quick.yaml
BYTES = 4  # of a number


def parts(weights: Tensor, by: str) -> Iterator[tuple[Tensor, list[int]]]:
    """The trainings (M, S, N) as one, by optimizer or one at a time: their weights, and which problems."""
    members, copies, problems, _ = weights.shape
    every = list(range(problems))
    if by == "batched":
        yield weights, every
    for m in range(members):
        if by == "optimizer":
            yield weights[[m]], every
        for s in range(copies if by == "training" else 0):
            for n in every:
                yield weights[m, s, n][None, None, None], [n]


def steps_of(weights: Tensor, hidden: int, family: Family, problems: Problems, by: str) -> Loop:
    """So many steps of every training."""

    def loop(steps: int) -> None:
        batches = family.batches(len(problems.start), steps, (2,))
        for own, which in parts(weights, by):
            data = tuple(one[which] for one in problems.data)
            training = begun(Problems(data, problems.start[which]), *own.shape[:2])
            unroll(own, hidden, family, data, training, tuple(one[:, which] for one in batches), steps)

    return loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=16)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(circumstances(torch.device("cpu"), arguments.threads, arguments.repeats))
    trainings = 2 * arguments.population * arguments.pairs
    print(
        f"{trainings} trainings: {arguments.population} optimizers of {arguments.hidden} hidden units; ratios of inner"
    )
    print("steps a second, medians (lowest to highest)\n")
    print("| problems | steps/s | / one optimizer at a time | / one training at a time | kB a training |")
    print("|---|---|---|---|---|")
    digits = pooled(images.load("digits", "data").train, PIXELS)
    families: dict[str, Family] = {
        "quadratics": Quadratics(DIMENSION),
        "perceptrons": Perceptrons(digits, CLASSES, UNITS, BATCH),
    }
    centres = initial(arguments.population, arguments.hidden, generator(0, 1))
    noise = 0.05 * torch.randn(arguments.population, arguments.pairs, centres.shape[1], generator=generator(0, 2))
    weights = antithetic(centres, noise)
    for name, family in families.items():
        problems = family.draw(arguments.pairs, (1,))
        ways = ("batched", "optimizer", "training")
        loops = {by: steps_of(weights, arguments.hidden, family, problems, by) for by in ways}
        seconds = seconds_a_step(loops, steps=arguments.steps, repeats=arguments.repeats)
        # Of a training: half of its pair's noise, summed and new; parameters and momenta.
        held = weights.shape[-1] + problems.start.shape[1] * (1 + len(DECAYS))
        speed = trainings / statistics.median(seconds["batched"])
        by_optimizer, by_training = (ratio(seconds[by], seconds["batched"]) for by in ways[1:])
        described = f"{name}, {problems.start.shape[1]} parameters"
        print(f"| {described} | {speed:.0f} | {by_optimizer} | {by_training} | {held * BYTES / 1024:.1f} |", flush=True)


if __name__ == "__main__":
    main()
