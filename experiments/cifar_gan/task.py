"""The GAN benchmark: a generator learns to make images of a class, against a discriminator that learns to tell."""

import io
import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from reltrust.data.draws import flipped, generator
from reltrust.data.order import BatchOrder
from reltrust.data.rgb import RgbData
from reltrust.experiment import Measured, Player
from reltrust.metrics.features import FeatureNetwork
from reltrust.metrics.frechet import frechet_distance
from reltrust.metrics.manifold import precision_recall
from reltrust.metrics.reference import FeatureSet, batch_size, features_of, reference
from reltrust.models.conditional_gan import Discriminator, Generator

log = logging.getLogger(__name__)

GRID = 10  # columns of a sample grid, each a latent vector; its rows are classes
# What a step draws, each from a stream of its own; none is 0, which would end the key of the order of batches.
_FLIPS, _OF_DISCRIMINATOR, _OF_GENERATOR, _EVALUATED = range(1, 5)


class ClassConditionalGan:
    """Hinge losses of a discriminator, which is updated first in each step, and of a generator; both know the class.

    The two are those of :mod:`reltrust.models.conditional_gan`.

    Every draw of a step (mirror images, latent vectors from N(0, 1), classes of what is generated, each as probable) is
    a function of the seed and the step.

    Args:
        data: on the device to train on.
        network: whose features distances are of, on the same device.
        ema: decay of the moving average of the generators that steps began with, which is then evaluated; 0: none.
        examples: how many of the training images are used; None: all.
        samples: how many images an evaluation generates, as many of each class, always from the same latent vectors.
        cache: the folder where features of genuine images are kept.

    Source: section 5 of arXiv 2002.03432; the losses: Lim and Ye 2017, arXiv 1705.02894.
    """

    def __init__(
        self,
        data: RgbData,
        network: FeatureNetwork,
        *,
        channels: int,
        blocks: int,
        batchnorm_momentum: float,
        ema: float,
        examples: int | None,
        samples: int,
        batch_size: int,
        seed: int,
        parts: int,
        cache: str | Path,
    ) -> None:
        self.train, self.test, self.classes = data.train.first(examples), data.test, data.classes
        self.network, self.samples, self.cache = network, samples, cache
        self.batch_size, self.seed, self.parts = batch_size, seed, parts
        self.device = data.train.images.device
        self.order = BatchOrder(len(self.train), batch_size, seed, self.device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.generator = Generator(channels, data.classes, blocks=blocks, momentum=batchnorm_momentum)
            self.discriminator = Discriminator(channels, data.classes, blocks=blocks)
        self.module = nn.ModuleDict({"generator": self.generator, "discriminator": self.discriminator})
        norms = torch.stack([weight.detach().norm() for _, weight in self.normalised_weights()])
        self.module.register_buffer("initial_norms", norms)
        self.averaged: AveragedModel | None = None
        if ema:
            self.averaged = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True)
            self.module["averaged"] = self.averaged.requires_grad_(False)
        self.module.to(self.device).to(memory_format=torch.channels_last)  # a third faster, on a CPU too
        if samples <= network.dims:
            log.warning(
                "task.samples=%d: no more than the %d features of %s: covariances are singular, and distances far too "
                "large, to be compared with those of as many samples only",
                samples, network.dims, network.name,
            )  # fmt: skip
        self._references: tuple[FeatureSet, FeatureSet] | None = None
        self.players = (
            Player(
                "discriminator",
                list(self.discriminator.parameters()),
                self.discriminator_loss,
                ("discriminator_loss", "real_score", "generated_score"),
            ),
            Player("generator", list(self.generator.parameters()), self.generator_loss, ("generator_loss",)),
        )

    # --- training ---------------------------------------------------------------------------------------------------

    def discriminator_loss(self, step: int, part: int) -> tuple[Tensor, ...]:
        """``E max(0, 1 - D(x)) + E max(0, 1 + D(G(z)))``, and the mean scores of genuine and of generated images."""
        images, labels = self.train.batch(self.order.batch(step, part, self.parts))
        genuine = pixels(flipped(images, generator(self.seed, step, part, _FLIPS, device=self.device)))
        latent, classes = self.draw(step, part, _OF_DISCRIMINATOR)
        with torch.no_grad():
            generated = self.generator(latent, classes)
        scores = self.discriminator(torch.cat([genuine, generated]), torch.cat([labels, classes]))
        real, fake = scores.split(len(labels))
        return (1 - real).relu().mean() + (1 + fake).relu().mean(), real.detach().mean(), fake.detach().mean()

    def generator_loss(self, step: int, part: int) -> tuple[Tensor, ...]:
        """``-E D(G(z))`` of new latent vectors."""
        if self.averaged is not None and part == 0:
            self.averaged.update_parameters(self.generator)
        self.discriminator.requires_grad_(False)  # its weights need no gradients here, which saves a third of it
        loss = -self.discriminator(self.generator(*(drawn := self.draw(step, part, _OF_GENERATOR))), drawn[1]).mean()
        self.discriminator.requires_grad_(True)
        return (loss,)

    def draw(self, step: int, part: int, stream: int) -> tuple[Tensor, Tensor]:
        """Latent vectors and classes of a part of a batch."""
        drawn, n = generator(self.seed, step, part, stream, device=self.device), self.batch_size // self.parts
        latent = torch.randn(n, self.generator.latent, generator=drawn, device=self.device)
        return latent, torch.randint(self.classes, (n,), generator=drawn, device=self.device)

    # --- evaluation -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> Measured:
        """Frechet distances to genuine images, those of the training set and held out ones; precision and recall among
        the former; and by how much the norms of spectrally normalised weights have grown.

        Files: a grid of samples, classes in rows, its first column, and the norms of each weight.
        """
        self._references = self._references or tuple(  # type: ignore[assignment]
            reference(part.images[spread(len(part), self.samples, self.device)], self.network, self.cache)
            for part in (self.train, self.test)
        )
        assert self._references is not None
        generated = features_of(self.generate(self.samples), self.network)
        train, test = (frechet_distance(genuine.moments, generated.moments) for genuine in self._references)
        shares = precision_recall(self._references[0].features, generated.features)
        names, norms, largest = self.norms()
        initial = self.module.initial_norms
        assert isinstance(initial, Tensor)
        growth = norms / initial
        row = {"frechet_train": train, "frechet_test": test}
        row |= {"sample_precision": shares.precision, "sample_recall": shares.recall}
        row |= {"norm_growth_min": float(growth.min()), "norm_growth_max": float(growth.max())}
        lines = [
            f"{name},{norm:.7g},{one:.7g}\n"
            for name, norm, one in zip(names, norms.tolist(), largest.tolist(), strict=True)
        ]
        grid = torch.cat(list(self.generate(self.classes * GRID)))
        table = "weight,frobenius_norm,largest_singular_value\n" + "".join(lines)
        samples, strip = (as_png(by_class(one, self.classes)) for one in (grid, grid[: self.classes]))
        return Measured(row, {"samples.png": samples, "strip.png": strip, "norms.csv": table.encode()})

    def generate(self, count: int) -> Iterator[Tensor]:
        """Batches of uint8 images of as many of each class, whose order is 0, 1, ..., 0, 1, ..."""
        model: nn.Module = self.generator if self.averaged is None else self.averaged
        drawn = generator(self.seed, 0, 0, _EVALUATED)
        latent = torch.randn(count, self.generator.latent, generator=drawn).to(self.device)
        classes = torch.arange(count, device=self.device) % self.classes
        size = batch_size(self.device)
        for part, of_class in zip(latent.split(size), classes.split(size), strict=True):
            yield as_bytes(model(part, of_class).float())

    def norms(self) -> tuple[list[str], Tensor, Tensor]:
        """Of each spectrally normalised weight: its name, Frobenius norm and largest singular value."""
        names, weights = zip(*self.normalised_weights(), strict=True)
        largest = [
            torch.linalg.matrix_norm(weight.flatten(1), 2) if weight.isfinite().all() else weight.new_tensor(torch.inf)
            for weight in weights
        ]
        return list(names), torch.stack([weight.norm() for weight in weights]), torch.stack(largest)

    def normalised_weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, module in chain(
            self.generator.named_modules(prefix="generator"), self.discriminator.named_modules(prefix="discriminator")
        ):
            if is_parametrized(module, "weight"):
                weight = module.parametrizations["weight"].original
                assert isinstance(weight, Tensor)
                yield name, weight


def pixels(images: Tensor) -> Tensor:
    """Bytes as numbers in [-1, 1]."""
    return images.float() / 127.5 - 1


def as_bytes(images: Tensor) -> Tensor:
    """The inverse of ``pixels``; what is not finite is grey."""
    return ((images.nan_to_num() + 1) * 127.5).round().clamp(0, 255).byte()


def spread(total: int, count: int, device: torch.device) -> Tensor:
    """Indices of ``count`` of so many examples, or of all, at equal distances: all classes even where sorted."""
    count = min(total, count)
    return torch.arange(count, device=device) * total // count


def by_class(images: Tensor, classes: int) -> Tensor:
    """A picture (3, classes * 32, n / classes * 32) of images (n, 3, 32, 32) whose classes are 0, 1, ..., 0, 1, ..."""
    grid: Tensor = images.unflatten(0, (-1, classes))  # (column, class, 3, height, width)
    return grid.permute(2, 1, 3, 0, 4).flatten(3, 4).flatten(1, 2)


def as_png(picture: Tensor) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()).save(content, "png")
    return content.getvalue()
