"""What every optimizer here shares: torch's contract. A subclass states its update; ``_rows.py`` carries it out."""

import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from reltrust.optim._blocks import gather
from reltrust.optim._norms import computing_dtype
from reltrust.optim._require import require
from reltrust.optim._rows import Rows
from reltrust.optim._stacked import Group, by_row, check_shapes, check_stacks, each_member
from reltrust.optim.shards import is_plain, is_sharded, sharded_alike

Pairs = list[tuple[Tensor, Tensor]]


class RuleOptimizer(Optimizer):
    """An optimizer whose update is stated for rows: matrices with a row for each tensor.

    A subclass says which state it starts with (``_init_state``), which of it is elementwise (``_moments``), and how a
    step moves rows (``_update``): by a rule, a function of rows alone that knows nothing of parameters, groups or
    state. So what carries it out is free to hand it one tensor, a stack of small ones or a slice of a large one. The
    keywords that torch's optimizers share mean here:

    - ``foreach``: True (as None, the default) stacks small tensors of one shape; False takes each tensor alone
    - ``maximize``: ascend instead of descend
    - ``capturable``: accepted for torch's sake; a step never looks at the device's numbers, so it always is
    - ``differentiable``: autograd sees the step
    - ``fused``: one kernel for the whole update. On CUDA, Fromage, LARS and Madam have kernels for all tensors at once;
      everything else is compiled by ``torch.compile`` at the first step

    A parameter group with ``stacked_dims=1`` (``{"params": ..., "stacked_dims": 1}``) holds K networks, its members:
    the first axis of each of its parameters numbers them, and each member's part is a tensor of its own, with a norm of
    its own. With ``stacked_dims=2`` the second axis numbers tensors too: layers of one shape, say. The group's
    hyperparameters are numbers or tensors of shape (K,) on the parameters' device: one for each member. Schedulers of
    torch set numbers only; who has a tensor as ``lr`` scales it in place.
    """

    per_member: ClassVar[tuple[str, ...]] = ("lr",)  # the hyperparameters that the members of a stack may differ in
    _moments: ClassVar[tuple[str, ...]] = ()  # the names of the elementwise state
    _complex: ClassVar[bool] = False  # whether the update has a meaning for complex parameters
    _kernel: ClassVar[bool] = False  # whether _triton.py has a kernel of the rule's name

    def __init__(self, params: ParamsT, arguments: dict[str, Any]) -> None:
        """``arguments`` are the locals of the subclass's constructor: each of its arguments is a hyperparameter."""
        defaults = {key: v for key, v in arguments.items() if key not in ("self", "params", "__class__")}
        super().__init__(params, defaults | {"stacked_dims": 0})  # adds the groups, and so checks them

    # --- what a subclass defines -------------------------------------------------------------------------------------

    def _check(self, group: Group) -> None:
        """Raises ValueError on a hyperparameter outside its range."""
        lr = group["lr"]
        if not isinstance(lr, Tensor):
            require("lr", lr, math.isfinite(lr) and lr >= 0, "a finite number >= 0")
        elif _is_known(lr):
            require("lr", lr, math.isfinite(lr.detach()) and float(lr.detach()) >= 0, "finite and >= 0")
        if group["foreach"] and group["fused"]:
            raise RuntimeError("foreach=True and fused=True exclude each other")
        if group["differentiable"] and group["fused"]:
            raise RuntimeError("differentiable=True and fused=True exclude each other")

    def _init_state(self, rows: Rows, group: Group) -> dict[str, Tensor | list[Tensor]]:
        """The state before the first step: moments as [n, k] for each block, what is one number a tensor as [N, 1]."""
        return {}

    def _update(self, rows: Rows, group: Group) -> None:
        """One step of the rows; brings ``rows.state`` to it. Hyperparameters are numbers, 0-d or [N, 1] tensors."""
        raise NotImplementedError

    def _rescales(self, group: Group) -> bool:
        """Whether an update goes over the weights twice: low precision is then rounded once, at its end."""
        return False

    # --- torch's contract --------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns the closure's loss, None without a closure.

        Raises:
            RuntimeError: a gradient is sparse, or a parameter complex where that has no meaning; nothing has moved.
            ValueError: a hyperparameter has become a tensor of a shape that is not allowed; nothing has moved.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, batches in [(group, self._batches(group)) for group in self.param_groups]:
            with torch.set_grad_enabled(group["differentiable"]):
                for pairs in batches:
                    rows = self._rows(pairs, group)
                    self._update(rows, by_row(group, rows.blocks))
                    rows.write_back(weights=not _stands_still(group))
        return loss

    def _batches(self, group: Group) -> list[Pairs]:
        """The group's (parameter, gradient) pairs, those of one device, dtype and kind of tensor together."""
        check_shapes(group, self.per_member)
        batches: dict[Any, Pairs] = {}
        for p in group["params"]:
            if (g := p.grad) is None:
                continue
            if g.layout != torch.strided:
                raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
            if p.is_complex() and not self._complex:
                raise RuntimeError(f"{type(self).__name__} does not support complex parameters: they have no sign")
            if sharded := is_sharded(p):
                g = sharded_alike(g, p)
            batches.setdefault((p.device, p.dtype, g.dtype, sharded), []).append((p, g))
        return list(batches.values())

    def _rows(self, pairs: Pairs, group: Group) -> Rows:
        """A batch as rows, with the state of each."""
        p, axes, differentiable = pairs[0][0], group["stacked_dims"], group["differentiable"]
        by_kernel = group["fused"] and self._kernel and p.device.type == "cuda" and not axes and is_plain(p)
        alone = group["foreach"] is False or differentiable or by_kernel
        blocks = gather(pairs, self.state, stacked_dims=axes, alone=alone)
        # Autograd keeps what a step starts from, and a step of length zero ends there: it works on a copy.
        copies = differentiable or _stands_still(group)
        for block in blocks:
            if copies:
                block.w, block.w_is_view = block.w.clone(), False
            elif self._rescales(group) and (dtype := computing_dtype(block.w.dtype)) != block.w.dtype:
                block.w, block.w_is_view = block.w.to(dtype), False
        if new := [block for block in blocks if not block.states]:
            rows = Rows(new, group, self._moments)
            if started := self._init_state(rows, by_row(group, new)):
                rows.start_state(started, self.state)
        rows = Rows(blocks, group, self._moments, by_kernel=by_kernel)
        rows.read_state()
        return rows

    def add_param_group(self, param_group: Group) -> None:
        """As torch's; raises ValueError on a hyperparameter outside its range, and adds nothing then."""
        if isinstance(param_group, dict):  # torch refuses what is not
            group = {**self.defaults, **param_group}
            if group["stacked_dims"]:
                params = group["params"]
                param_group["params"] = [params] if isinstance(params, Tensor) else list(params)
                group["params"] = [p[1] if isinstance(p, tuple) else p for p in param_group["params"]]
                check_stacks(group)
            check_shapes(group, self.per_member)
            for own in each_member(group, self.defaults) if group["stacked_dims"] else [group]:
                self._check(own)
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Gives an older state the keywords that it did not know yet."""
        super().__setstate__(state)
        known: dict[str, Any] = {"stacked_dims": 0}
        for cls in reversed(type(self).__mro__):  # a subclass's own defaults come last
            if issubclass(cls, RuleOptimizer):
                arguments = inspect.signature(cls.__init__).parameters.values()
                known |= {a.name: a.default for a in arguments if a.default is not a.empty}
        for group in [self.defaults, *self.param_groups]:
            for key, default in known.items():
                group.setdefault(key, default)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but tensors keep the dtype they were saved with, as float32 moments of float16 weights must."""
        read: list[dict[str, Any]] = []  # after the hooks that the user has registered
        last = self.register_load_state_dict_pre_hook(lambda _, state: read.append(state))
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
        saved = [i for group in read[0]["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(saved, params, strict=True):
            for key, value in read[0]["state"].get(i, {}).items():
                loaded = self.state[p].get(key)
                if not (isinstance(value, Tensor) and isinstance(loaded, Tensor)):
                    continue
                if loaded.dtype != value.dtype or loaded.device != p.device:
                    self.state[p][key] = value.to(device=p.device)


def signed_lr(group: Group) -> float | Tensor:
    """The learning rate, negative if the group ascends."""
    lr: float | Tensor = group["lr"]
    return -lr if group["maximize"] else lr


def _is_known(x: Tensor) -> bool:
    """Whether to look at its number costs no waiting."""
    return x.device.type == "cpu" and x.numel() == 1 and is_plain(x)


def _stands_still(group: Group) -> bool:
    """Whether this step brings the state forward and leaves the weights.

    A step of length zero moves no weight, not even onto the grid or into the bounds of its optimizer: torch takes one
    where a distributed checkpoint is about to be loaded. A learning rate that a gradient is wanted for makes its step.
    """
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.requires_grad and group["differentiable"]:
        return False
    return bool((_is_known(lr) and float(lr.detach()) == 0) if isinstance(lr, Tensor) else lr == 0)
