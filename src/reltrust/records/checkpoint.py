"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

import io
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from reltrust.errors import first_line
from reltrust.records.files import write_atomically


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

    Raises:
        StateError: as :func:`check_loadable`.
    """
    check_loadable(state)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    kind, keys, *rest = np.random.get_state()  # in numbers and tensors, which are all that is loaded
    generators = {"cpu": torch.get_rng_state(), "cuda": cuda, "python": random.getstate()}
    content = {
        "state": state,
        "rng": generators | {"numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest)},
    }
    write_atomically(path, lambda file: torch.save(content, file))


def load(path: Path) -> dict[str, Any] | None:
    """The state that ``save`` was given, its tensors on the CPU; None if there is none. Restores the generators."""
    if not path.exists():
        return None
    content = torch.load(path, map_location="cpu", weights_only=True)
    torch.set_rng_state(content["rng"]["cpu"])
    if "python" in content["rng"]:  # checkpoints from before these were kept go on too
        random.setstate(content["rng"]["python"])
        kind, keys, *rest = content["rng"]["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    if content["rng"]["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["rng"]["cuda"])
    return dict(content["state"])


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes a module's state dict as safetensors, which any tool reads; a tied weight is there under all its names."""
    from safetensors.torch import save as to_bytes  # only for those who keep weights

    apart = {key: value.detach().cpu().clone().contiguous() for key, value in weights.items()}
    write_atomically(path, lambda file: file.write(to_bytes(apart)))


def step(path: Path) -> int:
    """The step that the checkpoint was written at; 0 if there is none."""
    if not path.exists():
        return 0
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state"]["step"])
