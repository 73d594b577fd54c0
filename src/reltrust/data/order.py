"""The order in which a run sees its examples."""

from collections.abc import Sequence

import torch
from torch import Tensor

from reltrust.data.draws import generator


class BatchOrder:
    """Shuffled epochs of ``n`` examples in batches of ``batch_size``; a function of the seed and the step alone.

    Each epoch has a permutation of its own, drawn from ``(seed, epoch)``, so a position in the middle of an epoch is
    restored from the number of the step and nothing else. What is left of an epoch after its last whole batch is not
    used in that epoch.

    Raises:
        ValueError: ``batch_size`` exceeds ``n``.
    """

    def __init__(self, n: int, batch_size: int, seed: int, device: torch.device) -> None:
        if not 1 <= batch_size <= n:
            raise ValueError(f"batch_size={batch_size}: must be between 1 and the number of examples, {n}")
        self.batches_per_epoch = n // batch_size
        self.device = device
        self._n, self._batch_size, self._seed = n, batch_size, seed
        self._epoch = -1
        self._batches: tuple[Tensor, ...] = ()

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Tensor:
        """Indices (int64, on the device) of the batch of ``step``, counted from 0, or of one of its equal parts."""
        epoch, position = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self.batches(epoch).to(self.device).unbind()
        batch = self._batches[position]
        return batch if parts == 1 else batch.view(parts, -1)[part]

    def batches(self, epoch: int) -> Tensor:
        """All batches of an epoch on the CPU, (batches_per_epoch, batch_size)."""
        used = self.batches_per_epoch * self._batch_size
        return torch.randperm(self._n, generator=generator(self._seed, epoch))[:used].view(
            self.batches_per_epoch, self._batch_size
        )


class PackedBatchOrder:
    """The orders of K runs with as many examples and batches of one size."""

    def __init__(self, orders: Sequence[BatchOrder]) -> None:
        self._orders = list(orders)
        self._epoch = -1
        self._batches: tuple[Tensor, ...] = ()

    def batch(self, step: int) -> Tensor:
        """Indices (int64, on the device) of each run's batch of ``step``: (K, batch_size)."""
        epoch, position = divmod(step, self._orders[0].batches_per_epoch)
        if epoch != self._epoch:
            batches = torch.stack([order.batches(epoch) for order in self._orders], dim=1)
            self._epoch, self._batches = epoch, batches.to(self._orders[0].device).unbind()
        return self._batches[position]
