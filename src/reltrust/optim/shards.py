"""Kinds of tensors: plain ones, and shards, the parts of a DTensor."""

from typing import Any

import torch
from torch import Tensor, nn


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is memory whose numbers and address can be looked at: no subclass, nothing that is being traced."""
    return type(x) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()


def is_sharded(x: Tensor) -> bool:
    """Whether ``x`` is a ``DTensor``; asked in a way that does not import torch.distributed.tensor."""
    return hasattr(x, "device_mesh") and hasattr(x, "placements")


def local(x: Tensor) -> Tensor:
    """This process's part of a ``DTensor``; any other tensor as it is. A view: writing to it writes to ``x``."""
    sharded: Any = x
    part: Tensor = sharded.to_local() if is_sharded(x) else x
    return part


def whole(x: Tensor) -> Tensor:
    """All parts of a ``DTensor`` together (a collective call); any other tensor as it is."""
    if not is_sharded(x):
        return x
    sharded: Any = x
    full: Tensor = sharded.full_tensor()
    return full


def sharded_alike(grad: Tensor, param: Tensor) -> Tensor:
    """The gradient of a ``DTensor`` in the placements of its parameter: parts that wait to be summed are summed."""
    given, wanted = (getattr(x, "placements", None) for x in (grad, param))
    mesh: Any = getattr(param, "device_mesh", None)
    unlike: Any = grad
    alike: Tensor = grad if given == wanted else unlike.redistribute(mesh, wanted)
    return alike


def like_shards(x: Tensor, like: Tensor) -> Tensor:
    """``x``, a tensor of this process, as a ``DTensor`` that is sharded like ``like``, if ``like`` is one."""
    if not is_sharded(like):
        return x
    from torch.distributed.tensor import DTensor

    sharded: Any = like
    return DTensor.from_local(
        x, sharded.device_mesh, sharded.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
