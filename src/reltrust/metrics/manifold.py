"""Precision and recall of generated examples: a distance alone hides that a generator makes only one of them."""

from typing import NamedTuple

import torch
from torch import Tensor

_ROWS = 1024  # of a block of distances


class PrecisionRecall(NamedTuple):
    """Shares in 0..1."""

    precision: float
    """Of the generated rows, those that lie among the real ones."""
    recall: float
    """Of the real rows, those that lie among the generated ones."""


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> PrecisionRecall:
    """A row lies among others if it is as near to one of them as that one's ``k``-th nearest neighbour of its own kind.

    Args:
        real, generated: features, (n, dims) and (m, dims), with more than ``k`` rows each.

    Source: Kynkaanniemi et al. 2019, arXiv 1904.06991, equations 1 and 2.

    Raises:
        ValueError: fewer rows than that, or k < 1.
    """
    if k < 1 or min(len(real), len(generated)) <= k:
        raise ValueError(f"k={k}: must be at least 1 and less than the {len(real)} and {len(generated)} rows")
    return PrecisionRecall(_among(generated, real, k), _among(real, generated, k))


def _among(rows: Tensor, others: Tensor, k: int) -> float:
    """The share of the rows that lie among the others."""
    # The nearest of all is the row itself; of equal rows any one may be.
    radii = torch.cat([distances(part, others).kthvalue(k + 1, dim=1).values for part in others.split(_ROWS)])
    inside = [(distances(part, others) <= radii).any(1) for part in rows.split(_ROWS)]
    return float(torch.cat(inside).float().mean())


def distances(rows: Tensor, others: Tensor) -> Tensor:
    """Euclidean, (len(rows), len(others))."""
    return torch.cdist(rows.float(), others.float())
