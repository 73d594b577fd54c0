"""The ways to carry out a rule on a matrix of rows: at once, by slices, or compiled."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from reltrust.optim._blocks import OTHER_SIZES, SIZES
from reltrust.optim._norms import computing_dtype
from reltrust.optim.compiling import compiler_options
from reltrust.optim.shards import is_plain

Rule = Callable[..., None]


def apply(
    rule: Rule,
    w: Tensor,
    g: Tensor,
    moments: Sequence[Tensor],
    settings: dict[str, Any],
    *,
    fused: bool = False,
    whole: bool = False,
) -> None:
    """Carries out ``rule(w, g, *moments, **settings)`` on [n, k] each: compiled, ``whole``, or as it is fast."""
    _, most = SIZES.get(w.device.type, OTHER_SIZES)
    if fused and is_plain(w):
        # Detached: the compiler would make another kernel for each rank of what w is a view of.
        plain = {key: v.detach() if isinstance(v, Tensor) else v for key, v in settings.items()}
        kinds = [(key, v.dtype if isinstance(v, Tensor) else type(v) if v else v) for key, v in plain.items()]
        update = _compiled(rule, len(w) > 1, min(w.shape[1], 2), *kinds, *(x.dtype for x in (w, g, *moments)))
        update(w.detach(), g.detach(), [moment.detach() for moment in moments], plain)
    elif whole or w.numel() <= most or torch.compiler.is_compiling():
        _apply(rule, w, g, moments, settings)
    else:
        n = max(1, most // w.shape[1])
        for i in range(0, len(w), n):
            own = {key: v[i : i + n] if is_by_row(v) else v for key, v in settings.items()}
            for slices in zip(*(x[i : i + n].split(most, 1) for x in (w, g, *moments)), strict=True):
                _apply(rule, slices[0], slices[1], slices[2:], own)


def is_by_row(setting: Any) -> bool:
    """Whether it is [n, 1], a number for each row."""
    return isinstance(setting, Tensor) and setting.dim() == 2


def _apply(rule: Rule, w: Tensor, g: Tensor, moments: Sequence[Tensor], settings: dict[str, Any]) -> None:
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
    return torch.compile(apply, dynamic=True, fullgraph=True, options=compiler_options())
