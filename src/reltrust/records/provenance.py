"""Where a result comes from: code, versions, hardware, command, times."""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

JOB = "RELTRUST_JOB"  # the variable of the environment that names a job where the engine itself sets none
_CODE = (":(top)*.py", ":(top)*.yaml", ":(top,exclude)results")
_PACKAGES = ("reltrust", "torch", "torchvision", "numpy", "scikit-learn", "mlxtend", "hydra-core", "wandb")


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def attempt(device: str) -> dict[str, Any]:
    """What is known when a run starts or resumes on ``device``."""
    # The command as typed; the path of this machine to the program is left out.
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else ""
    if program == "__main__.py":
        program = f"python -m {Path(sys.argv[0]).parent.name}"
    command = " ".join([program, *map(shlex.quote, sys.argv[1:])])
    found = {"started": now(), "ended": None, "command": command, "job": job()}
    return found | {"code": code(), "versions": versions(), "hardware": hardware(device)}


def job() -> str | None:
    """The job of a cluster that this process belongs to, as ``slurm 17_3`` or ``ray 0100``; None outside of one."""
    if (named := os.environ.get(JOB)) is not None:
        return named
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    number = os.environ.get("SLURM_JOB_ID") if task is None else f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
    return number and f"slurm {number}"


@cache
def code() -> dict[str, Any]:
    """The git commit of this checkout, whether files differ from it, and the SHA-256 of the difference.

    Of files that the commit does not know those of code and configs count. Outside a checkout all are None; the last is
    None too where nothing differs.
    """
    here = Path(__file__).parent

    def git(*words: str) -> bytes:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, check=True).stdout.strip()

    try:
        # Results are not code: records that a sweep has just written do not make the checkout dirty.
        changed = git("diff", "--no-ext-diff", "--binary", "HEAD", "--", ":/", ":(top,exclude)results")
        root = Path(git("rev-parse", "--show-toplevel").decode())
        new = git("ls-files", "-z", "--others", "--exclude-standard", "--full-name", "--", *_CODE)
        for name in new.decode().split("\0"):
            changed += name.encode() + (root / name).read_bytes() if name else b""
        digest = hashlib.sha256(changed).hexdigest() if changed else None
        return {"commit": git("rev-parse", "HEAD").decode(), "dirty": bool(changed), "diff": digest}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None, "diff": None}


@cache
def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def hardware(device: str) -> dict[str, Any]:
    import torch

    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    found: dict[str, Any] = {"platform": platform.platform(), "cpu": cpu, "cores": cores(), "device": device}
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found


def cores() -> int:
    """How many cores this process may use: of those it is bound to, what its container is granted."""
    from joblib import cpu_count  # half a second, only where it is asked

    return int(cpu_count())
