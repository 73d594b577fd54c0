"""What theory says of networks at initialisation, in closed form. Logarithms are natural; no torch.

The sources are arXiv 2106.03763, of which the abstract could be read, and derivations of ours ("derived").
"""

import math

from .architectures import Architecture

EULER = 0.5772156649015329
LOG_WEIGHT = {"chain_uniform": math.log(math.sqrt(3)) - 1, "chain_normal": -(EULER + math.log(2)) / 2}
"""``E log|w|`` of weights with variance 1: uniform in +-sqrt(3), and normal. Derived."""


def digamma_of_half(n: int) -> float:
    """``psi(n/2)`` of an integer n >= 1, from psi(1/2), psi(1) and psi(x + 1) = psi(x) + 1/x."""
    x, value = (1.0, -EULER) if n % 2 == 0 else (0.5, -EULER - 2 * math.log(2))
    while x < n / 2:
        value, x = value + 1 / x, x + 1
    return value


def log_chi_square(n: int) -> float:
    """The mean of log chi^2 with n degrees of freedom."""
    return digamma_of_half(n) + math.log(2)


def log_growth(width: int, *, relu: bool) -> float:
    """``E log(|D W h|^2 / |h|^2)`` for a square W with normal entries of variance 1 and as many units.

    Linear: D = 1, ``log chi^2_d``. ReLU: D keeps K ~ Binomial(d, 1/2) units, given K >= 1 (a network in which no unit
    of a layer is alive is dead and left out): the sign of a row of W, which decides about D, says nothing about the
    row's size. Exact at every width. Derived; the approximation for He's variance 2/d is -5/(2d).
    """
    if not relu:
        return log_chi_square(width)
    shares = {k: math.comb(width, k) / (2**width - 1) for k in range(1, width + 1)}
    return math.fsum(share * log_chi_square(k) for k, share in shares.items())


def log_gradient(architecture: Architecture, width: int, depth: int) -> float:
    """The mean of ``log|df/dW_1|`` of a plain network, its input of norm 1, given that it is not dead.

    ``|df/dW_1| = |delta|`` with ``delta = D_1 W_2^T D_2 ... W_{L-1}^T D_{L-1} W_L^T``, a product of L - 1 independent
    factors: the masks D of a ReLU network and products of its weights are distributed as if they were independent,
    because the signs of a unit's incoming and outgoing weights can be drawn anew together. Exact; derived.

    Raises:
        ValueError: a network with normalisation or residual branches, of which this says nothing.
    """
    if architecture.batch_norm or architecture.branch is not None:
        raise ValueError(f"{architecture.label}: the theory is of plain networks")
    d = architecture.units(width, depth)
    hidden, readout = (2 / d, 2 / d) if architecture.variance == "he" else (1 / d, 2 / (d + 1))
    factors = (depth - 1) * log_growth(d, relu=architecture.relu) + (depth - 2) * math.log(hidden) + math.log(readout)
    return 0.5 * factors


def log_chain_gradient(chain: str, depth: int) -> float:
    """The mean of ``log|df/dw_k|`` of ``f = w_L ... w_1 x`` with x = 1: ``(L - 1) E log|w|``. Derived."""
    return (depth - 1) * LOG_WEIGHT[chain]


def balanced_escape_time(depth: int, curvature: float) -> float:
    """How long gradient flow stays on the plateau of a chain whose weights are all w, for w^L far below the target.

    The most negative curvature there is ``(L - 1) y w^(L-2)``, and ``dw/dt = y w^(L-1)`` grows beyond all bounds at
    ``t = 1 / ((L - 2) y w^(L-2))``: ``(L - 1) / (L - 2)`` over the curvature, for L >= 3. Derived.
    """
    return (depth - 1) / (depth - 2) / curvature
