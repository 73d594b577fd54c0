"""What turns an update rule into a torch optimizer: keywords, checks, state, and the ways to carry the rule out."""

import inspect
import math
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from reltrust.optim._norms import computing_dtype, wide
from reltrust.optim._rows import Block, Rows, join, not_conjugating, real, scatter
from reltrust.optim._shards import is_sharded, like_shards, local, sharded_alike

Closure = Callable[[], Any]
Group = dict[str, Any]
Rule = Callable[..., None]

# Tensors of at most the first number of elements are stacked with others of their shape, up to the second number in
# all; larger ones are updated by slices of the second number. A CPU's slices stay in its cache, temporaries included;
# an accelerator's are long enough to hide the launches. Measured with benchmarks/optimizers.py.
_SIZES = {"cpu": (2**15, 2**19)}
_OTHER_SIZES = (2**20, 2**22)


class RuleOptimizer(Optimizer):
    """An optimizer whose update is a function of rows alone: ``rule(w, g, *moments, **settings)``.

    The rule overwrites ``w`` and the moments with their values after the step. It knows nothing of parameters, groups
    or state, so what drives it is free to hand it one tensor, a stack of small ones or a slice of a large one.

    A subclass says which state it starts with (``_start``), which of it is elementwise (``_moments``), and which rule
    with which settings moves the rows (``_rule``). The keywords that torch's optimizers share mean here:

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
    _kernel: ClassVar[str | None] = None  # the name of the rule's kernel in _triton.py, if it has one

    def __init__(
        self,
        params: ParamsT,
        own: dict[str, Any],  # the hyperparameters that the subclass has besides the keywords of all
        foreach: bool | None,
        maximize: bool,
        capturable: bool,
        differentiable: bool,
        fused: bool | None,
    ) -> None:
        shared: dict[str, Any] = {"foreach": foreach, "maximize": maximize, "capturable": capturable}
        shared |= {"differentiable": differentiable, "fused": fused, "stacked_dims": 0}
        super().__init__(params, own | shared)  # adds the groups, and so checks them

    # --- what a subclass defines -------------------------------------------------------------------------------------

    def _check(self, group: Group) -> None:
        """Raises ValueError on a hyperparameter outside its range."""
        lr = group["lr"]
        if isinstance(lr, Tensor):
            require("lr", lr, lr.numel() == 1, "a number or a tensor of one element")
            if lr.device.type == "cpu":
                require("lr", lr, math.isfinite(lr.detach()) and float(lr.detach()) >= 0, "finite and >= 0")
        else:
            require("lr", lr, math.isfinite(lr) and lr >= 0, "a finite number >= 0")
        if group["foreach"] and group["fused"]:
            raise RuntimeError("foreach=True and fused=True exclude each other")
        if group["differentiable"] and group["fused"]:
            raise RuntimeError("differentiable=True and fused=True exclude each other")

    def _start(self, rows: Rows, group: Group) -> dict[str, Tensor]:
        """The state that is one number a tensor, before the first step: [n, 1] for each name."""
        return {}

    def _start_moments(self, w: Tensor, start: dict[str, Tensor], group: Group) -> dict[str, Tensor]:
        """The elementwise state of [n, k] weights before the first step, [n, k] each; ``start`` is ``_start``'s."""
        return {key: torch.zeros_like(w, dtype=computing_dtype(w.dtype)) for key in self._moments}

    def _rule(self, rows: Rows, group: Group) -> tuple[Rule, dict[str, Any]]:
        """The rule and its settings, [n, 1] each or the same for all rows. Brings ``rows.state`` to this step."""
        raise NotImplementedError

    def _rescales(self, group: Group) -> bool:
        """Whether the updated weights are then multiplied by ``_rescale``."""
        return False

    def _rescale(self, rows: Rows, group: Group) -> Tensor:
        """[n, 1]: what the updated weights are multiplied by."""
        raise NotImplementedError

    def _check_stacked(self, group: Group) -> None:
        """Raises ValueError on a parameter that is no stack of K tensors, or a hyperparameter out of range."""
        axes = group["stacked_dims"]
        require("stacked_dims", axes, type(axes) is int and axes in (1, 2), "0, 1 or 2")
        if group["differentiable"]:
            raise RuntimeError("stacked_dims and differentiable=True exclude each other")
        stacks = [p[1] if isinstance(p, tuple) else p for p in group["params"]]
        for p in stacks:
            whole = p.dim() >= axes and p.is_contiguous() and not (p.is_complex() or is_sharded(p))
            allowed = f"with stacked_dims={axes}, contiguous real tensors of {axes} axes at least"
            require("params", tuple(p.shape), whole, allowed)
        members = {len(p) for p in stacks}
        require("params", members, len(members) <= 1, f"with stacked_dims={axes}, parameters of as many members each")
        for k in range(max(members, default=0)):
            usual, n = self.defaults.get, len(stacks[0])
            self._check({key: self._of_member(key, value, usual(key), k, n) for key, value in group.items()})

    def _of_member(self, key: str, value: Any, default: Any, k: int, members: int) -> Any:
        """Member k's own value of a hyperparameter; the default for one that lies on a device, never waited for."""
        if isinstance(value, tuple):
            return tuple(self._of_member(key, *pair, k, members) for pair in zip(value, default, strict=True))
        if not isinstance(value, Tensor) or value.numel() == 1:
            return value
        allowed = key in self.per_member and value.shape == (members,)
        own = ", ".join(self.per_member)
        require(key, value, allowed, f"a number, or (for {own}) a tensor of one number for each of {members} members")
        return float(value[k]) if value.device.type == "cpu" else default

    # --- torch's contract --------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: Group) -> None:
        """As torch's; raises ValueError on a hyperparameter outside its range, and adds nothing then."""
        if isinstance(param_group, dict):  # torch refuses what is not
            group = {**self.defaults, **param_group}
            if group["stacked_dims"]:
                param_group["params"] = _as_list(param_group["params"])
                self._check_stacked({**group, "params": param_group["params"]})
            else:
                self._check(group)
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Gives the groups of an older state the keywords that it did not know yet."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("stacked_dims", 0)
            for key, parameter in inspect.signature(type(self)).parameters.items():
                if parameter.default is not inspect.Parameter.empty:
                    group.setdefault(key, parameter.default)

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

    def step(self, closure: Closure | None = None) -> Any:
        """One update of every parameter that has a gradient; returns the closure's loss, None without a closure.

        Raises:
            RuntimeError: a gradient is sparse, or a parameter complex where that has no meaning; nothing has moved.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [self._moving(group) for group in self.param_groups]
        for group, alike in zip(self.param_groups, moving, strict=True):
            with torch.set_grad_enabled(group["differentiable"]):
                for pairs in alike:
                    self._step_alike(pairs, group)
        return loss

    # --- the ways to carry out a step --------------------------------------------------------------------------------

    def _moving(self, group: Group) -> list[list[tuple[Tensor, Tensor]]]:
        """The (parameter, gradient) pairs of the group, in lists of one device, dtype and kind of tensor each."""
        alike: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        for p in group["params"]:
            if (g := p.grad) is None:
                continue
            if g.layout != torch.strided:
                raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
            if p.is_complex() and not self._complex:
                raise RuntimeError(f"{type(self).__name__} does not support complex parameters: they have no sign")
            if sharded := is_sharded(p):
                g = sharded_alike(g, p)
            alike.setdefault((p.device, p.dtype, g.dtype, sharded), []).append((p, g))
        return list(alike.values())

    def _step_alike(self, pairs: list[tuple[Tensor, Tensor]], group: Group) -> None:
        """One step of parameters of one device and dtype."""
        differentiable = group["differentiable"]
        rows = Rows(self._blocks(pairs, group), {})
        self._start_state(rows, group)
        states = [state for block in rows.blocks for state in block.states]
        joined = {}
        for key in states[0] if states else ():
            if key not in self._moments and group["stacked_dims"]:
                joined[key] = torch.cat([s[key].flatten() for s in states]).unsqueeze(1), False
            elif key not in self._moments:
                joined[key] = join([s[key] for s in states])
        rows.state = {key: numbers for key, (numbers, _) in joined.items()}

        group = _by_row(group, rows)
        rule, settings = self._rule(rows, group)
        dtype = computing_dtype(rows.dtype)
        settings = {key: v.to(dtype) if _is_by_row(v) else v for key, v in settings.items()}
        sizes = [len(block.w) for block in rows.blocks]
        if self._by_kernel(group, rows.device, sharded=is_sharded(pairs[0][0])):
            self._step_by_kernel(rows, settings)
        else:
            by_block = {k: v.split(sizes) for k, v in settings.items() if _is_by_row(v)}
            for i, block in enumerate(rows.blocks):
                self._step_block(rule, block, settings | {key: values[i] for key, values in by_block.items()}, group)
        if self._rescales(group):
            factor = self._rescale(rows, group).to(rows.dtype)
            for block, f in zip(rows.blocks, factor.split(sizes), strict=True):
                block.w = block.w * f if differentiable else block.w.mul_(f)

        for block in rows.blocks if not self._stands_still(group) else ():
            if not block.w_is_view:
                scatter(block.w, block.weights)
            elif len(block.params) > 1:  # a view of the first tensor's memory: autograd is to hear of the others too
                torch.autograd.graph.increment_version(block.params)
        for key, value in rows.state.items():
            before, is_view = joined[key]
            if differentiable:
                for s, number in zip(states, value.flatten().unbind(), strict=True):
                    s[key] = number
            elif group["stacked_dims"]:
                for s, numbers in zip(states, value.flatten().split(sizes), strict=True):
                    s[key].copy_(numbers.view_as(s[key]))
            elif value is not before or not is_view:
                scatter(value, [s[key] for s in states])

    @staticmethod
    def _stands_still(group: Group) -> bool:
        """Whether this step brings the state forward and leaves the weights.

        A step of length zero moves no weight, not even onto the grid or into the bounds of its optimizer: torch takes
        one where a distributed checkpoint is about to be loaded.
        """
        lr = group["lr"]
        if isinstance(lr, Tensor):
            known = lr.device.type == "cpu" and lr.numel() == 1 and not torch.compiler.is_compiling()
            return known and float(lr.detach()) == 0
        return bool(lr == 0)

    def _blocks(self, pairs: list[tuple[Tensor, Tensor]], group: Group) -> list[Block]:
        """Small tensors of one shape, all with state or all without, stacked; every other tensor alone."""
        differentiable, first = group["differentiable"], pairs[0][0]
        # Autograd keeps what a step starts from, and a step of length zero ends there: it works on a copy.
        copies = differentiable or self._stands_still(group)
        # Rounded once, after the rescaling.
        widens = self._rescales(group) and computing_dtype(first.dtype) != first.dtype

        def block(params: list[Tensor], weights: list[Tensor], w: Tensor, w_is_view: bool, g: Tensor) -> Block:
            if copies or widens:
                w, w_is_view = (w.clone() if copies else w.to(computing_dtype(w.dtype))), False
            states = [state for p in params if (state := self.state.get(p))]
            return Block(params, weights, w, w_is_view, g, states)

        if axes := group["stacked_dims"]:
            return [
                block([p], [p], p.view(n, -1), True, g.reshape(n, -1))
                for p, g in pairs
                for n in [math.prod(p.shape[:axes])]
            ]
        sharded, plain = is_sharded(first), not is_sharded(first) and not first.is_complex()
        by_kernel = self._by_kernel(group, first.device, sharded)
        alone = group["foreach"] is False or differentiable or sharded or by_kernel or torch.compiler.is_compiling()
        stack, whole = _SIZES.get(first.device.type, _OTHER_SIZES)

        chosen: list[list[tuple[Tensor, Tensor]]] = []
        filling: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        for p, g in pairs:
            numel = 0 if alone else p.numel()
            if alone or numel > stack:
                chosen.append([(p, g)])
                continue
            key = (p.shape, not self.state.get(p))
            if (members := filling.get(key)) is None or (len(members) + 1) * numel > whole:
                filling[key] = members = []
                chosen.append(members)
            members.append((p, g))

        blocks = []
        for members in chosen:
            params, grads = map(list, zip(*members, strict=True))
            weights = params if plain else [real(local(not_conjugating(p, p))) for p in params]
            if not plain:
                grads = [real(local(not_conjugating(g, p))) for p, g in zip(params, grads, strict=True)]
            blocks.append(block(params, weights, *join(weights), join(grads)[0]))
        return blocks

    def _start_state(self, rows: Rows, group: Group) -> None:
        """Gives the rows that have no state the state of before their first step."""
        new = Rows([block for block in rows.blocks if not block.states], {})
        if not new.blocks:
            return
        started = self._start(new, group)
        if not started:
            return
        for key, value in started.items():
            if axes := group["stacked_dims"]:
                for block, numbers in zip(
                    new.blocks, value.flatten().split([len(b.w) for b in new.blocks]), strict=True
                ):
                    (p,) = block.params
                    self.state[p][key] = numbers.view(p.shape[:axes])
                continue
            for p, number in zip(new.params, value.flatten().unbind(), strict=True):
                self.state[p][key] = number
        at = 0
        for block in new.blocks:
            own = {key: value[at : at + len(block.w)] for key, value in started.items()}
            at += len(block.w)
            block.states = [self.state[p] for p in block.params]
            self._put_moments(block, self._start_moments(block.w, own, _by_row(group, Rows([block], {}))))

    def _put_moments(self, block: Block, moments: dict[str, Tensor]) -> None:
        for key, value in moments.items():
            rows = value.unbind() if len(block.params) > 1 else (value,)
            for p, weight, state, row in zip(block.params, block.weights, block.states, rows, strict=True):
                state[key] = like_shards(row.view(weight.shape), p)

    def _by_kernel(self, group: Group, device: torch.device, sharded: bool) -> bool:
        """Whether one kernel updates all tensors at once."""
        asked = group["fused"] and self._kernel is not None and device.type == "cuda"
        return asked and not (sharded or group["stacked_dims"] or torch.compiler.is_compiling())

    def _step_by_kernel(self, rows: Rows, settings: dict[str, Any]) -> None:
        """Brings every block's ``w`` and the elementwise state to this step."""
        from reltrust.optim import _triton  # needs triton, which comes with torch's CUDA builds

        joined = {key: [join([block.states[0][key]]) for block in rows.blocks] for key in self._moments}
        moments = [[value for value, _ in values] for values in joined.values()]
        update = getattr(_triton, str(self._kernel))
        update([block.w for block in rows.blocks], [block.g for block in rows.blocks], *moments, **settings)
        torch.autograd.graph.increment_version([block.params[0] for block in rows.blocks])
        for key, values in joined.items():
            for block, (value, is_view) in zip(rows.blocks, values, strict=True):
                if not is_view:
                    scatter(value, [block.states[0][key]])

    def _step_block(self, rule: Rule, block: Block, settings: dict[str, Any], group: Group) -> None:
        """Brings ``block.w`` and the elementwise state to this step."""
        if not block.w.numel():
            return
        differentiable, compiling = group["differentiable"], torch.compiler.is_compiling()
        w, g = block.w, block.g
        states = [[local(state[key]) for state in block.states] for key in self._moments]
        joined = [(value.view(w.shape), is_view) for value, is_view in map(join, states)]
        moments = [value.clone() if differentiable else value for value, _ in joined]
        if differentiable:
            w = block.w = block.w.clone()

        _, size = _SIZES.get(w.device.type, _OTHER_SIZES)
        if group["fused"] and not compiling:
            # Detached: the compiler would make another kernel for each rank of what w is a view of.
            plain = {key: v.detach() if isinstance(v, Tensor) else v for key, v in settings.items()}
            kinds: list[Any] = [
                (key, v.dtype if isinstance(v, Tensor) else type(v) if v else v) for key, v in plain.items()
            ]
            kinds += [x.dtype for x in (w, g, *moments)]
            update = _compiled(rule, len(w) > 1, min(w.shape[1], 2), *kinds)
            update(w.detach(), g.detach(), [m.detach() for m in moments], plain)
        elif w.numel() <= size or differentiable or compiling:
            _apply(rule, w, g, moments, settings)
        elif w.shape[1] > size:
            for w_slice, g_slice, *m_slices in zip(*(x.split(size, 1) for x in (w, g, *moments)), strict=True):
                _apply(rule, w_slice, g_slice, m_slices, settings)
        else:
            n = size // w.shape[1]
            for i in range(0, len(w), n):
                own = {key: v[i : i + n] if _is_by_row(v) else v for key, v in settings.items()}
                _apply(rule, w[i : i + n], g[i : i + n], [m[i : i + n] for m in moments], own)

        if differentiable:
            self._put_moments(block, dict(zip(self._moments, moments, strict=True)))
            return
        for tensors, (value, is_view) in zip(states, joined, strict=True):
            if not is_view:
                scatter(value, tensors)


def _apply(rule: Rule, w: Tensor, g: Tensor, moments: list[Tensor], settings: dict[str, Any]) -> None:
    """Carries out the rule, in float32 where ``w`` is less precise."""
    dtype = computing_dtype(w.dtype)
    precise = w.to(dtype)
    rule(precise, g.to(dtype), *moments, **settings)
    if precise is not w:
        w.copy_(precise)


@cache
def _compiled(rule: Rule, *_: Any) -> Callable[..., None]:
    """The rule as one kernel; another one for whatever else the compiler would compile it again for."""

    def apply(w: Tensor, g: Tensor, moments: list[Tensor], settings: dict[str, Any]) -> None:
        _apply(rule, w, g, moments, settings)

    # The compiler gives up on a code object that it has compiled too often: each has one of its own.
    apply.__code__ = apply.__code__.replace(co_name=f"apply_{rule.__name__}")
    return torch.compile(apply, dynamic=True, fullgraph=True)


def _as_list(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else list(params)


def _is_by_row(setting: Any) -> bool:
    """Whether it is [n, 1], a number for each row."""
    return isinstance(setting, Tensor) and setting.dim() == 2


def _by_row(group: Group, rows: Rows) -> Group:
    """The group with its members' hyperparameters, (K,) each, as [N, 1]: every member has its rows in each block."""
    if not group["stacked_dims"]:
        return group
    members = len(rows.params[0])

    def spread(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(spread, value))
        by_member = isinstance(value, Tensor) and value.dim() == 1 and value.numel() > 1
        if not by_member:
            return value
        parts = [wide(value).repeat_interleave(len(block.w) // members) for block in rows.blocks]
        return torch.cat(parts).unsqueeze(1)

    return {key: spread(value) if key != "params" else value for key, value in group.items()}


def live_lr(rows: Rows, group: Group) -> float | Tensor:
    """The learning rate of this step: a number, or a tensor, 0-d or [N, 1], that the rows can be multiplied by."""
    lr: float | Tensor = group["lr"]
    if not isinstance(lr, Tensor) or lr.dim() == 2:
        return lr
    # Any device multiplies by a 0-d tensor of the CPU.
    return lr.reshape(()) if lr.device.type == "cpu" else lr.reshape(()).to(rows.device)


def signed_lr(rows: Rows, group: Group) -> float | Tensor:
    """``live_lr``, negative if the group ascends."""
    return -live_lr(rows, group) if group["maximize"] else live_lr(rows, group)


def require(argument: str, value: Any, holds: bool, allowed: str) -> None:
    """Raises a ValueError that names the argument, its value and the allowed range, unless ``holds``."""
    if not holds:
        raise ValueError(f"{argument}={value!r} is not allowed: {allowed}")
