"""Slices of a perceptron's loss and gradient along the gradient itself, at one moment of its training."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from reltrust.data.images import Examples
from reltrust.data.order import BatchOrder
from reltrust.experiment import Measured, ResumePoint
from reltrust.models.mlp import MLP
from reltrust.optim import Fromage
from reltrust.schedules import Exponential

from .settings import Subject

CHUNK = 1_000  # images whose activations are held at once: 50 MB for 15 layers of 784


class FullBatch(NamedTuple):
    """Of a network on all images."""

    loss: float  # mean cross entropy, nats
    accuracy: float  # share in 0..1
    gradient: list[Tensor]  # of the loss, by parameter


def full_batch(network: MLP, examples: Examples, chunk: int = CHUNK) -> FullBatch:
    """Loss, accuracy and gradient over all examples, computed chunk by chunk."""
    network.zero_grad()
    total, correct = torch.zeros((), dtype=torch.float64), 0
    for images, labels in zip(examples.images.split(chunk), examples.labels.split(chunk), strict=True):
        logits = network(images)
        loss = F.cross_entropy(logits, labels, reduction="sum") / len(examples)
        loss.backward()
        total += loss.detach().cpu().double()
        correct += int((logits.detach().argmax(1) == labels).sum())
    gradient = [p.grad for p in network.parameters() if p.grad is not None]
    network.zero_grad()  # what was returned is not added to by the next call
    return FullBatch(float(total), correct / len(examples), gradient)


def norm(x: Tensor) -> float:
    """Frobenius norm, summed in float64: the squares of a deep network's gradient may be less than float32 can hold."""
    return float(torch.linalg.vector_norm(x, dtype=torch.float64))


def relative_direction(weights: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Tensor]:
    """|W| g / |g| of each tensor; zero where the gradient is."""
    lengths = [(norm(w), norm(g)) for w, g in zip(weights, gradient, strict=True)]
    return [g * (of_w / of_g if of_g else 0.0) for g, (of_w, of_g) in zip(gradient, lengths, strict=True)]


def relative_change(new: Tensor, old: Tensor) -> float:
    """|new - old| / |old|; 0/0 is 0."""
    change = norm(new - old)
    return change / norm(old) if change else 0.0


def deep_relative_trust(relative_steps: Sequence[float]) -> float:
    """The modelled |g_l(W + dW) - g_l(W)| / |g_l(W)|, the same for every layer l: prod_k (1 + |dW_k| / |W_k|) - 1.

    Constants are dropped, so it is a model of how the change grows and no bound of it.

    Args:
        relative_steps: |dW_k| / |W_k| of each layer's weights.

    Source: arXiv 2002.03432, deep relative trust.
    """
    return math.prod(1 + step for step in relative_steps) - 1


class CurvatureSlice:
    """Trains a perceptron with Fromage, then follows its gradient and looks at how that changes.

    With W the parameters after ``train_steps`` steps and g the gradient of the mean loss over all training images, the
    slice is W_l(eta) = W_l - eta |W_l| g_l / |g_l| for every tensor l, biases too, at ``points`` values of eta from 0.
    Measured are the loss, and |g_l(eta) - g_l| / |g_l| of the weights of each layer l = 1, 2, ..., of which the paper
    shows the first, beside the model of deep relative trust.

    A row's step counts those of training and then the points. It resumes in mid-training and between any two points.

    Source: arXiv 2002.03432, figure 1; that biases move too, and that norms stay those at eta = 0: the authors' code.
    """

    def __init__(self, subject: Subject, examples: Examples, network: MLP, seed: int) -> None:
        self.subject, self.examples, self.network = subject, examples, network
        self.params = list(network.parameters())
        self.order = BatchOrder(len(examples), subject.train_batch, seed, examples.labels.device)

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """Of the summary: loss and accuracy at eta = 0 as ``start_...``, and what was measured at the largest eta."""
        state = resume.state or {"step": 0, "weights": self.weights()}
        self.place(state["weights"])
        self.train(state, resume)
        return self.slice(max(0, state["step"] - self.subject.train_steps), log, resume)

    def train(self, state: dict[str, Any], resume: ResumePoint) -> None:
        """What is left of the training."""
        subject = self.subject
        optimizer = Fromage(self.params, lr=subject.train_lr)
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
        schedule = Exponential(name="exponential", decay=subject.train_decay, every=subject.train_decay_every)
        for step in range(state["step"], subject.train_steps):
            for group in optimizer.param_groups:
                group["lr"] = subject.train_lr * schedule.factor(step, subject.train_steps)
            images, labels = self.examples.batch(self.order.batch(step))
            optimizer.zero_grad()
            F.cross_entropy(self.network(images), labels).backward()
            optimizer.step()
            resume.reached(step + 1, partial(self.in_training, step + 1, optimizer))

    def in_training(self, step: int, optimizer: Fromage) -> dict[str, Any]:
        return {"step": step, "weights": self.weights(), "optimizer": optimizer.state_dict()}

    def slice(self, first: int, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """The points from the given one on, of which there is at least one."""
        subject, origin = self.subject, self.weights()
        start = full_batch(self.network, self.examples)  # computed anew after a stop: cheaper to have than to keep
        direction = relative_direction(origin, start.gradient)
        layers = [i for i, weight in enumerate(origin) if weight.dim() == 2]
        moves = [bool(direction[i].any()) for i in layers]  # then |dW| / |W| is eta, without a gradient it is 0
        row: dict[str, float] = {}
        for point in range(first, subject.points):
            eta = round(point * subject.spacing, 9)
            self.place(origin, direction, eta)
            found = full_batch(self.network, self.examples) if point else start
            if not math.isfinite(found.loss):
                raise FloatingPointError(f"task.spacing={subject.spacing}: at eta={eta:g} the loss is {found.loss}")
            changes = [relative_change(found.gradient[i], start.gradient[i]) for i in layers]
            row = {"loss": found.loss, "model": deep_relative_trust([eta * move for move in moves])}
            row |= {f"change_{layer}": change for layer, change in enumerate(changes, 1)}
            row = {"eta": eta, **{key: _rounded(value) for key, value in row.items()}}
            step = subject.train_steps + 1 + point
            log({"step": step, **row})
            if point + 1 < subject.points:
                resume.reached(step, partial(dict, step=step, weights=origin))
        self.place(origin)
        return Measured({"start_loss": _rounded(start.loss), "start_accuracy": start.accuracy, **row})

    def weights(self) -> list[Tensor]:
        """A copy of all parameters."""
        return [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def place(self, weights: Sequence[Tensor], direction: Sequence[Tensor] = (), eta: float = 0.0) -> None:
        """Sets the parameters to ``weights - eta * direction``."""
        for p, weight in zip(self.params, weights, strict=True):
            p.copy_(weight)
        for p, along in zip(self.params, direction, strict=bool(direction)):
            p.sub_(along, alpha=eta)


def _rounded(value: float) -> float:
    """To six digits, nearly what a sum in float32 is worth: the tables of slices are long."""
    return float(f"{value:.6g}")
