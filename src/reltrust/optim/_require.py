"""The one form in which an argument is refused."""

from typing import Any


def require(argument: str, value: Any, holds: bool, allowed: str) -> None:
    """Raises a ValueError that names the argument, its value and the allowed range, unless ``holds``."""
    if not holds:
        raise ValueError(f"{argument}={value!r} is not allowed: {allowed}")
