"""Checkpoints: everything that a run needs to go on as if it had never stopped.

``checkpoint.pt`` lies beside the run's ``metrics.jsonl`` and knows which rows were there when it was written. The one
before it is kept as ``checkpoint.previous.pt``. Tensors of which several processes each hold a share are in a folder
beside it (:mod:`~reltrust.records.sharded`), whose files' checksums it has; ``load`` returns them whole.
"""

import hashlib
import io
import logging
import os
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from reltrust.errors import DamagedError, first_line
from reltrust.optim import lns
from reltrust.records import sharded
from reltrust.records.files import sha256, shards_of, write_atomically

log = logging.getLogger(__name__)

_MARK = b"\nsha256 "  # and the checksum of all before it in 64 digits end a checkpoint; torch's reader looks past them


class StateError(Exception):
    """A state with objects in it that no checkpoint holds."""


def check_loadable(state: dict[str, Any]) -> None:
    """Raises StateError if the state could not be loaded again; its tensors are left out of the trial."""
    hollow = tree_map(lambda leaf: leaf.new_empty(0) if type(leaf) is torch.Tensor else leaf, state)
    file = io.BytesIO()
    try:
        torch.save(hollow, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # whatever pickling and unpickling raise
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise StateError(f"cannot be kept in a checkpoint ({named[1] if named else first_line(error)})") from None


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes the state and the random number generators' states, or leaves the earlier checkpoint as it was.

    Where tensors are shared by several processes this is the first of them; the others call :func:`save_share`.

    Raises:
        StateError: as :func:`check_loadable`.
    """
    state, shared = sharded.taken_out(state)
    check_loadable(state)
    beside = sharded.write(path, state["step"], shared) if shared else None
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    kind, keys, *rest = np.random.get_state()  # in numbers and tensors, which are all that is loaded
    generators = {"cpu": torch.get_rng_state(), "cuda": cuda, "python": random.getstate()}
    size, digest = _rows(path)
    content = {
        "state": state,
        "rng": generators | {"numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest)},
        "rows": {"bytes": size, "sha256": digest},
        **({"shared": beside} if beside else {}),
    }

    def write(file: IO[bytes]) -> None:
        torch.save(content, file)
        size = file.tell()
        file.seek(0)
        digest = sha256(file, size)
        file.write(_MARK + digest.encode())

    write_atomically(path, write, backup=previous(path))
    if shards_of(path):
        kept = [one.get("shared", {}).get("folder") for one in map(_content, (path, previous(path))) if one]
        sharded.remove_but(path, kept)


def save_share(path: Path, state: dict[str, Any]) -> None:
    """What a process that is not the first does when all save: it writes its share of the tensors that have shares.

    Raises:
        StateError: as :func:`check_loadable`.
    """
    state, shared = sharded.taken_out(state)
    check_loadable(state)
    if shared:
        sharded.write(path, state["step"], shared)


def load(path: Path) -> dict[str, Any] | None:
    """The state that ``save`` was given, its tensors on the CPU; None if there is none. Restores the generators.

    A checkpoint that is damaged, or whose rows of metrics are not there, is left out: the one before it is taken, or
    none, and a line says so.
    """
    content, damages = _newest(path)
    if damages:
        place = "the start" if content is None else f"the checkpoint before, of step {content['state'].get('step')}"
        log.warning("%s; going on from %s", damages[0], place)
    if content is None:
        return None
    if beside := content.get("shared"):
        content["state"] = sharded.put_back(content["state"], path, beside)
    torch.set_rng_state(content["rng"]["cpu"])
    if "python" in content["rng"]:  # checkpoints from before these were kept go on too
        random.setstate(content["rng"]["python"])
        kind, keys, *rest = content["rng"]["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    if torch.cuda.is_available():  # perhaps fewer than there were
        for number, state in enumerate(content["rng"]["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, number)
    return dict(content["state"])


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes a module's state dict as safetensors, which any tool reads; a tied weight is there under all its names."""
    from safetensors.torch import save as to_bytes  # only for those who keep weights

    apart = {key: value.detach().cpu().clone().contiguous() for key, value in weights.items()}
    write_atomically(path, lambda file: file.write(to_bytes(apart)))


def save_levels(path: Path, content: bytes, weights: Mapping[str, Tensor]) -> None:
    """Writes an ``lns`` file, once it has been read back to the same weights, to the bit.

    Raises:
        RuntimeError: it means other weights.
    """
    found = lns.from_bytes(content)
    if others := [name for name, weight in weights.items() if not torch.equal(found[name], weight.cpu())]:
        raise RuntimeError(f"{path}: not written: {others[0]} would not be read as it is")
    write_atomically(path, lambda file: file.write(content))


def step(path: Path) -> int:
    """The step of the checkpoint that ``load`` would take; 0 if there is none."""
    content, _ = _newest(path, mmap=True)
    return 0 if content is None else int(content["state"]["step"])


def previous(path: Path) -> Path:
    """Where the checkpoint before lies."""
    return path.with_stem(f"{path.stem}.previous")


def _newest(path: Path, *, mmap: bool = False) -> tuple[dict[str, Any] | None, list[str]]:
    """The content of the last checkpoint that a run can go on from, and what is wrong with those that came after."""
    damages: list[str] = []
    for candidate in (path, previous(path)):
        if candidate.exists():
            try:
                return _read(candidate, mmap), damages
            except DamagedError as error:
                damages.append(str(error))
    return None, damages


def _read(path: Path, mmap: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - len(_MARK) - 64
            file.seek(max(0, size))
            mark, digest = file.read(len(_MARK)), file.read()
            file.seek(0)
            if mark == _MARK and digest != sha256(file, size).encode():
                raise DamagedError(f"{path}: damaged: its checksum is another")
    except OSError as error:
        raise DamagedError(f"{path}: damaged: {error.strerror}") from None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        if mark == _MARK or isinstance(error, MemoryError):
            raise
        raise DamagedError(f"{path}: damaged: {first_line(error)}") from None  # cut off, or from before there were sums
    if beside := content.get("shared"):
        sharded.check(path, beside)
    if (rows := content.get("rows")) and _rows(path, rows["bytes"]) != (rows["bytes"], rows["sha256"]):
        raise DamagedError(f"{path.with_name('metrics.jsonl')}: lacks rows that {path.name} was written after")
    return content


def _content(path: Path) -> dict[str, Any] | None:
    """Of a checkpoint that this process has written; None if there is none, or it cannot be read."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever a damaged one raises: it is read again before a run goes on from it
        return None
    return content


def _rows(path: Path, size: int = -1) -> tuple[int, str]:
    """Size and SHA-256 of the metrics beside the checkpoint, or of their first ``size`` bytes; they are on the disk."""
    rows = b""
    if (metrics := path.with_name("metrics.jsonl")).exists():
        with metrics.open("rb") as file:
            os.fsync(file.fileno())
            rows = file.read(size)
    return len(rows), hashlib.sha256(rows).hexdigest()
