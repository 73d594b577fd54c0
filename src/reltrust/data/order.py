"""The order in which a run sees its examples."""

import numpy as np
import torch
from torch import Tensor


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
        self._n, self._batch_size, self._seed, self._device = n, batch_size, seed, device
        self._epoch, self._batches = -1, (torch.empty(0),)

    def batch(self, step: int) -> Tensor:
        """Indices (int64, on the device) of the batch of ``step``, counted from 0."""
        epoch, position = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._permutation(epoch).split(self._batch_size)
        return self._batches[position]

    def _permutation(self, epoch: int) -> Tensor:
        state = int(np.random.SeedSequence((self._seed, epoch)).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(state & (2**63 - 1))
        return torch.randperm(self._n, generator=generator).to(self._device)
