"""What learned optimizers were not trained on: larger problems, other data, longer trainings."""

from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer, load_wine
from torch import Tensor

from reltrust.data.images import Examples

from .problems import Family, Perceptrons, Quadratics, counted, loss_and_gradient
from .settings import Subject
from .unrolls import meta_loss

LARGER = 4  # times as many dimensions and units
LONGER = 5  # times as many steps
_KEY = (0, 6)  # of the problems, which are those of every seed and arm


@dataclass(frozen=True)
class Trial:
    """Problems of some families, trained for so many steps."""

    name: str
    families: tuple[Family, ...]
    problems: int
    steps: int

    def of_learned(self, weights: Tensor, hidden: int) -> Tensor:
        """The meta-losses (M,) of optimizers (M, P), a mean over families."""
        return meta_loss(weights, hidden, self.families, problems=self.problems, steps=self.steps, key=_KEY)

    def of_adam(self, lr: float) -> float:
        """The meta-loss of Adam at this learning rate."""
        means = []
        for number, family in enumerate(self.families):
            problems, losses = family.draw(self.problems, (*_KEY, number, 1)), []
            batches = family.batches(self.problems, self.steps, (*_KEY, number, 2))
            params = problems.start.clone()  # Adam moves each number by itself: one of all problems is one of each
            adam = torch.optim.Adam([params], lr=lr)
            for step in range(self.steps):
                data = (*problems.data, *(one[step] for one in batches))
                loss, params.grad = loss_and_gradient(family.loss, params, data)
                adam.step()
                losses.append(loss)
            means.append(counted(torch.stack(losses)).mean())
        return float(torch.stack(means).mean())


def trials(subject: Subject, digits: Examples, families: tuple[Family, ...]) -> list[Trial]:
    """By which the best are measured (``same``: as in training), then what is held out."""
    count, steps, units = subject.measured, subject.episode, subject.units
    larger = (
        Quadratics(LARGER * subject.dimension),
        Perceptrons(digits, 10, LARGER * units, subject.batch_size),
    )
    other = tuple(
        Perceptrons(_table(load), classes, units, subject.batch_size)
        for load, classes in ((load_breast_cancer, 2), (load_wine, 3))
    )
    return [
        Trial("same", families, count, steps),
        Trial("size", larger, count, steps),
        Trial("data", other, count, steps),
        Trial("length", families, count, LONGER * steps),
    ]


def _table(load: Any) -> Examples:
    """A table of scikit-learn's, each column with mean 0 and deviation 1."""
    values, labels = load(return_X_y=True)
    x = torch.from_numpy(values)
    return Examples(((x - x.mean(0)) / x.std(0)).float(), torch.from_numpy(labels).long())
