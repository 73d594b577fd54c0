"""The Frechet distance of two sets of feature vectors, from their moments alone."""

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of rows that are seen a batch at a time, in float64; no row is kept.

    Batches are merged by the update of Chan, Golub and LeVeque (1983), which does not subtract large squares.

    Args:
        dims: numbers in a row.
    """

    def __init__(self, dims: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(dims, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dims, dims, dtype=torch.float64, device=device)  # sum of (x - mean)(x - mean)^T

    def update(self, rows: Tensor) -> None:
        """Adds rows, (n, dims)."""
        if not len(rows):
            return
        rows = rows.to(self.mean)
        n, total = len(rows), self.count + len(rows)
        mean = rows.mean(0)
        centred, away = rows - mean, mean - self.mean
        self.scatter.addmm_(centred.T, centred)
        self.scatter.addr_(away, away, alpha=self.count * n / total)
        self.mean += away * (n / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """(dims, dims), of at least two rows: divided by one less than their number."""
        return self.scatter / (self.count - 1)

    @property
    def is_singular(self) -> bool:
        """Whether there are too few rows for a covariance of full rank: distances are then far too large."""
        return self.count <= len(self.mean)


def frechet_distance(one: Moments, other: Moments) -> float:
    r"""``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))``: squared, of the Gaussians with these means and covariances.

    The trace of the root is the sum of the roots of the eigenvalues of ``C^(1/2) C' C^(1/2)``, which is symmetric and
    not negative, so that no root of a negative or complex number is ever taken.

    Source: Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500, equation 6.

    Raises:
        ValueError: they have other numbers of features, or one has fewer than two rows.
    """
    if len(one.mean) != len(other.mean):
        raise ValueError(f"features={len(one.mean)} and {len(other.mean)}: must be the same number in both")
    if min(one.count, other.count) < 2:
        raise ValueError(f"rows={one.count} and {other.count}: must be at least 2 in both")
    values, vectors = torch.linalg.eigh(one.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ other.covariance.to(root) @ root
    roots = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt()
    away = (one.mean - other.mean.to(one.mean)).square().sum()
    return max(0.0, float(away + one.covariance.trace() + other.covariance.trace() - 2 * roots.sum()))
