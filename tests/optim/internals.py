"""Where the tests of the optimizers know private names of theirs: what decides how a step is carried out."""

import pytest

from reltrust.optim import _apply, _blocks, lns


def cpu_slice() -> int:
    """How many weights a CPU updates at a time."""
    return _blocks.SIZES["cpu"][1]


def use_sizes(patch: pytest.MonkeyPatch, stack: int, whole: int) -> None:
    """Stacks tensors of at most ``stack`` weights up to ``whole`` in all, and takes others in slices of ``whole``."""
    patch.setitem(_blocks.SIZES, "cpu", (stack, whole))


def forget_compiled() -> None:
    """The steps that have been compiled with ``fused=True``."""
    _apply._compiled.cache_clear()


def forget_levels() -> None:
    """The tables of the magnitudes that integer levels stand for."""
    lns._magnitudes.cache_clear()
