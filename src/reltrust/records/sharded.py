"""Tensors of a checkpoint that several processes hold shares of: ``checkpoint-<step>-<n>.shards``.

Each process writes its own share, by :mod:`torch.distributed.checkpoint`, whose tools read the folder too; nobody
holds a whole tensor to write it. Reading needs no other process, and gives whole tensors.
"""

import itertools
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_unflatten

from reltrust.errors import DamagedError, first_line
from reltrust.optim.shards import is_sharded
from reltrust.records.files import sha256, shards_of, writing

_NOTHING = torch.empty(0)


def taken_out(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state with empty tensors in the place of shared ones, and these by where they stand."""
    leaves, structure = tree_flatten_with_path(state)
    shared = {keystr(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor) and is_sharded(leaf)}
    if not shared:
        return state, {}
    hollow = [_NOTHING if keystr(path) in shared else leaf for path, leaf in leaves]
    return tree_unflatten(hollow, structure), shared


def write(checkpoint: Path, step: int, shared: dict[str, Tensor]) -> dict[str, Any]:
    """Writes the tensors to a new folder beside the checkpoint, all processes together.

    Returns:
        What the checkpoint has to know of it: the ``folder``'s name, the tensors' ``names``, and, on the first process,
        the SHA-256 of its ``files``.

    Raises:
        RecordError: the system refuses it.
    """
    from torch import distributed
    from torch.distributed.checkpoint.state_dict_saver import save

    free = (f"{checkpoint.stem}-{step}-{n}.shards" for n in itertools.count())
    names = [next(name for name in free if not checkpoint.with_name(name).exists())]
    distributed.broadcast_object_list(names)  # others may look when the first has begun
    folder = checkpoint.with_name(names[0])
    with writing(folder):
        save(dict(shared), checkpoint_id=folder)
    files = _sums(folder) if distributed.get_rank() == 0 else {}
    return {"folder": folder.name, "names": list(shared), "files": files}


def check(checkpoint: Path, beside: dict[str, Any]) -> None:
    """Raises DamagedError if the folder's files are not what was written."""
    folder = checkpoint.with_name(beside["folder"])
    if (found := _sums(folder)) != beside["files"]:
        wrong = sorted(name for name in {*found, *beside["files"]} if found.get(name) != beside["files"].get(name))
        raise DamagedError(f"{folder / wrong[0]}: damaged: its checksum is another, or it is missing")


def put_back(state: dict[str, Any], checkpoint: Path, beside: dict[str, Any]) -> dict[str, Any]:
    """The state with its shared tensors in their places, whole and on the CPU.

    Raises:
        DamagedError: they cannot be read.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    folder = checkpoint.with_name(beside["folder"])
    try:
        known = FileSystemReader(folder).read_metadata().state_dict_metadata
        whole: dict[str, Tensor] = {}
        for name in beside["names"]:
            about = known[name]
            assert isinstance(about, TensorStorageMetadata)
            whole[name] = torch.empty(about.size, dtype=about.properties.dtype)
        load(dict(whole), checkpoint_id=folder, no_dist=True)
    except Exception as error:  # whatever torch's reader raises
        raise DamagedError(f"{folder}: damaged: {first_line(error)}") from None
    leaves, structure = tree_flatten_with_path(state)
    found: dict[str, Any] = tree_unflatten([whole.get(keystr(path), leaf) for path, leaf in leaves], structure)
    return found


def remove_but(checkpoint: Path, kept: Collection[str]) -> None:
    """Removes the folders beside the checkpoint that are not among these."""
    for folder in shards_of(checkpoint):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _sums(folder: Path) -> dict[str, str]:
    sums = {}
    for path in sorted(folder.glob("*")):
        with path.open("rb") as file:
            sums[path.name] = sha256(file, path.stat().st_size)
    return sums
