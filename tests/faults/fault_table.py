"""The table of faults: what was done how often, and what of a sweep was then not as in an undisturbed one."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep_processes import measured, records

# How many of each: in `make test`, in `make faults`, and with FULL=1.
FORMS = {"short": (6, 1), "usual": (40, 5), "full": (100, 30)}
FORM = os.environ.get("FAULTS", "short")


@dataclass
class Fault:
    """A row of the table: what was done how often, and what of the sweep was not as in an undisturbed one."""

    fault: str
    tries: int = 0
    lost: int = 0  # runs without a result
    twice: int = 0  # runs or rows of metrics or tables that are there twice
    different: int = 0  # runs whose metrics or final weights are not those of the undisturbed sweep
    left_behind: int = 0  # processes
    note: str = ""

    def compare(self, folder: Path, reference: Path, tolerance: float = 0.0) -> None:
        """Adds what is wrong with a sweep that was brought to its end."""
        ours, theirs = measured(folder), measured(reference)
        ended = {record.path.name for record in records(folder) if record.status and record.status.is_result}
        self.lost += len(theirs.keys() - ended)
        self.twice += len(ours.keys() - theirs.keys())
        self.twice += sum(len({row["step"] for row in rows}) < len(rows) for rows in ours.values())
        for table in folder.glob("results/summaries/*[!s].csv"):
            self.twice += max(0, table.read_text().count("\n") - 1 - len(theirs))
        for name in theirs.keys() & ours.keys():
            self.different += not _equal(ours[name], theirs[name], tolerance)
            (here,), (there,) = (list(path.glob(f"results/runs/*/*/{name}")) for path in (folder, reference))
            weights = [(one / "weights.safetensors") for one in (here, there)]
            if not tolerance and weights[1].exists():
                self.different += not weights[0].exists() or weights[0].read_bytes() != weights[1].read_bytes()

    def check(self) -> None:
        assert (self.lost, self.twice, self.different, self.left_behind) == (0, 0, 0, 0), self


def _equal(ours: Any, theirs: Any, tolerance: float) -> bool:
    if not tolerance:
        return bool(ours == theirs)
    pairs = zip(ours, theirs, strict=True) if len(ours) == len(theirs) else [({}, {"step": 0})]
    return all(mine.keys() == other.keys() and all(abs(mine[key] - other[key]) <= tolerance for key in other)
               for mine, other in pairs)  # fmt: skip
