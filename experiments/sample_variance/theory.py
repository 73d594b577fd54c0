"""How well two inputs, and their gradients, are told apart in each layer, in infinite width. No torch.

``c_l`` is the correlation of two inputs' pre-activations over the units of layer l; all inputs have one norm, c_1 = 0.
Over B inputs a unit's sample variance v and squared sample mean m^2, both divided by their number, are on average
``(1 - c)(1 - 1/B)`` and ``c + (1 - c)/B`` of its total variance, so that ``v/(v + m^2) = (1 - c)(1 - 1/B)``.

Source: the arc-cosine kernel of Cho and Saul 2009; the decomposition is that of arXiv 1902.04942, of which the abstract
could be read; the formulas are derived.
"""

import math


def next_correlation(c: float) -> float:
    """``E relu(u) relu(u') / E relu(u)^2`` for normal u and u' of correlation c."""
    c = min(1.0, max(-1.0, c))
    return (math.sqrt(1 - c * c) + (math.pi - math.acos(c)) * c) / math.pi


def both_active(c: float) -> float:
    """How much of a gradient's correlation goes back through a ReLU: ``P(u > 0, u' > 0) / P(u > 0)``."""
    return (math.pi - math.acos(min(1.0, max(-1.0, c)))) / math.pi


def correlations(depth: int) -> list[float]:
    """``c_1`` to ``c_depth``, from c_1 = 0."""
    found = [0.0]
    while len(found) < depth:
        found.append(next_correlation(found[-1]))
    return found


def forward_ratios(depth: int, inputs: int) -> list[float]:
    """``v/(v + m^2)`` of the pre-activations of layers 1 to depth."""
    return [(1 - c) * (1 - 1 / inputs) for c in correlations(depth)]


def backward_ratios(depth: int, inputs: int) -> list[float]:
    """The same of the gradients with respect to them, of an output that is one direction of the last activations.

    From layer l + 1 to l the correlation of two inputs' gradients is multiplied by :func:`both_active` of c_l.
    """
    rho, found = 1.0, []
    for c in reversed(correlations(depth)):
        rho *= both_active(c)
        found.append((1 - rho) * (1 - 1 / inputs))
    return found[::-1]


def asymptotic(layer: int) -> float:
    """``1 - c_l`` for great l: ``(9 pi^2 / 2) / l^2``; the recursion is still 0.5 of it at l = 20, and 0.7 at 50."""
    return 4.5 * math.pi**2 / layer**2
