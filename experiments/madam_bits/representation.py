"""What B bits say of a weight in B-bit Madam, by two strategies, and how many bytes it takes.

A weight is a sign and a level n in 0..K-1, K = 2^B: sign * w_max * exp(-b n), b being ``base_lr``. Its dynamic range is
b (K - 1) nats, for which both strategies here write b K.

Source: arXiv 2006.14560, section 4; the authors' settings of it are in ``published.csv``. Needs no torch.
"""

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

from reltrust.errors import SettingsError

if TYPE_CHECKING:
    from reltrust.settings import Settings

PRECISION = 0.001  # b of the published 12 bits, nats
RANGE = 4.096  # b K of the published 12 bits, nats
BITS = (1, 16)  # of a level in IntegerMadam: 2 to 65,536 levels
FP32 = 4  # bytes


class Strategy(StrEnum):
    """What stays as it is when there are fewer bits. At 12 bits both are one."""

    RANGE = "fixed dynamic range"  # levels lie further apart
    PRECISION = "fixed base precision"  # small weights are lost


def levels(bits: int) -> int:
    """K = 2^B.

    Raises:
        SettingsError: IntegerMadam has no such levels.
    """
    least, most = BITS
    if type(bits) is not int or not least <= bits <= most:
        raise SettingsError(f"bits={bits}: must be an integer in {least}..{most}")
    return 1 << bits


def bits_of(count: int) -> int:
    """B of so many levels: the inverse of :func:`levels`.

    Raises:
        SettingsError: these are not the levels of whole bits, or IntegerMadam has no such levels.
    """
    allowed = [levels(bits) for bits in range(BITS[0], BITS[1] + 1)]
    if count not in allowed:
        raise SettingsError(f"optimizer.levels={count}: must be a power of two in {allowed[0]}..{allowed[-1]}")
    return BITS[0] + allowed.index(count)


def base_lr(strategy: Strategy, bits: int) -> float:
    """b of this strategy, in nats.

    Raises:
        SettingsError: as :func:`levels`.
    """
    count = levels(bits)
    return RANGE / count if strategy is Strategy.RANGE else PRECISION


def strategies(count: int, b: float) -> tuple[Strategy, ...]:
    """Of which strategies these levels with this ``base_lr`` are: of one, at 12 bits of both, else of none.

    Raises:
        SettingsError: as :func:`bits_of`.
    """
    bits = bits_of(count)
    return tuple(strategy for strategy in Strategy if math.isclose(b, base_lr(strategy, bits), rel_tol=1e-9))


def check_runs(runs: "Iterable[Settings]") -> None:
    """That levels and ``base_lr`` of each run of B-bit Madam do not contradict both strategies.

    The published settings, whose magnitudes are drawn anew, follow neither, and are not looked at.

    Raises:
        SettingsError: they do; or as :func:`bits_of`.
    """
    for settings in runs:
        if settings.optimizer is None or settings.optimizer.name != "integer_madam":
            continue
        own = settings.optimizer.hyperparameters
        count, b = own["levels"], own["base_lr"]
        if own["init"] == "quantize" and not strategies(count, b):
            needed = " or ".join(f"{base_lr(one, bits_of(count)):g} ({one})" for one in Strategy)
            raise SettingsError(f"optimizer.base_lr={b:g} with optimizer.levels={count}: must be {needed}")


# --- bytes of a weight -----------------------------------------------------------------------------------------------


def packed_bytes(bits: int) -> float:
    """Of sign and level packed, B + 1 bits: what a file of ``reltrust.optim.lns.save`` takes, and what hardware made
    for this number system would hold. One w_max for each tensor comes to them."""
    return (bits + 1) / 8


def training_bytes(bits: int) -> int:
    """What ``reltrust.optim.IntegerMadam`` really holds on today's hardware: the FP32 weight that the level means, the
    root of the mean square gradient (FP32), and the level in the smallest integer dtype that has room for it."""
    return FP32 + FP32 + (1 if bits <= 8 else 2)


# The same of others: weight and state.
TRAINING_BYTES = {"sgd": FP32, "sgd_momentum": 2 * FP32, "madam": 2 * FP32, "adam": 3 * FP32}
