"""Tests that start clusters and wait for them: ``make test-clusters``."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sweep_processes import LONG, answer


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two long runs that nobody has disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert answer(folder, "-m", *LONG, "seed=0,1", "launcher=processes", "launcher.workers=1").returncode == 0
    return folder
