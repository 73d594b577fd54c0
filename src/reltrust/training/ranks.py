"""Ranks: processes that torchrun has started to compute one run together, each its share of every batch.

Each rank has all parameters, or a share of each (:mod:`~reltrust.training.sharing`); the gradient is that of the whole
batch. Rank 0 alone writes the record, in a folder that all ranks can read; to a checkpoint each rank writes its share.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed


def count() -> int:
    """How many ranks compute this run: 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else 1


def rank() -> int:
    """Which of them this process is, from 0."""
    return int(os.environ["RANK"]) if distributed.is_torchelastic_launched() else 0


def generator(device: torch.device) -> torch.Generator:
    """What a task draws from if it names no generator of its own."""
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    return torch.default_generator


def part_generators(device: torch.device) -> None:
    """From here on each rank draws numbers of its own, where the generators of all ranks have been in one state."""
    if rank():
        own = generator(device)
        drawn = int(torch.randint(2**62, (), generator=own, device=device))
        # Mixed, since a CPU's generator knows the low half of its seed alone.
        own.manual_seed(int(np.random.SeedSequence((drawn, rank())).generate_state(1)[0]))


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """A context in which the ranks can talk to each other; CPU tensors by gloo, those of CUDA by NCCL."""
    if count() == 1:
        yield
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        on_any(False)  # a rank that fails at once must not leave before the others have found it
        yield
    finally:
        distributed.destroy_process_group()


def on_any(*flags: bool) -> list[bool]:
    """For each flag whether it is set on any rank; the device is not waited for."""
    if count() == 1:
        return list(flags)
    numbers = torch.tensor(flags, dtype=torch.int32)
    distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
    return [bool(number) for number in numbers.tolist()]


def first(action: Callable[[], object]) -> None:
    """Rank 0 performs the action; an error that it raises is raised on every rank."""
    error: Exception | None = None
    if rank() == 0:
        try:
            action()
        except Exception as raised:
            error = raised
    errors = [error]
    if count() > 1:
        distributed.broadcast_object_list(errors)
    if errors[0] is not None:
        raise errors[0]


def average(tensors: Sequence[Tensor]) -> None:
    """Overwrites each tensor with its mean over the ranks."""
    if count() == 1 or not tensors:
        return
    together = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(together)
    together /= count()
    for tensor, mean in zip(tensors, together.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrites each tensor with that of rank 0."""
    if count() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def gather(value: Any) -> list[Any]:
    """The value of every rank, in their order."""
    values: list[Any] = [value] * count()
    if count() > 1:
        distributed.all_gather_object(values, value)
    return values
