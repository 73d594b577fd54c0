"""What generated images are compared with: features of genuine ones, computed once and kept on disk."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reltrust.metrics.features import FeatureNetwork
from reltrust.metrics.frechet import Moments


def batch_size(device: torch.device) -> int:
    """How many images at once: on a CPU as many as its caches hold the activations of."""
    return 50 if device.type == "cpu" else 250


@dataclass(frozen=True)
class FeatureSet:
    """Features of images, (n, dims), and their moments."""

    features: Tensor
    moments: Moments


def features_of(batches: Iterable[Tensor], network: FeatureNetwork) -> FeatureSet:
    """Of batches of uint8 images (n, 3, height, width), on the network's device."""
    rows, moments = [], None
    for images in batches:
        rows.append(network(images))
        moments = moments or Moments(network.dims, rows[0].device)
        moments.update(rows[-1])
    if moments is None:
        raise ValueError("no images")
    return FeatureSet(torch.cat(rows), moments)


def reference(images: Tensor, network: FeatureNetwork, folder: str | Path) -> FeatureSet:
    """Features of the genuine images, from ``folder`` if they were kept there for these images and this network."""
    content = hashlib.sha256(network.sha256.encode() + images.cpu().contiguous().numpy().tobytes()).hexdigest()
    path = Path(folder, "features", f"{network.name}-{content[:16]}.npy")
    if path.exists():
        try:
            rows = torch.from_numpy(np.load(path)).to(images.device)
        except (OSError, ValueError, EOFError):  # damaged: made anew
            rows = torch.empty(0)
        if rows.shape == (len(images), network.dims):
            return FeatureSet(rows, _moments(rows))
    found = features_of(images.split(batch_size(images.device)), network)
    path.parent.mkdir(parents=True, exist_ok=True)
    scrap = path.with_name(f".{path.stem}-{os.getpid()}.npy")
    np.save(scrap, found.features.cpu().numpy())
    scrap.replace(path)
    return found


def _moments(rows: Tensor) -> Moments:
    moments = Moments(rows.shape[1], rows.device)
    for part in rows.split(batch_size(rows.device)):
        moments.update(part)
    return moments
