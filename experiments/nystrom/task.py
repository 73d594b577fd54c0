"""A convolutional network learns from few images or many, with one of several tops."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.data.order import BatchOrder, PackedBatchOrder
from reltrust.experiment import Measured, Player
from reltrust.models.classification import packed_cross_entropy
from reltrust.models.convolutional import ConvolutionalFeatures, packed_features
from reltrust.models.mlp import packed_linear
from reltrust.models.nystrom import NystromLayer, kernel_of, nystrom_features

from .pool import Pool, split
from .settings import NETWORKS, Subject

_EVALUATION_BATCH = 2_000


class TopLayers:
    """Cross entropy of convolutional features with a dense top, or a :class:`~reltrust.models.nystrom.NystromLayer`.

    Args:
        pool: on the device to train on.
        parts: of a batch, see :class:`~reltrust.experiment.Player`.
        seed: draws the split, the landmarks among its training images, the initial weights and the order of batches.

    Source: arXiv 1911.13036.
    """

    def __init__(self, pool: Pool, subject: Subject, *, batch_size: int, seed: int, parts: int = 1) -> None:
        self.pool, self.subject, self.parts = pool, subject, parts
        device = pool.images.device
        chosen, held_out = split(
            pool, samples=subject.samples, examples=subject.examples, held_out=subject.held_out, seed=seed
        )
        self.chosen, self.held_out = chosen.to(device), held_out.to(device)
        self.order = BatchOrder(len(chosen), batch_size, seed, device)
        channels, height, width = pool.images.shape[1:]
        stages, deep = NETWORKS[subject.network], subject.network == "vgg19"
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            features = ConvolutionalFeatures((channels, height, width), stages, subject.activation, batch_norm=deep)
            if subject.top == "dense":
                hidden = nn.Linear(features.out_features, subject.size)
                top: nn.Module = nn.Sequential(features, hidden, nn.ReLU())
                self.landmarks, outputs = None, subject.size
            else:
                # The first of the split, which are as many of each class as can be.
                self.landmarks, _ = pool.batch(self.chosen[: subject.size])
                features.to(device)
                layer = NystromLayer(
                    self.landmarks,
                    features,
                    kernel=subject.kernels,
                    gamma=subject.gamma,
                    out_features=subject.columns,
                    init=subject.init,
                    adaptive=subject.top == "nystrom",
                )
                top, outputs = layer, layer.out_features
            self.module = nn.Sequential(top, nn.Linear(outputs, pool.classes)).to(device)
        params = list(self.module.parameters())
        self.of_features = len(list(features.parameters()))
        self.counts = {"parameters": sum(p.numel() for p in params)}
        self.counts["top_parameters"] = sum(p.numel() for p in params[self.of_features :])
        self.players = (Player("model", params, self.loss, ("train_loss", "train_accuracy")),)

    def loss(self, step: int, part: int = 0) -> tuple[Tensor, ...]:
        """Cross entropy in nats, and accuracy as a share in 0..1, of the batch before it is learnt from."""
        images, labels = self.pool.batch(self.chosen[self.order.batch(step, part, self.parts)])
        logits = self.module(images)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return F.cross_entropy(logits, labels, reduction="none").mean(), accuracy

    @torch.no_grad()
    def evaluate(self) -> Measured:
        """``test_loss`` (mean cross entropy, nats) and ``test_accuracy`` (share in 0..1) on the images held out;
        ``parameters`` that are learned, and ``top_parameters`` of them above the convolutions."""
        loss, correct = torch.zeros((), dtype=torch.float64), 0
        self.module.eval()
        for indices in self.held_out.split(_EVALUATION_BATCH):
            images, labels = self.pool.batch(indices)
            logits = self.module(images)
            loss += F.cross_entropy(logits, labels, reduction="sum").cpu().double()
            correct += int((logits.argmax(1) == labels).sum())
        self.module.train()
        n = len(self.held_out)
        return Measured({"test_loss": float(loss) / n, "test_accuracy": correct / n, **self.counts})

    @classmethod
    def packed(cls, members: Sequence["TopLayers"]) -> "PackedTops":
        return PackedTops(members)


class PackedTops:
    """K of them with splits and landmarks of their own: a :class:`~reltrust.experiment.PackedTask`.

    Raises:
        ValueError: they have batch normalisation.
    """

    def __init__(self, members: Sequence[TopLayers]) -> None:
        first = members[0]
        if first.subject.network == "vgg19":
            raise ValueError("batch normalisation does not pack")
        self._first, self._order = first, PackedBatchOrder([member.order for member in members])
        self._chosen = torch.stack([member.chosen for member in members])
        self._landmarks = None
        if first.landmarks is not None:
            self._landmarks = torch.stack([one.landmarks for one in members if one.landmarks is not None])
        self._kernels = [
            kernel_of(name, first.subject.gamma) for name in first.subject.kernels if first.landmarks is not None
        ]

    def inputs(self, step: int) -> tuple[Tensor, ...]:
        """Indices of each one's batch among all images, (K, batch)."""
        return (self._chosen.gather(1, self._order.batch(step)),)

    def losses(self, stacks: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        """Cross entropy in nats and accuracy in 0..1 of each one's batch, (K,) each."""
        (indices,) = inputs
        images, labels = self._first.pool.batch(indices.flatten())
        return packed_cross_entropy(self._logits(stacks, images.unflatten(0, indices.shape)), labels.view_as(indices))

    def _logits(self, stacks: Sequence[Tensor], images: Tensor) -> Tensor:
        """(K, batch, classes) of images (K, batch, channels, height, width)."""
        subject, split_at = self._first.subject, self._first.of_features
        *top, weight, bias = stacks[split_at:]
        stages, n = NETWORKS[subject.network], images.shape[1]
        if self._landmarks is None:
            x = packed_features(stacks[:split_at], images, stages, subject.activation)
            return packed_linear(packed_linear(x, *top).relu(), weight, bias)
        together = torch.cat((images, self._landmarks), dim=1)
        x = packed_features(stacks[:split_at], together, stages, subject.activation)
        weights, columns = top if subject.top == "nystrom" else None, subject.columns or subject.size
        return packed_linear(nystrom_features(x, n, self._kernels, weights, columns), weight, bias)
