"""What ``torch.compile`` has to be told for its kernels to be right in every process that finds them."""

import platform
from typing import Any

import torch


def compiler_options() -> dict[str, Any]:
    """The length of this process's vectors, for ``torch.compile``.

    The compiler takes it from the processor (or from ATEN_CPU_CAPABILITY), but what it has compiled is found on disk
    again by other processes whatever theirs is: code that counts in vectors of 16 numbers, built for vectors of 8,
    leaves half of the weights unmoved. What is among the options is part of the key.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return {}
    return {"cpp.simdlen": {"AVX512": 512, "AVX2": 256}.get(torch.backends.cpu.get_cpu_capability(), 1)}
