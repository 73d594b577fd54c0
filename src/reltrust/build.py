"""From settings to what they name: the device, the task, its optimizers, the schedule, the program of all these."""

import importlib
import inspect
import os
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

from reltrust.data import images
from reltrust.errors import SettingsError
from reltrust.experiment import Analysis, Task
from reltrust.records.store import check_writable
from reltrust.settings import Optimizer, Settings
from reltrust.training import ranks
from reltrust.training.program import Program


def device(settings: Settings) -> torch.device:
    """The device of machine.device (``auto`` is CUDA if present, else the CPU), after setting the number of threads.

    Raises:
        SettingsError: the device is not present, or cannot compute in trainer.precision.
    """
    if settings.machine.threads is not None:
        torch.set_num_threads(settings.machine.threads)
    name = settings.machine.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and ranks.count() > 1:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(name)
    found = torch.device(name)
    present = {
        "cpu": True,
        "cuda": (found.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }[found.type]
    if not present:
        raise SettingsError(f"machine.device={name!r}: not present on this machine; auto takes what there is")
    precision = settings.trainer.precision
    if precision == "tf32" and found.type != "cuda":
        raise SettingsError(f"trainer.precision={precision!r}: needs machine.device=cuda, on {name} are fp32 and bf16")
    return found


def program(settings: Settings, device: torch.device) -> Program:
    """Task and optimizers, fresh from the seed, ready for the first step.

    Python's, numpy's and torch's global generators start from the seed too, for whatever draws from them.

    Raises:
        SettingsError: a setting that the optimizer or the task refuses.
        DataError: the data cannot be had.
    """
    processes, trainer = ranks.count(), settings.trainer
    general, _, training = settings.trained
    if training.batch_size % (trainer.accumulate * processes):
        raise SettingsError(
            f"training.batch_size={training.batch_size}: must be divisible by trainer.accumulate={trainer.accumulate} "
            f"times the {processes} ranks"
        )
    # To a task the shares of the ranks are parts of its batch like any other.
    task: Any = _built(replace(settings, trainer=replace(trainer, accumulate=trainer.accumulate * processes)), device)
    if isinstance(task, Analysis):
        raise SettingsError(
            f"training={settings.training}: experiment={settings.experiment} is an analysis, not trained"
        )
    own_batch = (m for m in task.module.modules() if isinstance(m, _BatchNorm) and not isinstance(m, SyncBatchNorm))
    if processes > 1 and next(own_batch, None) is not None:
        raise SettingsError(
            f"{processes} ranks: the task normalises over its batch, of which a rank sees a part; use one process"
        )
    names = [player.name for player in task.players]
    if unknown := sorted(set(general.players) - set(names)):
        raise SettingsError(f"optimizer.players.{unknown[0]}: no player of this task, which has {', '.join(names)}")
    chosen = [general.players.get(name, general) for name in names]
    optimizers = [optimizer(own, player.params, device) for own, player in zip(chosen, task.players, strict=True)]
    clip_norms = [own.clip_norm for own in chosen]
    if ranks.rank():  # the weights have been drawn; dropout is each rank's own
        ranks.generator(device).manual_seed((settings.seed + ranks.rank() * 2**32) % 2**63)
    return Program(task, optimizers, training.log_every, settings.trainer, clip_norms)


def analysis(settings: Settings, device: torch.device) -> Analysis:
    """The analysis, fresh from the seed.

    Raises:
        SettingsError: the experiment is one that trains.
    """
    built = _built(settings, device)
    if not isinstance(built, Analysis):
        raise SettingsError(f"training=null: experiment={settings.experiment} is trained and needs it")
    return built


def _built(settings: Settings, device: torch.device) -> Task | Analysis:
    random.seed(settings.seed)
    np.random.seed(settings.seed % 2**32)
    torch.manual_seed(settings.seed)  # of all devices
    return settings.task.build(settings, device)


def optimizer(chosen: Optimizer, params: Iterable[torch.nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
    """``target(params, lr=..., **hyperparameters)``; torch's own optimizers in their fused form, where they have one.

    Raises:
        SettingsError: there is no such target, or it refuses its arguments.
    """
    target = optimizer_class(chosen.target)
    arguments: dict[str, Any] = {"lr": chosen.lr, **chosen.hyperparameters}
    fused = chosen.target.startswith("torch.optim.") and "fused" in inspect.signature(target).parameters
    if fused and device.type in ("cpu", "cuda"):
        arguments["fused"] = True
    try:
        built: torch.optim.Optimizer = target(params, **arguments)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise SettingsError(f"optimizer={chosen.name} with {given}: {error}") from None
    closure = inspect.signature(built.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise SettingsError(f"optimizer.target={chosen.target!r}: its step needs a closure, and here it gets none")
    return built


def optimizer_class(target: str) -> Any:
    """What the dotted path ``target`` names.

    Raises:
        SettingsError: nothing has this name.
    """
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"optimizer.target={target!r}: {error}") from None


def check(runs: Iterable[Settings]) -> None:
    """Refuses what one of the runs would be refused for, before any of them starts, as far as no task need be built.

    Raises:
        SettingsError: a setting that the optimizer, the device or the disk refuses.
        DataError: the data cannot be had.
    """
    different = {repr((s.optimizer, s.trainer, s.data, s.machine)): s for s in runs}
    for settings in different.values():
        device(settings)
        if settings.optimizer is None:
            continue
        params = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (2,))]
        for chosen in (settings.optimizer, *settings.optimizer.players.values()):
            optimizer(chosen, params, torch.device("cpu"))
    for name, root in sorted({(s.data.name, s.machine.data) for s in different.values() if s.data is not None}):
        images.load(name, root)
    for results in sorted({s.machine.results for s in different.values()}):
        check_writable(results)
