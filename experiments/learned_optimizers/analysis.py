"""Meta-training: a population of learned optimizers from its random beginning, generation by generation."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reltrust.data.images import Examples
from reltrust.experiment import Measured, ResumePoint

from .held_out import trials
from .optimizer import to_bytes
from .population import Population
from .problems import Family, Perceptrons, Quadratics, pooled
from .settings import Subject
from .unrolls import PersistentES, meta_loss

_CLASSES = 10
PARTS = 8  # of the curve, for where it falls most


class MetaTraining:
    """The meta-loss of the best member against the generation.

    The meta-loss of an optimizer is the mean of its trainings' losses over all steps of an episode, problems and both
    families, each loss in units of what a model has that knows nothing, and at most 4.

    At every generation all members, and the best so far as it was, are tried on new problems, the best of them there is
    measured on problems that are the same for all seeds and methods and used for nothing else, the worst are replaced,
    and all are trained. Evolution, which trains nobody, tries and replaces as often as takes the same number of steps.

    Measured: ``meta_loss``, of the best at the end, and ``start_loss``, at the beginning; ``steepest``, where the curve
    falls most of eight parts, as the middle of that part, 0 to 1; ``inner_steps`` made for each member;
    ``held_out_...``, the best one's meta-loss on problems that it was not trained for.
    """

    def __init__(self, subject: Subject, examples: Examples, seed: int) -> None:
        self.subject, self.seed = subject, seed
        self.families = families_of(subject, examples)
        self.measure, *self.held_out = trials(subject, examples, self.families)
        trying = subject.problems * subject.episode  # for each candidate
        training = subject.meta_steps * 2 * subject.pairs * subject.unroll
        self.rounds = 1 + round(training / trying) if subject.method == "evolution" else 1
        of_generation = self.rounds * trying + (training if subject.method != "evolution" else 0)
        self.inner_steps = len(self.families) * subject.generations * of_generation

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """Logs a row a generation, of the population before members are replaced."""
        subject, population = self.subject, Population(self.subject, self.seed)
        strategies = [
            PersistentES(
                family, subject.population, hidden=subject.hidden, pairs=subject.pairs, sigma=subject.sigma,
                unroll=subject.unroll, episode=subject.episode, key=(self.seed, 5, number),
            )
            for number, family in enumerate(self.families)
        ]  # fmt: skip
        curve: list[float] = []
        best = population.weights[:1]
        if resume.state is not None:
            population.load_state_dict(resume.state["population"])
            for strategy, state in zip(strategies, resume.state["strategies"], strict=True):
                strategy.load_state_dict(state)
            curve = list(resume.state["curve"])
        while (generation := len(curve)) <= subject.generations:
            scores = self._scores(population.candidates, generation * self.rounds)
            best = population.candidates[[int(scores.argmin())]]
            curve.append(float(self.measure.of_learned(best, subject.hidden)))
            log(
                {
                    "step": generation,
                    "best": curve[-1],
                    "population": float(scores[:-1].mean()),
                    **population.described(),
                }
            )
            if generation < subject.generations:
                self._generation(population, strategies, scores, generation)
                resume.reached(
                    generation,
                    lambda: {
                        "population": population.state_dict(),
                        "strategies": [one.state_dict() for one in strategies],
                        "curve": curve,
                    },
                )
        row = {"meta_loss": curve[-1], "start_loss": curve[0], "steepest": steepest(curve)}
        row["inner_steps"] = float(self.inner_steps)
        row |= {f"held_out_{one.name}": float(one.of_learned(best, subject.hidden)) for one in self.held_out}
        return Measured(row, {"optimizer.safetensors": to_bytes(best[0], subject.hidden)})

    def _generation(
        self, population: Population, strategies: Sequence[PersistentES], scores: Tensor, generation: int
    ) -> None:
        if self.subject.method == "evolution":
            for number in range(generation * self.rounds, (generation + 1) * self.rounds):
                population.select(scores, number)
                scores = self._scores(population.candidates, number + 1)
            return
        population.select(scores, generation)
        for number in range(generation * self.subject.meta_steps, (generation + 1) * self.subject.meta_steps):
            gradients = [strategy.gradient(population.weights, number) for strategy in strategies]
            population.apply(torch.stack(gradients).mean(0))

    def _scores(self, weights: Tensor, number: int) -> Tensor:
        """The meta-losses of optimizers (M, P) on new problems, the same for all."""
        subject, key = self.subject, (self.seed, 3, number + 1)
        return meta_loss(
            weights, subject.hidden, self.families, problems=subject.problems, steps=subject.episode, key=key
        )


class ByHand:
    """For comparison, no learned optimizer at all: Adam at the learning rate ``task.rate`` on the problems that the
    best are measured on: ``meta_loss``, ``held_out_...``."""

    def __init__(self, subject: Subject, examples: Examples) -> None:
        self.rate = subject.rate
        self.measure, *self.held_out = trials(subject, examples, families_of(subject, examples))

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """Logs nothing: there are no generations."""
        row = {"meta_loss": self.measure.of_adam(self.rate)}
        row |= {f"held_out_{one.name}": one.of_adam(self.rate) for one in self.held_out}
        return Measured(row)


def families_of(subject: Subject, digits: Examples) -> tuple[Family, ...]:
    """What the population learns to train."""
    images = pooled(digits, subject.pixels)
    return Quadratics(subject.dimension), Perceptrons(images, _CLASSES, subject.units, subject.batch_size)


def steepest(curve: Sequence[float]) -> float:
    """Where a curve falls most: the middle of the steepest of eight parts, in units of its length.

    Parts are as equal as can be; a curve of fewer than eight steps has as many parts as steps.
    """
    steps = len(curve) - 1
    parts = min(PARTS, steps)
    ends = [round(steps * part / parts) for part in range(parts + 1)]
    slopes = [(curve[b] - curve[a]) / (b - a) for a, b in itertools.pairwise(ends)]
    part = slopes.index(min(slopes))
    return (ends[part] + ends[part + 1]) / 2 / steps
