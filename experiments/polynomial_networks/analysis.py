"""Dimensions of all polynomial networks of a kind, and the smallest that fill their space."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from reltrust.experiment import Measured, ResumePoint
from reltrust.theory.algebra import PRIMES, Dimension, dimension

from .settings import Subject


def widths_columns(widths: tuple[int, ...]) -> dict[str, int]:
    return {f"d{i}": width for i, width in enumerate(widths)}


class Dimensions:
    """The dimension of every network ``(d_0, ..., d_h)`` with ``d_i`` up to the widest, by as many primes and samples.

    Measured: how many there are, ``defective`` ones, ``filling`` ones, and the ``disagreements`` of the primes, of
    which the largest rank counts.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject, self.seed = subject, seed

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """Logs a row a network."""
        subject = self.subject
        every = list(itertools.product(range(1, (subject.widest or 0) + 1), repeat=(subject.depth or 0) + 1))
        state: dict[str, Any] = resume.state or {"ranks": []}
        while (done := len(state["ranks"])) < len(every):
            state["ranks"].append([found.dimension for found in self._found(every[done])])
            if (done + 1) % 100 == 0:
                resume.reached(0, lambda: state)
        counts = {"networks": len(every), "defective": 0, "filling": 0, "disagreements": 0}
        for step, (widths, ranks) in enumerate(zip(every, state["ranks"], strict=True)):
            found = expectations(widths, subject.power)._replace(dimension=max(ranks))
            counts["defective"] += found.defect > 0
            counts["filling"] += found.filling
            counts["disagreements"] += len(set(ranks)) > 1
            log({
                "step": step, **widths_columns(widths), "dimension": found.dimension, "expected": found.expected,
                "ambient": found.ambient,
            })  # fmt: skip
        return Measured({key: float(count) for key, count in counts.items()})

    def _found(self, widths: tuple[int, ...]) -> Iterator[Dimension]:
        for i, prime in enumerate(PRIMES[: self.subject.primes]):
            yield dimension(widths, self.subject.power, primes=(prime,), seed=2 * self.seed + i)


def expectations(widths: tuple[int, ...], power: int) -> Dimension:
    """What is known without a rank; the dimension is 0."""
    degree = power ** (len(widths) - 2)
    ambient = widths[-1] * math.comb(degree + widths[0] - 1, degree)
    pairs = list(itertools.pairwise(widths))
    expected = min(ambient, widths[-1] + sum((n - 1) * m for n, m in pairs))
    return Dimension(0, expected, ambient, sum(n * m for n, m in pairs), 0)


class Fillings:
    """All minimal filling networks: that fill, and none with a narrower hidden layer does.

    A wider network can be all that a narrower one can. Layer i needs no more units than there are forms of the degree
    of its activations, so the search is finite: networks by their sum of widths, each only if no smaller one within it
    fills, and its parameters are enough.

    Measured: how many are ``minimal``, ``unimodal`` ones among these, how many ranks were computed.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject, self.seed = subject, seed

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """Logs a row a minimal filling network."""
        subject, inputs = self.subject, self.subject.inputs or 0
        caps = [
            math.comb(subject.power**i + inputs - 1, subject.power**i) for i in range(1, subject.depth or 0)
        ]  # forms of the degree of layer i's activations
        hidden = sorted(itertools.product(*(range(1, cap + 1) for cap in caps)), key=lambda one: (sum(one), one))
        state: dict[str, Any] = resume.state or {"next": 0, "minimal": [], "computed": 0}
        for place in range(state["next"], len(hidden)):
            widths = (inputs, *hidden[place], subject.outputs or 0)
            known = expectations(widths, subject.power)
            smaller = any(all(a <= b for a, b in zip(one, widths, strict=True)) for one in state["minimal"])
            if not smaller and known.expected == known.ambient:
                state["computed"] += 1
                if dimension(widths, subject.power, primes=PRIMES[: subject.primes], seed=self.seed).filling:
                    state["minimal"].append(list(widths))
            state["next"] = place + 1
            if place % 100 == 0:
                resume.reached(0, lambda: state)
        for step, widths in enumerate(state["minimal"]):
            known = expectations(tuple(widths), subject.power)
            log({
                "step": step, **widths_columns(tuple(widths)), "unimodal": int(unimodal(widths)),
                "ambient": known.ambient, "expected": known.expected, "parameters": known.parameters,
            })  # fmt: skip
        found = state["minimal"]
        counts = {"minimal": len(found), "unimodal": sum(map(unimodal, found)), "computed": state["computed"]}
        return Measured({key: float(count) for key, count in counts.items()})


def unimodal(widths: list[int]) -> bool:
    """Whether they rise, or stay, and then fall, or stay."""
    steps = [b - a for a, b in itertools.pairwise(widths) if a != b]
    falling = [step < 0 for step in steps]
    return falling == sorted(falling)
