"""The networks whose features images are compared by, by name: what is known of them without loading them."""

from typing import Literal

Features = Literal["efficientnet_lite0", "inception"]

DIMS: dict[str, int] = {"efficientnet_lite0": 1_280, "inception": 2_048}


def distance_name(features: str) -> str:
    """What a Frechet distance of this network's features is called: only that of Inception's is FID."""
    return "FID" if features == "inception" else f"FD ({features})"
