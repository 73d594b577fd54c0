"""Faults, done to real processes, and a table of what they did: ``make faults``, and ``FULL=1 make faults``."""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fault_sweep import SWEEP
from fault_table import FORM, FORMS, Fault

from sweep_processes import answer


@pytest.fixture
def fault(record_property: Callable[[str, Any], None]) -> Callable[[str], Fault]:
    """A new row of the table."""

    def begin(name: str) -> Fault:
        row = Fault(name)
        record_property("fault", vars(row))  # as it will be when the test has ended
        return row

    return begin


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
    folder = tmp_path_factory.mktemp("undisturbed")
    done = answer(folder, *SWEEP, "launcher=serial")
    assert done.returncode == 0, done.stderr
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that at the end no process waits for another."""
    order = {"test_settings.py": 0, "test_processes.py": 1}
    items.sort(key=lambda item: order.get(item.path.name, 2))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, ())]
    rows = [value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "fault"]
    if not rows:
        return
    terminalreporter.section(f"faults ({FORM} form)")
    cells = [list(rows[0])] + [[str(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = [row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]
        terminalreporter.write_line("  ".join(line).rstrip().replace("_", " "))
