"""Maps w = phi(q) between coordinates of the same parameters: linear ones, tensor by tensor, and elementwise ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Point = Sequence[Tensor]
"""Parameters, one tensor after another."""


@dataclass(frozen=True)
class Reparametrisation:
    """``w = phi(q)``, and how a start w is written as a q.

    A map onto w from more coordinates, of which many are the same w, is one too: ``to_q`` then chooses one of them.
    """

    to_w: Callable[[Point], list[Tensor]]
    """phi; it is differentiated."""
    to_q: Callable[[Point], list[Tensor]]
    """A q with ``phi(q) = w``."""

    def start(self, w: Point) -> list[Tensor]:
        """The q of a w, detached.

        Raises:
            ValueError: phi does not lead back to w: to the root of the rounding error, in a norm over all tensors.
        """
        found = [q.detach() for q in self.to_q(w)]
        away = distance(self.to_w(found), w)
        size = distance([torch.zeros_like(one) for one in w], w)
        if not away <= torch.finfo(w[0].dtype).eps ** 0.5 * size:
            raise ValueError(f"phi: phi(to_q(w)) is {away:.2g} away from w of norm {size:.2g}: must lead back to w")
        return found


def distance(a: Point, b: Point) -> float:
    """The norm of the difference, over all tensors."""
    return float(torch.stack([(x - y).detach().norm() for x, y in zip(a, b, strict=True)]).norm())


def linear(
    matrices: Sequence[Tensor], shapes: Sequence[Sequence[int]], shifts: Point | None = None
) -> Reparametrisation:
    """``vec(w_i) = A_i vec(q_i) + b_i`` of each tensor.

    Args:
        matrices: A_i, (n, m), n the size of w_i. With m > n the first axis of q_i is m/n times as long as that of w_i,
            and the start is the shortest.
        shapes: of w_i.
        shifts: b_i, of the shape of w_i; none if None.

    Raises:
        ValueError: a matrix of another shape, or whose rows are not independent: it would not lead onto w.
    """
    for i, (matrix, shape) in enumerate(zip(matrices, shapes, strict=True)):
        n, size = matrix.shape[0], torch.Size(shape).numel()
        if matrix.dim() != 2 or n != size or matrix.shape[1] % n:
            raise ValueError(f"matrices[{i}]: shape {tuple(matrix.shape)}: must be ({size}, m), m a multiple of {size}")
        if (rank := int(torch.linalg.matrix_rank(matrix))) < n:
            raise ValueError(f"matrices[{i}]: rank {rank}: must be {n}, as of a map that can be inverted, or is onto")
    inverses = [torch.linalg.inv(a) if a.shape[0] == a.shape[1] else torch.linalg.pinv(a) for a in matrices]
    moved = list(shifts) if shifts is not None else [torch.zeros(()) for _ in matrices]

    def to_w(point: Point) -> list[Tensor]:
        return [
            (a @ q.flatten()).view(*shape) + b for a, q, shape, b in zip(matrices, point, shapes, moved, strict=True)
        ]

    def to_q(point: Point) -> list[Tensor]:
        return [
            (inverse @ (w - b).flatten()).view(-1, *shape[1:])
            for inverse, w, shape, b in zip(inverses, point, shapes, moved, strict=True)
        ]

    return Reparametrisation(to_w, to_q)


def elementwise(function: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor]) -> Reparametrisation:
    """The same smooth function of every entry."""
    return Reparametrisation(lambda point: [function(q) for q in point], lambda point: [inverse(w) for w in point])
