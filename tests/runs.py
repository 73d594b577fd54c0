"""What tests do with runs: compose their settings, start them, find their records, read what they measured.

This is the one place that composes configs as Hydra does. What has been composed is kept for the next that asks.
"""

import copy
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from reltrust import build
from reltrust import run as life
from reltrust.packing.program import PackedProgram
from reltrust.records.store import RunRecord, Status, Store
from reltrust.settings import Settings, parse
from reltrust.sweeps.plan import plan
from reltrust.training.program import Program

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
OPTIMIZERS = [
    "sgd", "sgd_momentum", "adam", "fromage", "lars", "madam", "integer_madam", "signsgd", "novograd", "rmsprop",
]  # fmt: skip


# --- settings --------------------------------------------------------------------------------------------------------


@contextmanager
def hydra_loader() -> Iterator[ConfigLoader]:
    """Hydra's loader of the configs."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@cache
def _composed(overrides: tuple[str, ...]) -> Any:
    with hydra_loader():
        return OmegaConf.to_container(compose("run", overrides=list(overrides)), resolve=True)


def composed(*overrides: str) -> dict[str, Any]:
    """The config that the command line would come to, resolved, as plain dicts; Hydra's own node is not in it."""
    config: dict[str, Any] = copy.deepcopy(_composed(overrides))  # which the caller may change
    return config


def settings_of(*overrides: str) -> Settings:
    """The settings that the command line would come to."""
    # A folder of the moment is set afterwards: with it, nothing would be composed a second time.
    folders = [word for word in overrides if word.startswith("machine.results=")]
    config = composed(*(word for word in overrides if word not in folders))
    for word in folders:
        config["machine"]["results"] = word.partition("=")[2]
    return parse(config)


# --- runs ------------------------------------------------------------------------------------------------------------


def run(settings: Settings) -> Status:
    (planned,) = plan([settings])
    return life.run(planned)


@contextmanager
def stopped(at: int) -> Iterator[None]:
    """SIGTERM comes at the end of step number ``at``, counted from 1."""
    step = Program.training_step

    def interrupting(self: Program, number: int, factors: Sequence[float]) -> None:
        step(self, number, factors)
        if number + 1 == at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "training_step", interrupting)
        yield


def record_of(settings: Settings) -> RunRecord:
    return Store(settings.machine.results).record(settings)


def begun(settings: Settings) -> RunRecord:
    """The run in the hands of somebody else."""
    record = record_of(settings)
    record.begin(settings, "cpu")
    return record


def metrics(settings: Settings) -> list[dict[str, Any]]:
    """Without the seconds, which are never the same."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in record_of(settings).metrics]


def program_of(settings: Settings, device: str = "cpu") -> Program:
    return build.program(settings, torch.device(device))


def trained_alone_and_packed(chosen: Sequence[Settings], steps: int) -> tuple[list[Program], PackedProgram]:
    """Programs of these settings after so many steps, each on its own, and all of them as one."""
    alone = [program_of(one) for one in chosen]
    packed = PackedProgram([program_of(one) for one in chosen], [repr(one.optimizer) for one in chosen])
    for step in range(steps):
        for program in alone:
            program.training_step(step, [1.0])
        packed.training_step(step, [1.0] * len(chosen))
    return alone, packed


# --- tables ----------------------------------------------------------------------------------------------------------

FINISHED: dict[str, Any] = {  # a row of mlp_depth's table
    "hyperparameters": "{}",
    "comparison": "b6def528",
    "scale": "quick",
    "optimizer": "adam",
    "style": "{}",
    "hidden_layers": 2,
    "lr": 0.1,
    "seed": 0,
    "status": "finished",
    "train_loss": 0.5,
    "train_accuracy": 0.25,
}
