"""Many runs of one shape as one program: parameters stacked along a first axis, one batched product for all.

A packed run is the same run: each member keeps its task and its optimizer as it would have them alone, and they say
what its initial weights, its order of batches, its evaluation and its checkpoint are. While the members are packed,
their weights and their optimizers' state lie in the stacks.

On a CPU that computes with one thread no bit of a member depends on its company, as long as its matrices begin at
multiples of 16 bytes wherever they lie in the stack: if their sizes are multiples of four. Others may be rounded by the
library of matrix products in another way once a neighbour has left.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from reltrust.optim._base import RuleOptimizer
from reltrust.training.graph import Captured
from reltrust.training.program import Program, Window, computing, window_of

# Torch's optimizers that move every element by itself: what is right for a tensor is right for a stack of tensors.
ELEMENTWISE: tuple[type, ...] = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


def can_pack(optimizer: type) -> bool:
    """Whether runs with optimizers of this class can be packed."""
    return optimizer in ELEMENTWISE or issubclass(optimizer, RuleOptimizer)


# Torch's fused CPU kernels round the last elements of a tensor, those that fill no vector register, otherwise than the
# rest. Which elements these are must not depend on the company: such tensors are moved one by one, as alone.
_CPU_VECTOR = 16


@dataclass
class _Slice:
    """Neighbouring members that share a parameter group of an optimizer."""

    first: int
    last: int  # one past
    optimizer: Optimizer
    group: dict[str, Any]
    stacked: list[tuple[Tensor, list[int]]]  # of the group's tensors the (K, n, *shape), with their n parameters
    single: list[tuple[Tensor, int, int]]  # and those of one member, with that and the parameter
    initial_lr: Any = field(init=False)  # a number or, of a group with a hyperparameter for each member, (K,)

    def __post_init__(self) -> None:
        self.initial_lr = self.group["lr"].clone() if isinstance(self.group["lr"], Tensor) else self.group["lr"]


class PackedProgram:
    """K runs as one program, a :class:`~reltrust.training.program.Steps`.

    Args:
        members: their programs, of equal shapes; from now on they belong to this one.
        alike: for each member a key. Members with equal keys have the same optimizer, hyperparameters and schedule;
            where they are neighbours, torch's optimizers move them by one call.
        capture: whether the step is captured in a CUDA graph; by default it is on CUDA.
    """

    def __init__(
        self, members: Sequence[Program], alike: Sequence[Hashable] | None = None, *, capture: bool | None = None
    ) -> None:
        self._members = list(members)
        self._alike = list(alike) if alike is not None else list(range(len(members)))
        self._device = members[0].params[0].device
        self._capture = self._device.type == "cuda" if capture is None else capture
        self._since_look = 0
        self._factors = [1.0] * len(members)  # of the last step
        self._set_factors: list[float] = []  # those that the optimizers have been told
        self._take()

    # --- what the trainer drives -------------------------------------------------------------------------------------

    def step(self, step: int, lr_factors: Sequence[float]) -> None:
        self._factors = list(lr_factors)
        self._set_lrs()
        self._advance(*self._task.inputs(step))
        self._measured[self._since_look].copy_(self._latest)
        self._since_look += 1

    @property
    def lrs(self) -> list[float]:
        return [member.initial_lrs[0] * factor for member, factor in zip(self._members, self._factors, strict=True)]

    def look(self, step: int) -> list[Window]:
        measured, steps, self._since_look = self._measured[: self._since_look].cpu(), self._since_look, 0
        names = self._members[0].task.measures
        return [window_of(measured[:, :, k], names, step - steps) for k in range(len(self._members))]

    def evaluate(self) -> list[dict[str, float]]:
        return [measures for member in self._members for measures in member.evaluate()]

    def keep(self, members: Sequence[int]) -> None:
        self._hand_back()
        self._factors = [self._factors[k] for k in members]
        self._members = [self._members[k] for k in members]
        self._alike = [self._alike[k] for k in members]
        if self._members:
            self._take()

    def state_dicts(self) -> list[dict[str, Any]]:
        self._hand_back()
        return [_owning(state) for member in self._members for state in member.state_dicts()]

    def load_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        for member, state in zip(self._members, states, strict=True):
            member.load_state_dicts([state])
        self._factors = [member.lrs[0] / member.initial_lrs[0] for member in self._members]
        self._take()

    # --- one step ----------------------------------------------------------------------------------------------------

    def _train(self, *inputs: Tensor) -> None:
        for stack in self._stacks:
            stack.grad = None
        with computing(self._members[0].precision, self._device):
            losses, *others = self._task.losses(self._stacks, *inputs)
        losses.sum().backward()  # every member's gradient is that of its own loss
        for same, grads in zip(self._same, self._grads, strict=True):
            torch.stack([grad for i in same if (grad := self._stacks[i].grad) is not None], dim=1, out=grads)
        for optimizer in self._optimizers:
            optimizer.step()
        torch.stack((losses.detach(), *others), out=self._latest)

    def _set_lrs(self) -> None:
        if self._factors == self._set_factors:
            return
        self._set_factors = self._factors
        for part in self._slices:
            own, lr = self._factors[part.first : part.last], part.group["lr"]
            if not isinstance(lr, Tensor):
                part.group["lr"] = part.initial_lr * own[0]
            elif lr.dim() == 0:
                lr.copy_(part.initial_lr * own[0])
            else:
                lr.copy_(part.initial_lr * torch.tensor(own, dtype=lr.dtype, device=lr.device))

    # --- from the members' own weights and state to the stacks, and back ---------------------------------------------

    def _take(self) -> None:
        """Stacks what the members hold. Their models go on seeing their weights, as views of the stacks."""
        # What is no member's is let go of before anything is stacked anew; a graph has memory of its own.
        self._advance: Callable[..., None] = self._train
        self._weights: list[Tensor] = []
        self._stacks: list[Tensor] = []
        self._grads: list[Tensor] = []
        self._slices: list[_Slice] = []
        self._optimizers: list[Optimizer] = []

        members = self._members
        self._task = members[0].task.packed([member.task for member in members])  # type: ignore[attr-defined]
        # Parameters of one shape lie in one tensor, (K, n, *shape), so that an optimizer has few tensors to move.
        shapes = [p.shape for p in members[0].params]
        self._same = [[i for i, other in enumerate(shapes) if other == shape] for shape in dict.fromkeys(shapes)]
        self._weights = [
            torch.stack([torch.stack([member.params[i].detach() for i in same]) for member in members])
            for same in self._same
        ]
        self._grads = [torch.zeros_like(weights) for weights in self._weights]
        views: dict[int, Tensor] = {}  # by parameter
        for same, weights in zip(self._same, self._weights, strict=True):
            views |= {i: weights[:, j] for j, i in enumerate(same)}
        self._stacks = [views[i].detach().requires_grad_() for i in range(len(shapes))]
        for k, member in enumerate(members):
            for i, p in enumerate(member.params):
                p.data = views[i][k]
        self._make_optimizers()

        first = members[0]
        self._since_look = first.since_look
        self._measured: Tensor = torch.stack([member.measured for member in members], dim=2)  # (window, measures, K)
        self._latest = torch.empty(len(first.task.measures), len(members), device=self._device)
        self._set_factors = []  # the optimizers are new: the next step tells them
        if self._capture:
            self._advance = Captured(self._train, self._device)

    def _make_optimizers(self) -> None:
        """An optimizer of each kind, with a parameter group for every stretch of members that can share one."""
        kinds = [_kind(member.optimizer, alike) for member, alike in zip(self._members, self._alike, strict=True)]
        for _, neighbours in groupby(range(len(kinds)), key=lambda k: kinds[k]):
            places = list(neighbours)
            first, last = places[0], places[-1] + 1
            own = [member.optimizer for member in self._members[first:last]]
            stacked: list[tuple[Tensor, list[int]]] = []
            single: list[tuple[Tensor, int, int]] = []
            rounds = self._device.type == "cpu" and not isinstance(own[0], RuleOptimizer)
            for same, weights, grads in zip(self._same, self._weights, self._grads, strict=True):
                if not (rounds and weights[0, 0].numel() % _CPU_VECTOR):
                    stacked.append((_with_grad(weights[first:last], grads[first:last]), same))
                    continue
                for k in places:
                    single += [(_with_grad(weights[k, j], grads[k, j]), k, i) for j, i in enumerate(same)]
            group = self._shared_group(self._members[first:last])
            group["params"] = [part[0] for part in (*stacked, *single)]
            optimizer = self._with_group(own[0], group)
            self._slices.append(_Slice(first, last, optimizer, optimizer.param_groups[-1], stacked, single))
            self._take_state(self._slices[-1])
            for optimizer in own:
                optimizer.state.clear()  # until they get it back

    def _with_group(self, like: Optimizer, group: dict[str, Any]) -> Optimizer:
        """The optimizer of the class of ``like``, made if there is none yet, with the group added."""
        optimizer = next((o for o in self._optimizers if type(o) is type(like)), None)
        if optimizer is not None:
            optimizer.add_param_group(group)
            return optimizer
        accepted = inspect.signature(type(like)).parameters
        defaults = {key: value for key, value in like.defaults.items() if key in accepted}
        self._optimizers.append(type(like)([group], **defaults))
        if self._capture:  # torch would warn of the steps before the capture
            self._optimizers[-1]._warned_capturable_if_run_uncaptured = True
        return self._optimizers[-1]

    def _shared_group(self, members: Sequence[Program]) -> dict[str, Any]:
        """A parameter group for these members, as before their first step and without its parameters."""
        groups = [
            member.optimizer.param_groups[0] | {"lr": member.initial_lrs[0], "params": None} for member in members
        ]
        shared, optimizer = groups[0], members[0].optimizer
        if isinstance(optimizer, RuleOptimizer):
            shared["stacked_dims"] = 2
            for key in optimizer._per_member:
                values = [group[key] for group in groups]
                if key == "lr" or any(value != values[0] for value in values):
                    shared[key] = self._by_member(values)
        elif self._capture:  # a graph replays what it reads from memory, not numbers of Python
            shared["lr"] = torch.tensor(shared["lr"], device=self._device)
            shared |= {"capturable": True} if "capturable" in shared else {}
        return shared

    def _by_member(self, values: Sequence[Any]) -> Any:
        if isinstance(values[0], tuple | list):
            return tuple(self._by_member(part) for part in zip(*values, strict=True))
        dtype = torch.float32 if self._device.type == "mps" else torch.float64
        return torch.tensor(values, dtype=dtype, device=self._device)

    def _state_of(self, k: int, i: int) -> dict[str, Any]:
        """What member k's own optimizer holds of parameter i; empty before the first step."""
        optimizer = self._members[k].optimizer
        return optimizer.state[optimizer.param_groups[0]["params"][i]]  # type: ignore[no-any-return]

    def _take_state(self, part: _Slice) -> None:
        """The state of the members' optimizers, if they have made a step, stacked as their parameters are."""
        for weights, same in part.stacked:
            states = [[self._state_of(k, i) for i in same] for k in range(part.first, part.last)]
            if states[0][0]:
                part.optimizer.state[weights] = {
                    key: torch.stack([torch.stack([state[key] for state in of_member]) for of_member in states])
                    if _is_by_member(value, part)
                    else _owning(value)
                    for key, value in states[0][0].items()
                }
        for weight, k, i in part.single:
            if state := self._state_of(k, i):
                part.optimizer.state[weight] = _owning(state)

    def _hand_back(self) -> None:
        """Gives the members' optimizers their state, and the members what was measured since the last look."""
        for part in self._slices:
            for weights, same in part.stacked:
                state = part.optimizer.state.get(weights, {})
                for k in range(part.first, part.last):
                    for j, i in enumerate(same):
                        self._state_of(k, i).update({
                            # Torch's count of steps, without axes, is of all members.
                            key: value[k - part.first, j] if isinstance(value, Tensor) and value.dim() else value
                            for key, value in state.items()
                        })  # fmt: skip
            for weight, k, i in part.single:
                self._state_of(k, i).update(part.optimizer.state.get(weight, {}))
        for member, lr in zip(self._members, self.lrs, strict=True):
            member.optimizer.param_groups[0]["lr"] = lr
            member.optimizer.state = defaultdict(dict, {p: s for p, s in member.optimizer.state.items() if s})
        for k, member in enumerate(self._members):
            member.since_look = self._since_look
            member.measured.copy_(self._measured[:, :, k])


def _with_grad(weights: Tensor, grads: Tensor) -> Tensor:
    weights.grad = grads
    return weights


def _kind(optimizer: Optimizer, alike: Hashable) -> Hashable:
    """Members of one kind can share a parameter group."""
    if not isinstance(optimizer, RuleOptimizer):
        return type(optimizer), alike
    shared = {k: v for k, v in optimizer.param_groups[0].items() if k not in ("params", *optimizer._per_member)}
    nothing = [key for key in optimizer._per_member if optimizer.param_groups[0][key] is None]
    return type(optimizer), repr(shared), *nothing


def _is_by_member(value: Any, part: _Slice) -> bool:
    """Whether each member has its own value of this state of its optimizer: not so torch's count of steps."""
    return isinstance(value, Tensor) and (bool(part.group.get("stacked_dims")) or value.dim() > 0)


def _owning(state: Any) -> Any:
    """The state with tensors that own their memory: a saved view would bring all members' along."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return type(state)((key, _owning(value)) for key, value in state.items())  # type: ignore[call-arg]
    if isinstance(state, list | tuple):
        return type(state)(_owning(value) for value in state)
    return state
