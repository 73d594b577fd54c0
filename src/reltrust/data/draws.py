"""What a run draws at a step, as a function of its seed and the step alone: nothing to be kept in a checkpoint."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """One whose numbers depend on the key, integers from 0 on of which zeros at the end do not count, and on the kind
    of device."""
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state & (2**63 - 1))


def flipped(images: Tensor, drawn: torch.Generator) -> Tensor:
    """Each image (n, channels, height, width) as it is or, as often, its mirror image."""
    mirror = torch.rand(len(images), 1, 1, 1, generator=drawn, device=images.device) < 0.5
    return torch.where(mirror, images.flip(3), images)


def cropped(images: Tensor, drawn: torch.Generator, padding: int) -> Tensor:
    """Each image, with so many black pixels around it, cut out at its old size in a place of its own."""
    n, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    tops, lefts = torch.randint(2 * padding + 1, (2, n), generator=drawn, device=images.device)
    rows = tops[:, None] + torch.arange(height, device=images.device)
    columns = lefts[:, None] + torch.arange(width, device=images.device)
    index = torch.arange(n, device=images.device)
    return padded.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
