"""From settings to what they name: the device, the task, its optimizers, the schedule, the program of all these."""

import importlib
import inspect
import logging
import os
import random
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import nn
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

from reltrust import data
from reltrust.errors import SettingsError, first_line
from reltrust.experiment import Analysis, Task
from reltrust.optim.compiling import compiler_options
from reltrust.optim.shards import is_sharded
from reltrust.settings import Optimizer, Rest, Settings
from reltrust.training import ranks, sharing
from reltrust.training.joint import JointOptimizer, set_mode
from reltrust.training.program import Program

log = logging.getLogger(__name__)


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
    if precision == "bf16" and found.type == "cpu" and not multiplies_bf16():
        _warn("trainer.precision=bf16: this CPU does not multiply in bfloat16, a step may take ten times that of fp32")
    return found


def multiplies_bf16() -> bool:
    """Whether oneDNN, by which torch multiplies matrices of bfloat16, has more than plain loops for this CPU."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _warn(text: str) -> None:
    """Once in a process."""
    log.warning("%s", text)


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
    if settings.machine.recompute:
        sharing.recompute(task)
    shared = sharing.share(task, device, shard=settings.machine.shard)
    embeddings = [
        p for m in task.module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) for p in m.parameters()
    ]
    chosen, optimizers = [general.players.get(name, general) for name in names], []
    for own, player in zip(chosen, shared.players, strict=True):
        key = f"optimizer.players.{player.name}" if player.name in general.players else "optimizer"
        optimizers.append(optimizer(own, player.params, device, key=key, embeddings=embeddings))
    clip_norms = [own.clip_norm for own in chosen]
    if settings.machine.compile:
        compile_modules(task.module, device)
    ranks.part_generators(device)  # the weights have been drawn; dropout is each rank's own
    return Program(task, optimizers, training.log_every, settings.trainer, clip_norms, shared)


def compile_modules(module: nn.Module, device: torch.device) -> None:
    """Compiles the module and its children, whichever of them a task calls; on CUDA they become CUDA graphs."""
    how: dict[str, Any] = {"mode": "reduce-overhead"} if device.type == "cuda" else {"options": compiler_options()}
    for part in (module, *module.children()):
        part.compile(**how)


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
    np.random.seed(settings.seed)
    torch.manual_seed(settings.seed)  # of all devices
    return settings.task.build(settings, device)


class _StepError(SettingsError):
    """An optimizer was built, and does not make a step."""


def optimizer(
    chosen: Optimizer,
    params: Iterable[nn.Parameter],
    device: torch.device,
    *,
    key: str = "optimizer",
    embeddings: Collection[torch.Tensor] = (),
) -> torch.optim.Optimizer:
    """``target(params, lr=..., **hyperparameters)``; torch's own optimizers in their fused form, where they have one.

    With ``rest`` that moves the matrices, and another optimizer all others; both are one.

    Args:
        key: where the choice stands in a config.
        embeddings: those of the task, which are of two dimensions and yet no matrices.

    Raises:
        SettingsError: there is no such target, it refuses its arguments, or cannot do what is asked of it here.
    """
    params = list(params)
    if chosen.rest is None:
        return _optimizer(chosen, params, device, key)
    no_matrices = {p for p in params if p.dim() != 2} | set(embeddings)
    matrices = [p for p in params if p not in no_matrices]
    others = [p for p in params if p in no_matrices]
    parts = [_optimizer(chosen, matrices, device, key)]
    return JointOptimizer([*parts, _optimizer(chosen.rest, others, device, f"{key}.rest")] if others else parts)


def _optimizer(
    chosen: Optimizer | Rest, params: list[nn.Parameter], device: torch.device, key: str
) -> torch.optim.Optimizer:
    target = optimizer_class(chosen.target, key)
    given = chosen.hyperparameters
    arguments: dict[str, Any] = {"lr": chosen.lr, **given}
    fused = chosen.target.startswith("torch.optim.") and "fused" in inspect.signature(target).parameters
    otherwise = "fused" in given or given.get("foreach") is not None or given.get("differentiable")
    otherwise = otherwise or any(is_sharded(p) for p in params)  # of which SGD's fused form knows nothing
    if fused and not otherwise and device.type in ("cpu", "cuda"):
        arguments["fused"] = True
    failed = ""
    try:
        built = target(params, **arguments)
        if not all("lr" in group for group in built.param_groups):
            raise ValueError("it has no learning rate that a schedule could change")
        # What only a step refuses is refused here too, by one on throw-away parameters, one of each shape.
        failed = "a step without a closure, on dense gradients without a graph, fails: "
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            tried = [
                torch.rand(p.shape, dtype=p.dtype, device=p.device, requires_grad=True)
                for p in {p.shape: p for p in params}.values()
            ]
            trial = target(tried, **arguments)
            set_mode([trial], "train")
            for p in tried:
                p.grad = torch.randn_like(p)
            trial.step()
            set_mode([trial], "eval")
    except Exception as error:  # whatever somebody else's code raises
        listed = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        reason = f"{failed}{type(error).__name__}: {first_line(error)}"
        kind = _StepError if failed else SettingsError
        raise kind(f"{key}.target={chosen.target!r} with {listed}: {reason}") from None
    return built


def optimizer_class(target: str, key: str = "optimizer") -> Callable[..., torch.optim.Optimizer]:
    """What the dotted path ``target`` names: a class of optimizers, or a function that is annotated to return one.

    Raises:
        SettingsError: nothing has this name, or something else has.
    """
    module, _, name = target.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever importing somebody else's module raises
        raise SettingsError(f"{key}.target={target!r}: {first_line(error)}") from None
    kind = found
    if not isinstance(found, type):
        with suppress(Exception):  # no function, or annotations that name what is not there
            kind = get_type_hints(found).get("return")
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        allowed = "a subclass of torch.optim.Optimizer, or a function annotated to return one"
        raise SettingsError(f"{key}.target={target!r}: must be {allowed}")
    return found  # type: ignore[no-any-return]


def check(runs: Iterable[Settings], *, here: bool = True) -> None:
    """Refuses what one of the runs would be refused for, before any of them starts, as far as no task need be built.

    What can be known without torch :func:`reltrust.precheck.precheck` has refused before.

    Args:
        here: False for runs that another machine computes, which sees the same folders and has other devices.

    Raises:
        SettingsError: a setting that the optimizer or the device refuses.
        DataError: the data cannot be had.
    """
    different = {repr((s.optimizer, s.trainer, s.data, s.machine)): s for s in runs}
    for settings in different.values():
        if here:
            found = device(settings)
        on = settings.machine.device
        check_optimizers(settings, found if here else torch.device("cpu") if on == "cpu" else None)
    for name, root in sorted({(s.data.name, s.machine.data) for s in different.values() if s.data is not None}):
        data.load(name, root)


def check_optimizers(settings: Settings, device: torch.device | None) -> None:
    """Raises SettingsError for what the chosen optimizers refuse, by one step on parameters of its own.

    Args:
        device: where the run is computed; None: on another machine, whose devices are not to be had here. A step is
            tried on the CPU, and on the device only where that fails: some of others make none but on a GPU.
    """
    if settings.optimizer is None:
        return
    params = [nn.Parameter(torch.zeros(shape)) for shape in ((64, 64), (64,))]
    of_players = {f"optimizer.players.{name}": chosen for name, chosen in settings.optimizer.players.items()}
    for key, chosen in {"optimizer": settings.optimizer, **of_players}.items():
        try:
            optimizer(chosen, params, torch.device("cpu"), key=key)
        except _StepError:
            if chosen.target.startswith(("torch.", "reltrust.")) or (device is not None and device.type == "cpu"):
                raise
            if device is not None:
                optimizer(chosen, [nn.Parameter(p.detach().to(device)) for p in params], device, key=key)
