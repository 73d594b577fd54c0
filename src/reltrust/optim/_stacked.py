"""Hyperparameters in tensors: one number for all, or, in a group of stacked parameters, one for each of K members."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from reltrust.optim._blocks import Block
from reltrust.optim._norms import wide
from reltrust.optim._require import require
from reltrust.optim.shards import is_sharded

Group = dict[str, Any]


def check_stacks(group: Group) -> None:
    """Raises ValueError unless each of the parameters is a stack of as many tensors."""
    axes, stacks = group["stacked_dims"], group["params"]
    require("stacked_dims", axes, type(axes) is int and axes in (1, 2), "0, 1 or 2")
    if group["differentiable"]:
        raise RuntimeError("stacked_dims and differentiable=True exclude each other")
    for p in stacks:
        whole = p.dim() >= axes and p.is_contiguous() and not (p.is_complex() or is_sharded(p))
        allowed = f"with stacked_dims={axes}, contiguous real tensors of {axes} axes at least"
        require("params", tuple(p.shape), whole, allowed)
    members = {len(p) for p in stacks}
    require("params", members, len(members) <= 1, f"with stacked_dims={axes}, parameters of as many members each")


def check_shapes(group: Group, per_member: tuple[str, ...]) -> None:
    """Raises ValueError on a hyperparameter in a tensor of more than one element, unless it has one for each member."""
    members = len(group["params"][0]) if group["stacked_dims"] and group["params"] else 0
    for key, value in group.items():
        for x in value if isinstance(value, tuple) else (value,):
            if isinstance(x, Tensor) and x.numel() != 1 and key != "params":
                allowed = "a number or a tensor of one element"
                if members:
                    own = ", ".join(per_member)
                    allowed = f"a number, or (for {own}) a tensor of one number for each of {members} members"
                require(key, x, bool(members) and key in per_member and x.shape == (members,), allowed)


def each_member(group: Group, defaults: Group) -> Iterator[Group]:
    """The group as each member's own; with the defaults for what lies on a device, which is never waited for."""
    for k in range(len(group["params"][0]) if group["params"] else 0):
        yield {key: _of_member(k, value, defaults.get(key)) for key, value in group.items()}


def _of_member(k: int, value: Any, default: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_of_member(k, *pair) for pair in zip(value, default, strict=True))
    if not isinstance(value, Tensor) or value.numel() == 1:
        return value
    return float(value[k]) if value.device.type == "cpu" else default


def by_row(group: Group, blocks: list[Block]) -> Group:
    """The group with a tensor of one element as 0-d and the members' hyperparameters, (K,), as [N, 1].

    A 0-d tensor is on the rows' device or the CPU: any device multiplies by one of those.
    """
    return {key: value if key == "params" else _by_row(value, blocks) for key, value in group.items()}


def _by_row(value: Any, blocks: list[Block]) -> Any:
    if isinstance(value, tuple):
        return tuple(_by_row(part, blocks) for part in value)
    if not isinstance(value, Tensor):
        return value
    if value.numel() == 1:
        return value.reshape(()) if value.device.type == "cpu" else value.reshape(()).to(blocks[0].w.device)
    # Every member has its rows in each block.
    parts = [wide(value).repeat_interleave(len(block.w) // len(value)) for block in blocks]
    return torch.cat(parts).unsqueeze(1)
