"""The spectra that free probability gives for these experiments' networks. Needs numpy and scipy, and no torch."""

import itertools
import math
from collections.abc import Sequence

from reltrust.theory.spectra import JacobianSpectrum, hard_tanh_masks

from .architectures import Activation, xavier


def spectrum(widths: Sequence[int], gain: float, activation: Activation) -> JacobianSpectrum:
    """With Xavier's weights, and inputs of mean square 1."""
    variances = xavier(widths, gain)
    return JacobianSpectrum(widths, variances, masks(variances, activation))


def masks(variances: Sequence[float], activation: Activation) -> list[float]:
    """p_1 to p_L: the share of each layer's units that are let through."""
    if activation == "hard_tanh":
        return hard_tanh_masks(variances, 1.0)
    return [1.0 if activation == "linear" else 0.5] * len(variances)


def as_in_the_public_code(widths: Sequence[int], gain: float, activation: Activation) -> JacobianSpectrum:
    """What the authors' code computes, for comparison alone.

    It passes N_l/N_{l-1} where its formula has the reciprocal, as of a network whose widths are 1/N_l, and its
    recursion for hard tanh leaves the saturated units out: q_{l+1} = s_{l+1} E[h^2; |h| < 1].

    Source: redachhaibi/FreeNN@36a7ba8, experiments/newton_lilypads.py and run_generate_architectures.py.
    """
    variances = xavier(widths, gain)
    reciprocal = [1 / n for n in widths]
    growth = [m / n for n, m in itertools.pairwise(widths)]
    kept = masks(variances, activation)
    if activation == "hard_tanh":
        kept, passed = [], 1.0
        for s in variances:
            b = 1 / math.sqrt(s * passed)
            kept.append(math.erf(b / math.sqrt(2)))
            passed = (kept[-1] - 2 * b * math.exp(-b * b / 2) / math.sqrt(2 * math.pi)) / b**2
    return JacobianSpectrum(reciprocal, [s * r for s, r in zip(variances, growth, strict=True)], kept)
