"""All images of a data set, and who of them is trained on: drawn anew by each seed."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from reltrust.data import images, rgb
from reltrust.data.draws import generator
from reltrust.data.sizes import RGB_EXAMPLES
from reltrust.errors import SettingsError

from .settings import DRAWN_SPLITS


@dataclass(frozen=True)
class Pool:
    """``images`` (n, channels, height, width): floats, or bytes that ``batch`` normalises; ``labels`` int64 (n,).

    The first ``train`` of them are the data set's own training images; with ``drawn`` that split has no meaning, and
    each seed has its own.
    """

    images: Tensor
    labels: Tensor
    train: int
    classes: int
    drawn: bool
    mean: Tensor
    std: Tensor

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (k, channels, height, width) and labels (k,)."""
        return self.normalised(self.images.index_select(0, indices)), self.labels.index_select(0, indices)

    def normalised(self, chosen: Tensor) -> Tensor:
        return chosen if chosen.is_floating_point() else (chosen.float() / 255 - self.mean) / self.std


@lru_cache(maxsize=4)
def load(name: str, root: str, device: torch.device) -> Pool:
    """The data set of this name, on the device; colours normalised by mean and deviation of the training images.

    Raises:
        DataError: the data cannot be had.
    """
    found = rgb.load(name, root, device) if name in RGB_EXAMPLES else images.load(name, root, device)
    pixels = torch.cat((found.train.images, found.test.images))
    if pixels.dim() == 2:  # grey ones are normalised
        side = round(pixels.shape[1] ** 0.5)
        pixels, mean, std = pixels.view(-1, 1, side, side), torch.zeros(1), torch.ones(1)
    else:
        channels = found.train.images.transpose(0, 1).flatten(1)
        shares = (
            torch.stack([torch.bincount(one.int(), minlength=256) for one in channels]).double() / channels.shape[1]
        )
        levels = torch.arange(256, device=device) / 255
        mean = (shares * levels).sum(1)
        std = ((shares * levels.square()).sum(1) - mean.square()).sqrt()
    mean, std = (one.float().view(-1, 1, 1).to(device) for one in (mean, std))
    labels = torch.cat((found.train.labels, found.test.labels))
    return Pool(pixels, labels, len(found.train), found.classes, name in DRAWN_SPLITS, mean, std)


def split(pool: Pool, *, samples: int, examples: int | None, held_out: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the images to train on, and of those to measure on, on the CPU.

    The former stand in rounds: one of each class that has any left, in an order of the round's own, then the next. So
    the first m are as many of each class as can be.

    Args:
        samples: how many rounds; 0: as many as there are.
        examples: how many of the training images there are, the first ones; None: all.
        held_out: how many are measured on; None: all others of a split that is drawn, else the data set's own.

    Raises:
        SettingsError: of some class there are fewer than ``samples`` images.
    """
    drawn = generator(seed, 1, 2)
    count = examples or pool.train
    labels = pool.labels.cpu()
    candidates = torch.randperm(len(labels) if pool.drawn else count, generator=drawn)
    own = labels[candidates]
    rounds = torch.empty(len(own), dtype=torch.int64)
    for label in range(pool.classes):
        of_class = own == label
        rounds[of_class] = torch.arange(int(of_class.sum()))
    least = int(torch.bincount(own, minlength=pool.classes).min())
    if samples > least:
        raise SettingsError(
            f"task.samples={samples}: must be at most {least}, which are all of a class among {len(own)} images"
        )
    # Within a round as the permutation has them.
    ordered = candidates[torch.argsort(rounds, stable=True)]
    used = samples * pool.classes if samples else count
    others = ordered[used:] if pool.drawn else torch.arange(pool.train, len(labels))
    return ordered[:used], others[:held_out]
