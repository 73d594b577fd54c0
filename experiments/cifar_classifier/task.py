"""The classifier benchmark: a residual network learns which of some classes a colour image is of."""

import torch
from torch import Tensor
from torch.nn import functional as F

from reltrust.data.draws import cropped, flipped, generator
from reltrust.data.order import BatchOrder
from reltrust.data.rgb import RgbData
from reltrust.experiment import Measured, Player
from reltrust.models.resnet import Architecture, ResNet18

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of red, green and blue in 0..1, as published
PADDING = 4  # pixels around an image that crops are cut out of
_AUGMENTATION = 1  # the stream of a step's draws
_EVALUATION_BATCH = 250


class ImageClassifier:
    """Cross entropy of a :class:`~reltrust.models.resnet.ResNet18`; mirror images and crops are made on the device.

    Args:
        data: on the device to train on.
        examples: how many of the training images are used; None: all.
        parts: of a batch, see :class:`~reltrust.experiment.Player`.
        seed: draws the initial weights, the order of batches and what is mirrored and cut off.

    Source: section 5 of arXiv 2002.03432 and section 5 of arXiv 2006.14560.
    """

    def __init__(
        self,
        data: RgbData,
        *,
        architecture: Architecture,
        channels: int,
        batchnorm_affine: bool,
        augment: bool,
        examples: int | None,
        batch_size: int,
        seed: int,
        parts: int,
    ) -> None:
        self.train, self.test, self.augment = data.train.first(examples), data.test, augment
        self.seed, self.parts, self.device = seed, parts, data.train.images.device
        self.order = BatchOrder(len(self.train), batch_size, seed, self.device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = ResNet18(architecture, channels, data.classes, affine=batchnorm_affine)
        self.module.to(self.device).to(memory_format=torch.channels_last)  # faster, on a CPU too
        self.mean, self.std = (torch.tensor(one, device=self.device).view(3, 1, 1) for one in (MEAN, STD))
        params = list(self.module.parameters())
        self.players = (Player("model", params, self.loss, ("train_loss", "train_accuracy")),)

    def loss(self, step: int, part: int = 0) -> tuple[Tensor, ...]:
        """Cross entropy in nats, and accuracy as a share in 0..1, of the batch before it is learnt from."""
        images, labels = self.train.batch(self.order.batch(step, part, self.parts))
        if self.augment:
            drawn = generator(self.seed, step, part, _AUGMENTATION, device=self.device)
            images = flipped(cropped(images, drawn, PADDING), drawn)
        logits = self.module(self.normalised(images))
        with torch.no_grad():
            accuracy = (logits.argmax(1) == labels).float().mean()
        return F.cross_entropy(logits, labels), accuracy

    def normalised(self, images: Tensor) -> Tensor:
        """Bytes (n, 3, 32, 32) as numbers of about mean 0 and standard deviation 1."""
        return ((images.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def evaluate(self) -> Measured:
        """``test_loss`` (mean cross entropy, nats) and ``test_accuracy`` (share in 0..1) on the held-out images."""
        loss, correct = torch.zeros((), dtype=torch.float64), 0
        parts = zip(self.test.images.split(_EVALUATION_BATCH), self.test.labels.split(_EVALUATION_BATCH), strict=True)
        for images, labels in parts:
            logits = self.module(self.normalised(images))
            loss += F.cross_entropy(logits, labels, reduction="sum").cpu().double()
            correct += int((logits.argmax(1) == labels).sum())
        return Measured({"test_loss": float(loss) / len(self.test), "test_accuracy": correct / len(self.test)})
