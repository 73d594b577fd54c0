"""The spectrum of a network's Jacobian: free probability beside sampled networks."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reltrust.data.draws import generator
from reltrust.experiment import Measured, ResumePoint
from reltrust.theory.spectra import JacobianSpectrum

from .architectures import ARCHITECTURES, Activation, xavier
from .settings import Subject
from .theory import as_in_the_public_code, spectrum

QUANTILES = (10, 50, 90)
ROWS = 60  # places at which the tables of curves have the density
_ZERO = 1e-25  # of the largest: a smaller eigenvalue is rounding
_HEIGHT = 1e-9  # of the points over the real axis, relative to their distance from 0


class Spectrum:
    """Eigenvalues of ``J^T J``, J the Jacobian of the outputs of the last activation with respect to a normal input.

    Weights are Xavier's, normal, times a gain; the units that let through are those that do for that input. Everything
    is in float64.

    Measured: ``distance``, the largest difference of the two distribution functions (Kolmogorov's), over all x but
    those that are rounding; ``distance_code``, the same of what the authors' code computes; quantiles, the mass at zero
    and the mean of both; ``uncertified``, of the points of the density; ``times_as_fast``, the CPU time of sampling one
    network over that of all points.
    """

    def __init__(self, subject: Subject, seed: int, device: torch.device) -> None:
        self.subject, self.seed, self.device = subject, seed, device
        self.architecture = ARCHITECTURES[subject.network]
        self.widths = self.architecture.widths(subject.width or 0)

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """Logs a row for each place between the smallest and the largest eigenvalues: density, and shares above."""
        subject = self.subject
        state: dict[str, Any] = resume.state or {"eigenvalues": [], "seconds": []}
        while (done := len(state["eigenvalues"])) < (subject.networks or 0):
            started = time.process_time()
            state["eigenvalues"].append(self._sampled(done).tolist())
            state["seconds"].append(time.process_time() - started)
            resume.reached(0, lambda: state)
        sampled = np.sort(np.concatenate(state["eigenvalues"]))
        law = spectrum(self.widths, subject.gain, self.architecture.activation)
        theirs = as_in_the_public_code(self.widths, subject.gain, self.architecture.activation)
        row = {"distance": distance(law, sampled), "distance_code": distance(theirs, sampled)}
        row |= {"depth": len(self.widths) - 1, "output": self.widths[-1] / self.widths[0]}
        row |= {"mass": law.mass_at_zero, "mass_sampled": float((sampled <= _ZERO * sampled[-1]).mean())}
        row |= {"mean": law.mean, "mean_sampled": float(sampled.mean())}
        for share, one in zip(QUANTILES, law.quantiles(np.array(QUANTILES) / 100), strict=True):
            row |= {
                f"quantile_{share}": float(one),
                f"quantile_{share}_sampled": float(np.quantile(sampled, share / 100)),
            }
        row |= self._swept(law, float(np.median(state["seconds"])))
        for step, one in enumerate(self._rows(law, theirs, sampled)):
            log({"step": step, **one})
        return Measured(row)

    def _sampled(self, number: int) -> np.ndarray:
        """The eigenvalues of a network's ``J^T J``, (N_0,); those that its widths make zero are 0."""
        drawn = generator(self.seed, self.subject.width or 0, number + 1)
        x = torch.randn(self.widths[0], generator=drawn, dtype=torch.float64).to(self.device)
        jacobian = torch.eye(self.widths[0], dtype=torch.float64, device=self.device)
        variances = xavier(self.widths, self.subject.gain)
        for (n, m), s in zip(itertools.pairwise(self.widths), variances, strict=True):
            weight = (torch.randn(m, n, generator=drawn, dtype=torch.float64) * (s / n) ** 0.5).to(self.device)
            x, through = activated(weight @ x, self.architecture.activation)
            jacobian = through.unsqueeze(1) * (weight @ jacobian)
        values = torch.linalg.svdvals(jacobian).square()
        return np.concatenate([np.zeros(self.widths[0] - len(values)), values.cpu().numpy()])

    def _swept(self, law: JacobianSpectrum, seconds: float) -> dict[str, float]:
        """Of a sweep over the whole support."""
        left, right = law.edges
        x = np.geomspace(max(left, float(law.quantiles([law.mass_at_zero + 0.01])[0])), right, self.subject.points or 2)
        started = time.process_time()
        found = law.moment_series(x * (1 + 1j * _HEIGHT))
        spent = time.process_time() - started
        return {
            "uncertified": int((~found.certified).sum()),
            "hops": found.hops,
            "times_as_fast": seconds / max(spent, 1e-6),
        }

    def _rows(self, law: JacobianSpectrum, theirs: JacobianSpectrum, sampled: np.ndarray) -> list[dict[str, float]]:
        """Densities of log x, which is drawn logarithmically, and the shares above x."""
        lowest = float(law.quantiles([law.mass_at_zero + 0.02 * (1 - law.mass_at_zero)])[0])
        ends = np.geomspace(max(lowest, 2 * _ZERO * sampled[-1]), 1.3 * max(law.edges[1], float(sampled[-1])), ROWS + 1)
        x = np.sqrt(ends[1:] * ends[:-1])
        counted = np.histogram(sampled, ends)[0] / len(sampled) / np.diff(np.log(ends))
        columns = {
            "x": x,
            "density": x * law.density(x),
            "density_code": x * theirs.density(x),
            "density_sampled": counted,
            "above": law.above(x),
            "above_sampled": 1 - np.searchsorted(sampled, x, side="right") / len(sampled),
        }
        return [{key: float(f"{own[i]:.6g}") for key, own in columns.items()} for i in range(ROWS)]


def activated(h: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """The activations, and their derivatives: 1 for a unit that lets through, 0 for another."""
    if activation == "linear":
        return h, torch.ones_like(h)
    if activation == "relu":
        return h.relu(), (h > 0).to(h)
    return h.clamp(-1, 1), (h.abs() < 1).to(h)


def distance(law: JacobianSpectrum, sampled: np.ndarray) -> float:
    """Kolmogorov's distance of a spectrum and sampled eigenvalues (n,), ascending, on x > 0 that are no rounding."""
    first = int(np.searchsorted(sampled, _ZERO * sampled[-1], side="right"))
    n, x = len(sampled), sampled[first:]
    expected = 1 - law.above(x)
    over = np.arange(first + 1, n + 1) / n - expected
    return float(max(over.max(), (1 / n - over).max()))
