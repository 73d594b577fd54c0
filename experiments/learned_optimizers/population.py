"""A population of learned optimizers: who trains whom, and who is replaced."""

from typing import Any

import torch
from torch import Tensor

from reltrust.data.draws import generator

from .rule import DECAYS, Layout, initial, momenta_after, sizes, step_of
from .settings import Subject

REPLACED = 4  # one of so many members
NEW_TRAINER = 0.5  # how often the trainer is drawn anew
SPREAD = 0.5  # standard deviation of the change of log multiplier


class Population:
    """M optimizers, each trained by a member of the population, or as ``task.method`` says.

    - ``self``: a member's weights are moved by the rule of its trainer, times a multiplier, which is ``task.rate`` at
      the beginning; the trainer is a member as it is at present, perhaps itself, or the best that is kept;
    - ``frozen``: the same, but the trainer is a member as it was at the beginning;
    - ``adam``: by Adam at the learning rate ``task.rate``;
    - ``evolution``: by nothing but normal noise of the deviation ``task.rate`` when a member is copied.

    What is no finite number is no step: that weight stays. The best that was ever selected is kept as it was then, and
    stands beside the members at each selection, so that a population that spoils itself can go back.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject, self.seed = subject, seed
        members, drawn = subject.population, generator(seed, 1)
        self.layout = Layout.of(sizes(subject.hidden))
        self.weights = initial(members, subject.hidden, drawn)
        self.beginning = self.weights.clone()
        self.momenta = torch.zeros(members, len(DECAYS), self.layout.size)
        self.time = torch.zeros(members)
        self.trainer = torch.randint(members, (members,), generator=drawn)
        self.multiplier = torch.full((members,), subject.rate)
        self.adam = torch.optim.Adam([self.weights], lr=subject.rate) if subject.method == "adam" else None
        self.kept = {name: one[0].clone() for name, one in self._members().items()}

    def _members(self) -> dict[str, Tensor]:
        """All that belongs to a member and goes with its copy, an axis of members first."""
        found = {name: getattr(self, name) for name in _OF_MEMBERS}
        if self.adam is not None:  # which counts the steps of all together
            found |= {name: one for name, one in self.adam.state[self.weights].items() if one.dim()}
        return found

    @property
    def candidates(self) -> Tensor:
        """Weights (M + 1, P): the members', then those that were kept."""
        return torch.cat((self.weights, self.kept["weights"][None]))

    def apply(self, gradient: Tensor) -> None:
        """A step of each member's weights along its gradient, (M, P)."""
        if self.adam is not None:
            self.weights.grad = gradient
            self.adam.step()
            return
        self.momenta = momenta_after(self.momenta, gradient)
        by = self.beginning if self.subject.method == "frozen" else self.candidates
        step = step_of(
            by[self.trainer], self.subject.hidden, self.weights, gradient, self.momenta, self.time, self.layout
        )
        moved = self.weights - self.multiplier[:, None] * step
        self.weights = torch.where(moved.isfinite(), moved, self.weights)
        self.time = self.time + 1

    def select(self, scores: Tensor, number: int) -> None:
        """The worst quarter, at least one, become copies of the best candidates, changed a little; the best is kept.

        Args:
            scores: of the candidates, (M + 1,), the lower the better; what is no number is the worst.
            number: of selections before this one.
        """
        subject, drawn, members = self.subject, generator(self.seed, 2, number + 1), self._members()
        count = max(1, subject.population // REPLACED)
        scores = scores.nan_to_num(nan=torch.inf)
        best, worst = scores.argsort(stable=True)[:count], scores[:-1].argsort(stable=True)[-count:]
        kept = {}
        for name, one in members.items():
            rows = torch.cat((one, self.kept.get(name, torch.zeros_like(one[0]))[None]))
            one[worst], kept[name] = rows[best], rows[best[0]]
        self.kept = kept
        if subject.method == "evolution":
            noise = torch.randn(count, self.layout.size, generator=drawn)
            self.weights[worst] += subject.rate * noise
        elif subject.method != "adam":
            trainers = subject.population + (subject.method == "self")
            new = torch.randint(trainers, (count,), generator=drawn)
            changed = torch.rand(count, generator=drawn) < NEW_TRAINER
            self.trainer[worst] = torch.where(changed, new, self.trainer[worst])
            self.multiplier[worst] *= (SPREAD * torch.randn(count, generator=drawn)).exp()

    def described(self) -> dict[str, float]:
        """For the record: the geometric mean of multipliers, and the share that are their own trainers."""
        own = self.trainer == torch.arange(len(self.trainer))
        return {"multiplier": float(self.multiplier.log().mean().exp()), "own_trainer": float(own.float().mean())}

    def state_dict(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in (*_OF_MEMBERS, "beginning", "kept")}
        return state | ({"adam": self.adam.state_dict()} if self.adam is not None else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in (*_OF_MEMBERS, "beginning", "kept"):
            setattr(self, name, state[name])
        if self.adam is not None:
            self.adam = torch.optim.Adam([self.weights], lr=self.subject.rate)
            self.adam.load_state_dict(state["adam"])


_OF_MEMBERS = ("weights", "momenta", "time", "trainer", "multiplier")
