"""Faults, done to real processes, and a table of what they did: ``make faults``; ``FULL=1 make faults`` for many more."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sweep_processes import answer, measured, records

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


@pytest.fixture
def fault(record_property: Callable[[str, Any], None]) -> Iterator[Callable[[str], Fault]]:
    """A new row of the table."""
    rows: list[Fault] = []

    def begin(name: str) -> Fault:
        rows.append(Fault(name))
        return rows[-1]

    yield begin
    for row in rows:
        record_property("fault", asdict(row))


@pytest.fixture(scope="session")
def kills() -> int:
    return FORMS[FORM][0]


@pytest.fixture(scope="session")
def signals() -> int:
    return FORMS[FORM][1]


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Other moments at each call; ``FAULTS_SEED`` brings those of an earlier one back."""
    return random.Random(f"{os.environ.get('FAULTS_SEED', os.urandom(4).hex())} {request.node.name}")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that nobody has disturbed."""
    from sweep import SWEEP

    folder = tmp_path_factory.mktemp("undisturbed")
    done = answer(folder, *SWEEP, "launcher=serial")
    assert done.returncode == 0, done.stderr
    return folder


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        for name, value in getattr(report, "user_properties", ())
        if (name == "fault" and getattr(report, "when", "") == "teardown") or name == "fault"
    ]
    if not rows:
        return
    terminalreporter.section(f"faults ({FORM} form)")
    cells = [list(rows[0])] + [[str(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = [row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]
        terminalreporter.write_line("  ".join(line).rstrip().replace("_", " "))
