"""A polynomial network is fitted to random polynomials of its degree: does its loss have a floor?"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from reltrust.experiment import Measured, ResumePoint
from reltrust.theory.algebra import dimension

from .settings import Subject

_EVALUATIONS = 300  # of a fit, at most
_SPARE = 2  # times as many points as coefficients


class Fits:
    """Nonlinear least squares within a trust region, from several random starts for each of several random polynomials.

    A target has independent normal coefficients in the basis of monomials, each over the root of its multinomial
    coefficient (the invariant norm). The loss is the squared error at random points of the sphere, over that of 0.

    Measured: of the ``floor`` of each target, the best of its restarts, the least, median and largest; the
    ``dimension`` of the network and that of its space.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject, self.seed, self.widths = subject, seed, subject.widths
        self.shapes = [(m, n) for n, m in itertools.pairwise(self.widths)]
        self.space = dimension(self.widths, subject.power)

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """Logs a row a target."""
        state: dict[str, Any] = resume.state or {"floors": []}
        while (done := len(state["floors"])) < (self.subject.targets or 0):
            state["floors"].append(self._floor(done))
            resume.reached(0, lambda: state)
        floors = np.array(state["floors"])
        for step, floor in enumerate(floors):
            log({"step": step, "floor": float(floor)})
        found = {"least": floors.min(), "median": float(np.median(floors)), "largest": floors.max()}
        row = {f"floor_{name}": float(value) for name, value in found.items()}
        return Measured({**row, "dimension": self.space.dimension, "ambient": self.space.ambient})

    def _floor(self, number: int) -> float:
        """The best loss of a target."""
        rng = np.random.default_rng([self.seed, number])
        count = _SPARE * self.space.ambient // self.widths[-1] + 4
        x = rng.normal(size=(count, self.widths[0]))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        degree = self.subject.power ** (len(self.shapes) - 1)
        target = polynomials(x, degree, rng.normal(size=(self.widths[-1], _monomials(self.widths[0], degree))))
        size, weights = float(np.linalg.norm(target)), sum(m * n for m, n in self.shapes)

        def residuals(flat: np.ndarray) -> np.ndarray:
            found: np.ndarray = (outputs(self._split(flat), x, self.subject.power) - target).ravel() / size
            return found

        best = math.inf
        for _ in range(self.subject.restarts or 0):
            start = rng.normal(size=weights)
            found = least_squares(residuals, start, max_nfev=_EVALUATIONS, xtol=1e-15, ftol=1e-15, gtol=1e-15)
            best = min(best, float(2 * found.cost))
        return best

    def _split(self, flat: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([m * n for m, n in self.shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), self.shapes, strict=True)]


def outputs(weights: list[np.ndarray], x: np.ndarray, power: int) -> np.ndarray:
    """Of the network at points (n, d_0): (n, d_h)."""
    for weight in weights[:-1]:
        x = (x @ weight.T) ** power
    found: np.ndarray = x @ weights[-1].T
    return found


def polynomials(x: np.ndarray, degree: int, coefficients: np.ndarray) -> np.ndarray:
    """Forms of the degree at points (n, d): (n, outputs), from (outputs, monomials)."""
    exponents = [powers for powers in itertools.product(range(degree + 1), repeat=x.shape[1]) if sum(powers) == degree]
    counts = [math.factorial(degree) / math.prod(map(math.factorial, powers)) for powers in exponents]
    values = np.stack([(x**powers).prod(1) * math.sqrt(n) for powers, n in zip(exponents, counts, strict=True)], axis=1)
    found: np.ndarray = values @ coefficients.T
    return found


def _monomials(variables: int, degree: int) -> int:
    return math.comb(degree + variables - 1, degree)
