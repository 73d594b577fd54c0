"""One run: from its settings to its ended record."""

import importlib
import inspect
from collections.abc import Iterable
from typing import Any

import torch

from reltrust.data import images
from reltrust.errors import SettingsError
from reltrust.records.store import Status, check_writable, record_of
from reltrust.records.tracking import open_tracker
from reltrust.settings import Constant, Exponential, Milestones, Settings
from reltrust.tasks.mlp_depth import MlpDepth
from reltrust.tasks.task import Task
from reltrust.training import schedules
from reltrust.training.program import Program
from reltrust.training.trainer import Member, train


def run(settings: Settings) -> Status:
    """Starts the run, or resumes it, or finds that its result is there already.

    Raises:
        SettingsError: a setting that this machine or the data cannot meet; nothing was written.
        DataError: the data cannot be had; nothing was written.
        BusyError: another process is working on this very run.
    """
    record = record_of(settings)
    if (status := record.status) is not None and status.is_result:
        return status

    # Everything that can be refused is built before the record is touched.
    device = resolve_device(settings.machine.device)
    use_threads(settings)
    program = build_program(settings, device)

    record.begin(settings, str(device))
    try:
        tracker = open_tracker(record, settings.tracking, settings.machine.results)
        (status,) = train(
            program,
            settings.training,
            [Member(record, build_schedule(settings), tracker)],
            checkpoint_seconds=60 * settings.machine.checkpoint_minutes,
            show_progress=settings.machine.progress,
        )
        return status
    except KeyboardInterrupt:
        record.preempted()
        raise
    except BaseException as error:
        record.failed(error)
        raise


def check(runs: Iterable[Settings]) -> None:
    """Refuses what one of the runs would be refused for, before any of them starts.

    Raises:
        SettingsError: a setting that the optimizer, the device or the disk refuses.
        DataError: the data cannot be had.
    """
    different = {repr((s.optimizer, s.trainer, s.data, s.machine)): s for s in runs}
    cpu = torch.device("cpu")
    for settings in different.values():
        check_precision(settings, resolve_device(settings.machine.device))
        build_optimizer(settings, [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (2,))], cpu)
    for name, root in sorted({(s.data.name, s.machine.data) for s in different.values()}):
        images.fetch(name, root)
    for results in sorted({s.machine.results for s in different.values()}):
        check_writable(results)


def check_precision(settings: Settings, device: torch.device) -> None:
    """Raises SettingsError if the device cannot compute in the precision."""
    precision = settings.trainer.precision
    if precision == "tf32" and device.type != "cuda":
        raise SettingsError(
            f"trainer.precision={precision!r}: needs machine.device=cuda, on {device} are fp32 and bf16"
        )


def build_program(settings: Settings, device: torch.device) -> Program:
    """Task and optimizer, fresh from the seed, ready for the first step.

    Raises:
        SettingsError: a setting that the optimizer or the device refuses.
        DataError: the data cannot be had.
    """
    check_precision(settings, device)
    task = build_task(settings, device)
    optimizer = build_optimizer(settings, task.model.parameters(), device)
    return Program(task, optimizer, settings.training.log_every, settings.trainer.precision)


def build_task(settings: Settings, device: torch.device) -> Task:
    return MlpDepth(
        images.load(settings.data.name, settings.machine.data, device),
        hidden_layers=settings.task.hidden_layers,
        width=settings.task.width,
        init=settings.task.init,
        batch_size=settings.training.batch_size,
        seed=settings.seed,
        device=device,
    )


def build_optimizer(
    settings: Settings, params: Iterable[torch.nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """``target(params, lr=..., **hyperparameters)``; torch's own optimizers in their fused form, where they have one.

    Raises:
        SettingsError: there is no such target, or it refuses its arguments.
    """
    optimizer = settings.optimizer
    target = optimizer_class(optimizer.target)
    arguments: dict[str, Any] = {"lr": optimizer.lr, **optimizer.hyperparameters}
    fused = optimizer.target.startswith("torch.optim.") and "fused" in inspect.signature(target).parameters
    if fused and device.type in ("cpu", "cuda"):
        arguments["fused"] = True
    try:
        built: torch.optim.Optimizer = target(params, **arguments)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"optimizer={optimizer.name}: {error}") from None
    closure = inspect.signature(built.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise SettingsError(f"optimizer.target={optimizer.target!r}: its step needs a closure, and here it gets none")
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


def build_schedule(settings: Settings) -> schedules.Schedule:
    match settings.schedule:
        case Exponential(decay=decay, every=every):
            return schedules.exponential(decay, every)
        case Milestones(decay=decay, at=at):
            return schedules.milestones(decay, at)
        case Constant():
            return schedules.constant()


def use_threads(settings: Settings) -> None:
    """Computes with as many threads as the settings say, if they say so."""
    if settings.machine.threads is not None:
        torch.set_num_threads(settings.machine.threads)


def resolve_device(name: str) -> torch.device:
    """The device of machine.device; ``auto`` is CUDA if present, else the CPU.

    Raises:
        SettingsError: the device is not present.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    present = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }[device.type]
    if not present:
        raise SettingsError(f"machine.device={name!r}: not present on this machine; auto takes what there is")
    return device
