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
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from reltrust.experiment import Measured, Packable, PackedTask
from reltrust.optim import RuleOptimizer
from reltrust.packing.cuda_graph import CapturedAction
from reltrust.training.program import Program, Window, computing, window_of

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
    """K runs as one program, a :class:`~reltrust.training.program.TrainingProgram`.

    Args:
        members: their programs, of equal shapes; from now on they belong to this one.
        group_keys: for each member a key. Members with equal keys have the same optimizer, hyperparameters and
            schedule; where they are neighbours, torch's optimizers move them by one call.
        capture: whether the step is captured in a CUDA graph; by default it is on CUDA.
    """

    def __init__(
        self, members: Sequence[Program], group_keys: Sequence[Hashable] | None = None, *, capture: bool | None = None
    ) -> None:
        self._members = list(members)
        self._group_keys = list(group_keys) if group_keys is not None else list(range(len(members)))
        self._device = members[0].measured.device
        self._capture = self._device.type == "cuda" if capture is None else capture
        self._since_fetch = 0
        self._factors = [1.0] * len(members)  # of the last step
        self._set_factors: list[float] = []  # those that the optimizers have been told
        self._stack()

    # --- what the trainer drives -------------------------------------------------------------------------------------

    def training_step(self, step: int, lr_factors: Sequence[float]) -> None:
        self._factors = list(lr_factors)
        for part in self._slices if self._factors != self._set_factors else ():
            own, lr = self._factors[part.first : part.last], part.group["lr"]
            if not isinstance(lr, Tensor):
                part.group["lr"] = part.initial_lr * own[0]
            elif lr.dim() == 0:
                lr.copy_(part.initial_lr * own[0])
            else:
                lr.copy_(part.initial_lr * torch.tensor(own, dtype=lr.dtype, device=lr.device))
        self._set_factors = self._factors
        self._advance(*self._task.inputs(step))
        self._measured[self._since_fetch].copy_(self._latest)
        self._since_fetch += 1

    @property
    def lrs(self) -> list[float]:
        return [member.initial_lrs[0][0] * factor for member, factor in zip(self._members, self._factors, strict=True)]

    def fetch_window(self, step: int) -> list[Window]:
        measured, steps, self._since_fetch = self._measured[: self._since_fetch].cpu(), self._since_fetch, 0
        first = self._members[0]
        return [
            window_of(measured[:, :, k], first.names, first.losses, step - steps) for k in range(len(self._members))
        ]

    def evaluate(self) -> list[Measured]:
        return [measured for member in self._members for measured in member.evaluate()]

    def retain(self, members: Sequence[int]) -> None:
        self._unstack()
        self._factors = [self._factors[k] for k in members]
        self._members = [self._members[k] for k in members]
        self._group_keys = [self._group_keys[k] for k in members]
        if self._members:
            self._stack()

    def state_dicts(self) -> list[dict[str, Any]]:
        self._unstack()
        return [_owning(state) for member in self._members for state in member.state_dicts()]

    def weights(self) -> list[dict[str, Tensor]]:
        return [weights for member in self._members for weights in member.weights()]

    def levels(self) -> list[bytes | None]:
        self._unstack()
        return [levels for member in self._members for levels in member.levels()]

    def load_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        for member, state in zip(self._members, states, strict=True):
            member.load_state_dicts([state])
        self._factors = [member.lrs[0] / member.initial_lrs[0][0] for member in self._members]
        self._stack()

    # --- one step ----------------------------------------------------------------------------------------------------

    def _train(self, *inputs: Tensor) -> None:
        for stack in self._stacks:
            stack.grad = None
        with computing(self._members[0].precision, self._device):
            losses, *others = self._task.losses(self._stacks, *inputs)
        losses.sum().backward()  # every member's gradient is that of its own loss
        found = [stack.grad for stack in self._stacks if stack.grad is not None]
        if len(found) < len(self._stacks):  # their places would be taken by the next ones
            raise RuntimeError("a loss of packed runs has to use every parameter")
        for same, grads in zip(self._same, self._grads, strict=True):
            torch.stack([found[i] for i in same], dim=1, out=grads)
        for optimizer in self._optimizers:
            optimizer.step()
        torch.stack((losses.detach(), *others), out=self._latest)

    # --- from the members' own weights and state to the stacks, and back ---------------------------------------------

    def _stack(self) -> None:
        """Stacks what the members hold. Their models go on seeing their weights, as views of the stacks."""
        # What is no member's is let go of before anything is stacked anew; a graph has memory of its own.
        self._advance: Callable[..., None] = self._train
        self._weights: list[Tensor] = []
        self._stacks: list[Tensor] = []
        self._grads: list[Tensor] = []
        self._slices: list[_Slice] = []
        self._optimizers: list[Optimizer] = []

        tasks = cast(list[Packable], [member.task for member in self._members])
        self._task: PackedTask = tasks[0].packed(tasks)
        params = [task.players[0].params for task in tasks]
        # Parameters of one shape lie in one tensor, (K, n, *shape), so that an optimizer has few tensors to move.
        shapes = [p.shape for p in params[0]]
        self._same = [[i for i, other in enumerate(shapes) if other == shape] for shape in dict.fromkeys(shapes)]
        self._weights = [
            torch.stack([torch.stack([own[i].detach() for i in same]) for own in params]) for same in self._same
        ]
        self._grads = [torch.zeros_like(weights) for weights in self._weights]
        views: dict[int, Tensor] = {}  # by parameter
        for same, weights in zip(self._same, self._weights, strict=True):
            views |= {i: weights[:, j] for j, i in enumerate(same)}
        self._stacks = [views[i].detach().requires_grad_() for i in range(len(shapes))]
        for k, own in enumerate(params):
            for i, p in enumerate(own):
                p.data = views[i][k]

        # An optimizer of each class, with a parameter group for every stretch of members that can share one.
        kinds: list[Hashable] = []
        for member, key in zip(self._members, self._group_keys, strict=True):
            (optimizer,) = member.optimizers
            group = optimizer.param_groups[0]
            if isinstance(optimizer, RuleOptimizer):
                by_member = optimizer.per_member
                shared = {name: value for name, value in group.items() if name not in ("params", *by_member)}
                kinds.append((type(optimizer), repr(shared), *(name for name in by_member if group[name] is None)))
            else:
                kinds.append((type(optimizer), key))
        for _, neighbours in groupby(range(len(kinds)), key=lambda k: kinds[k]):
            places = list(neighbours)
            self._slices.append(self._slice(places[0], places[-1] + 1))

        first = self._members[0]
        self._since_fetch = first.since_fetch
        self._measured: Tensor = torch.stack([member.measured for member in self._members], dim=2)
        self._latest = torch.empty(len(first.names), len(self._members), device=self._device)
        self._set_factors = []  # the optimizers are new: the next step tells them
        if self._capture:
            self._advance = CapturedAction(self._train, self._device)

    def _slice(self, first: int, last: int) -> _Slice:
        """A parameter group for these neighbours, in the optimizer of their class, with the state of their own."""
        members = self._members[first:last]
        own = [member.optimizers[0] for member in members]
        stacked: list[tuple[Tensor, list[int]]] = []
        single: list[tuple[Tensor, int, int]] = []
        by_rule = isinstance(own[0], RuleOptimizer)
        for same, weights, grads in zip(self._same, self._weights, self._grads, strict=True):
            if by_rule or self._device.type != "cpu" or weights[0, 0].numel() % _CPU_VECTOR == 0:
                stacked.append((_with_grad(weights[first:last], grads[first:last]), same))
                continue
            for k in range(first, last):
                single += [(_with_grad(weights[k, j], grads[k, j]), k, i) for j, i in enumerate(same)]

        # As before the members' first step.
        groups = [
            optimizer.param_groups[0] | {"lr": member.initial_lrs[0][0]}
            for optimizer, member in zip(own, members, strict=True)
        ]
        group = groups[0] | {"params": [part[0] for part in (*stacked, *single)]}
        if isinstance(own[0], RuleOptimizer):
            group["stacked_dims"] = 2
            for key in own[0].per_member:
                values = [one[key] for one in groups]
                if key == "lr" or any(value != values[0] for value in values):
                    group[key] = self._by_member(values)
        elif self._capture:  # a graph replays what it reads from memory, not numbers of Python
            group["lr"] = torch.tensor(group["lr"], device=self._device)
            group |= {"capturable": True} if "capturable" in group else {}

        optimizer = next((one for one in self._optimizers if type(one) is type(own[0])), None)
        if optimizer is None:
            accepted = inspect.signature(type(own[0])).parameters
            defaults = {key: value for key, value in own[0].defaults.items() if key in accepted}
            optimizer = type(own[0])([group], **defaults)
            if self._capture:  # torch would warn of the steps before the capture
                optimizer._warned_capturable_if_run_uncaptured = True
            self._optimizers.append(optimizer)
        else:
            optimizer.add_param_group(group)

        # Their state, if they have made a step, stacked as their parameters are.
        for weights, same in stacked:
            states = [[self._state_of(k, i) for i in same] for k in range(first, last)]
            if states[0][0]:
                optimizer.state[weights] = {
                    # Torch's count of steps, without axes, is of all members.
                    key: torch.stack([torch.stack([state[key] for state in of_member]) for of_member in states])
                    if isinstance(value, Tensor) and (by_rule or value.dim() > 0)
                    else _owning(value)
                    for key, value in states[0][0].items()
                }
        for weight, k, i in single:
            if state := self._state_of(k, i):
                optimizer.state[weight] = _owning(state)
        for one in own:
            one.state.clear()  # until they get it back
        return _Slice(first, last, optimizer, optimizer.param_groups[-1], stacked, single)

    def _by_member(self, values: Sequence[Any]) -> Any:
        """The members' values of a hyperparameter as a tensor (K,), or a tuple of such."""
        if isinstance(values[0], tuple | list):
            return tuple(self._by_member(part) for part in zip(*values, strict=True))
        dtype = torch.float32 if self._device.type == "mps" else torch.float64
        return torch.tensor(values, dtype=dtype, device=self._device)

    def _state_of(self, k: int, i: int) -> dict[str, Any]:
        """What member k's own optimizer holds of parameter i; empty before the first step."""
        (optimizer,) = self._members[k].optimizers
        return optimizer.state[optimizer.param_groups[0]["params"][i]]  # type: ignore[no-any-return]

    def _unstack(self) -> None:
        """Gives the members' optimizers their state, and the members what was measured since the last fetch."""
        for part in self._slices:
            for weights, same in part.stacked:
                state = part.optimizer.state.get(weights, {})
                for k in range(part.first, part.last):
                    for j, i in enumerate(same):
                        self._state_of(k, i).update({
                            key: value[k - part.first, j] if isinstance(value, Tensor) and value.dim() else value
                            for key, value in state.items()
                        })  # fmt: skip
            for weight, k, i in part.single:
                self._state_of(k, i).update(part.optimizer.state.get(weight, {}))
        for k, (member, lr) in enumerate(zip(self._members, self.lrs, strict=True)):
            (optimizer,) = member.optimizers
            optimizer.param_groups[0]["lr"] = lr
            optimizer.state = defaultdict(dict, {p: state for p, state in optimizer.state.items() if state})
            member.since_fetch = self._since_fetch
            member.measured.copy_(self._measured[:, :, k])


def _with_grad(weights: Tensor, grads: Tensor) -> Tensor:
    weights.grad = grads
    return weights


def _owning(state: Any) -> Any:
    """The state with tensors that own their memory: a saved view would bring all members' along."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return type(state)((key, _owning(value)) for key, value in state.items())  # type: ignore[call-arg]
    if isinstance(state, list | tuple):
        return type(state)(_owning(value) for value in state)
    return state
