"""Data sets as tensors on the device, and the order in which a run draws from them."""

import importlib
from pathlib import Path
from typing import Any

from reltrust.data.sizes import RGB_EXAMPLES, TOKENS


def load(name: str, root: str | Path) -> Any:
    """The data set ``name`` (a name of configs/data), of whatever kind it is; downloads are kept below ``root``.

    Raises:
        DataError: it is neither there nor to be had, or is damaged.
    """
    kind = "text" if name in TOKENS else "rgb" if name in RGB_EXAMPLES else "images"
    return importlib.import_module(f"reltrust.data.{kind}").load(name, root)
