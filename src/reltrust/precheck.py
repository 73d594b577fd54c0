"""What this machine refuses, as far as it can be known without importing torch, which takes seconds."""

import ctypes
import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate

from reltrust.errors import SettingsError
from reltrust.records.store import check_writable
from reltrust.settings import Settings

# What gives a module names that its text does not show.
_DYNAMIC = re.compile(r"import \*|__getattr__|__path__|globals|setattr|sys\.modules|exec\(|vars\(")


def precheck(runs: Iterable[Settings], *, here: bool = True) -> None:
    """Refuses what one of the runs would be refused for on this machine; what is not certain is left to the run.

    Args:
        here: False for runs that another machine computes, with other cores and devices.

    Raises:
        SettingsError: results cannot be kept there, there are fewer cores than threads, no CUDA driver, no such module.
    """
    different = {repr((s.optimizer, s.machine)): s for s in runs}.values()
    for settings in different:
        check_writable(settings.machine.results)
        threads, cores, device = settings.machine.threads, os.cpu_count() or 1, settings.machine.device
        if here and threads is not None and threads > cores:
            raise SettingsError(f"machine.threads={threads}: must be at most {cores}, the cores of this machine")
        if here and device.startswith("cuda") and not _may_have_cuda():
            raise SettingsError(f"machine.device={device!r}: not present on this machine; auto takes what there is")
        if settings.optimizer is not None:
            chosen = {"optimizer": settings.optimizer}
            chosen |= {f"optimizer.players.{name}": one for name, one in settings.optimizer.players.items()}
            for key, optimizer in chosen.items():
                if reason := _obviously_absent(optimizer.target):
                    raise SettingsError(f"{key}.target={optimizer.target!r}: {reason}")
                if optimizer.rest is not None and (reason := _obviously_absent(optimizer.rest.target)):
                    raise SettingsError(f"{key}.rest.target={optimizer.rest.target!r}: {reason}")


def _may_have_cuda() -> bool:
    """False if torch's CUDA devices need NVIDIA's driver, and it is not there."""
    try:
        if sys.platform != "linux" or "rocm" in version("torch"):
            return True
        ctypes.CDLL("libcuda.so.1")
    except (OSError, PackageNotFoundError):
        return False
    return True


def _obviously_absent(target: str) -> str | None:
    """Why there is no such thing as ``target``; None if there may be."""
    module, _, name = target.rpartition(".")
    if module in sys.modules:
        return None  # to look there costs nothing
    spec: ModuleSpec | None = None
    for path in accumulate(module.split("."), "{}.{}".format):
        parent = spec
        if parent is None:
            spec = importlib.util.find_spec(path)
        else:
            spec = PathFinder.find_spec(path, parent.submodule_search_locations or [])
        if spec is None:
            return None if parent and _is_dynamic(_source(parent)) else f"there is no module {path}"
    text = _source(spec) if spec else None
    return None if _is_dynamic(text) or re.search(rf"\b{name}\b", text or "") else f"module {module} has no {name}"


def _is_dynamic(source: str | None) -> bool:
    """Whether the text of a module, None if it has none, does not tell which names it has."""
    return source is None or _DYNAMIC.search(source) is not None


def _source(spec: ModuleSpec) -> str | None:
    if spec.loader is None:  # a folder without __init__.py
        return ""
    try:
        return spec.loader.get_source(spec.name) if isinstance(spec.loader, InspectLoader) else None
    except ImportError:  # it cannot be read as text
        return None
