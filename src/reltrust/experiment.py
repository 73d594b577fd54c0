"""What an experiment is: the protocols that its two folders meet, and how they are found by its name.

``experiments/<name>/`` holds ``settings.py`` with a class ``Subject``, the task or analysis that it builds and, if it
has a figure, ``figure.py`` with a :class:`~reltrust.reporting.report.Report` named ``REPORT``.
``configs/experiment/<name>/`` holds a YAML file for each scale and perhaps ``sweep.yaml``, the grids.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

from reltrust import experiments
from reltrust.errors import SettingsError

if TYPE_CHECKING:  # a command that is refused, or only planned, imports no torch
    import torch
    from torch import Tensor, nn

    from reltrust.settings import Settings

_HERE = Path(__file__).resolve().parent
# In a checkout the configs are at its top; an installed package carries them with it.
CONFIGS = next(path for path in (_HERE.parents[1] / "configs", _HERE / "configs") if path.is_dir())


class Subject(Protocol):
    """The keys of ``task:``: a frozen dataclass in ``experiments/<name>/settings.py`` that imports no torch."""

    protocol: ClassVar[int]
    """Raised when the mathematics changes: old results are then not reused."""
    axes: ClassVar[tuple[str, ...]]
    """The keys that the figure varies, besides optimizer and seed."""
    pack_keys: ClassVar[tuple[str, ...] | None]
    """The keys that runs must agree in to be packed, all that ``packed`` does not keep apart; None: never packed."""

    @property
    def slug(self) -> str:
        """What names a run for people, in its directory."""
        ...

    def check(self, settings: Settings) -> None:
        """Raises SettingsError on what no range of a single key can say."""
        ...

    def build(self, settings: Settings, device: torch.device) -> Task | Analysis:
        """The task or, of an experiment without ``training``, the analysis, fresh from ``settings.seed``.

        Raises:
            DataError: the data cannot be had.
        """
        ...


@dataclass(frozen=True)
class Player:
    """Parameters that one optimizer moves against one loss; a GAN has two, its discriminator and its generator."""

    name: str
    params: Sequence[nn.Parameter]
    loss: Callable[[int, int], tuple[Tensor, ...]]
    """``loss(step, part)``: the mean loss of the step's batch with its graph, then other measures of that batch.

    With ``trainer.accumulate`` parts, of one of them, counted from 0: their mean is that of the batch.

    Each is a 0-d tensor on the device and a mean over the batch, so that a mean over steps is one over examples.
    """
    measures: tuple[str, ...]
    """The names of what ``loss`` returns, in its order."""


class Measured(NamedTuple):
    """What came out."""

    row: dict[str, float]
    """Numbers: of an evaluation for the metrics, of an analysis for the summary."""
    files: Mapping[str, bytes] = MappingProxyType({})
    """By name, to be kept beside the record: a picture, a curve's table, a spectrum."""


class Task(Protocol):
    """What is trained, and on what. It knows models, data and losses; no optimizer and no key of a config.

    One with an attribute ``blocks``, modules that make up most of ``module`` and are called one after another, can be
    computed with less memory: what is within a block is computed again (``machine.recompute``), and of several
    processes each keeps a share of a block's parameters and gathers the rest while it is needed (``machine.shard``).
    """

    module: nn.Module
    """Holds all that a checkpoint has to, besides the optimizers."""
    players: tuple[Player, ...]
    """In the order of their updates within a step."""

    def evaluate(self) -> Measured:
        """Measures on held-out examples, and perhaps a sample of what the model makes."""
        ...


class ResumePoint(Protocol):
    """Where a long computation goes on from."""

    state: dict[str, Any] | None
    """What was kept last, made of tensors, numbers, strings, lists and dicts; None at the beginning."""

    def reached(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Says that the computation could go on from here, its rows logged up to ``step``, with this state.

        Now and then, and when the run is asked to stop, the state is kept; in the latter case this does not return.
        """
        ...


@runtime_checkable
class Analysis(Protocol):
    """What is computed without training: no optimizer, no schedule, perhaps no data."""

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """Computes, from ``resume.state`` on; ``log`` takes rows with an integer ``step`` that grows."""
        ...


class PackedTask(Protocol):
    """The losses of K tasks with one player each and models of one shape, computed together."""

    def inputs(self, step: int) -> tuple[Tensor, ...]:
        """What a step reads that is another at every step: tensors on the device, of the same shapes each time."""
        ...

    def losses(self, stacks: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        """For every member what its own player's loss returns: (K,) each.

        Args:
            stacks: the members' parameters in the order of their player, with a first axis for the members.
            inputs: those of the step.
        """
        ...


class Packable(Task, Protocol):
    """A task of one player that can be trained together with others of its kind."""

    @classmethod
    def packed(cls, members: Sequence[Self]) -> PackedTask:
        """The tasks as one; they agree in data, batch size and the keys of ``Subject.pack_keys``."""
        ...


def names() -> list[str]:
    """The experiments that can be run, in alphabetical order."""
    return sorted(path.name for path in (CONFIGS / "experiment").iterdir() if path.is_dir())


def scales(experiment: str) -> list[str]:
    """The scales that the experiment has a file for."""
    files = (CONFIGS / "experiment" / experiment).glob("*.yaml")
    return sorted(path.stem for path in files if path.stem != "sweep")


def load(name: str) -> type[Subject]:
    """The experiment's class ``Subject``.

    Raises:
        SettingsError: there is no such experiment.
    """
    if name not in names():
        raise SettingsError(f"experiment={name}: unknown, allowed are {', '.join(names())}")
    subject: type[Subject] = importlib.import_module(f"{experiments.__name__}.{name}.settings").Subject
    return subject
