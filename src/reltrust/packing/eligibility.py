"""Which runs can be packed, and which of them with each other."""

from collections.abc import Hashable
from dataclasses import asdict

import torch

from reltrust import build
from reltrust.errors import first_line
from reltrust.optim import RuleOptimizer
from reltrust.settings import Settings

# Torch's optimizers that move every element by itself: what is right for a tensor is right for a stack of tensors.
ELEMENTWISE: tuple[type, ...] = (torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam, torch.optim.AdamW)


def obstacle(settings: Settings) -> str | None:
    """Why the run cannot be packed with others; None if it can."""
    if settings.task.pack_keys is None or settings.optimizer is None:
        return f"experiment={settings.experiment} does not pack"
    optimizer = settings.optimizer
    try:
        target = build.optimizer_class(optimizer.target)
    except Exception as error:  # whatever it is, the run itself will tell
        return first_line(error)
    # A function that makes an optimizer will do as a target too.
    if target not in ELEMENTWISE and not (isinstance(target, type) and issubclass(target, RuleOptimizer)):
        return f"optimizer.target={optimizer.target} does not pack"
    if optimizer.rest is not None:
        return f"optimizer.rest.target={optimizer.rest.target} does not pack"
    if optimizer.clip_norm is not None:
        return f"optimizer.clip_norm={optimizer.clip_norm} does not pack"
    if settings.trainer.accumulate > 1:
        return f"trainer.accumulate={settings.trainer.accumulate} does not pack"
    if optimizer.hyperparameters.get("init") == "random":
        return "optimizer.init=random draws from a generator that the members of a pack would share"
    return None


def pack_key(settings: Settings) -> Hashable:
    """Equal for runs of one pack: experiment, the task's shape, data, batch size, steps, machine and precision.

    They may differ in seed, optimizer and its hyperparameters, schedule, and what of the task does not change shapes.
    """
    task = asdict(settings.task)  # type: ignore[call-overload]
    shape = {key: task[key] for key in settings.task.pack_keys or ()}
    return repr((settings.experiment, shape, settings.data, settings.training, settings.trainer, settings.machine))
