"""What is recorded today keeps its ids and its numbers, whatever is moved."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from reltrust.records.identity import comparison_id, run_directory, run_id
from reltrust.settings import Settings
from runs import ROOT

Resolve = Callable[..., Settings]
IDS = {  # by scale: of the default run, and of what it may be compared with
    "smoke": (
        "b3c3659d022f376650904ece6b478093573017a10093fbd36f0bf79cc7d8ab93",
        "f7bfb7e1602bf1c401ef125ec810a6d58be4e7c2e63f95dd77ceecc58dd99ecd",
    ),
    "quick": (
        "0f0800684d459e5c16103aa4000c7bb2a64dd9192d68f191f15e3c1594fa26af",
        "b6def528a0c86204c7861a0fa8bf79a729f7d59f7bf4d3d155e1427df169d4e5",
    ),
    "paper": (
        "133368879ffe012f2a546d9bc58410b06c2c35e32f77aac25fba9fa60d60b396",
        "d740ab300b8f98f036b4b007ead2332bb9f058a4199ed6502f7052d0cfcb43f9",
    ),
}


@pytest.mark.parametrize("scale", IDS)
def test_the_run_of_a_scale_keeps_its_id(settings: Resolve, scale: str) -> None:
    chosen = settings(f"scale={scale}")
    assert (run_id(chosen), comparison_id(chosen)) == IDS[scale]


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Of the committed runs: a reader's own may have replaced those in the working tree."""
    path = tmp_path_factory.mktemp("committed") / "mlp_depth.csv"
    shown = ["git", "show", "HEAD:results/summaries/mlp_depth.csv"]
    path.write_bytes(subprocess.run(shown, cwd=ROOT, capture_output=True, check=True).stdout)
    table = pd.read_csv(path, dtype=str)
    return table[table["comparison"] == "b6def528"]


def test_the_committed_numbers_of_the_quick_scale_are_those_that_were_measured(committed: pd.DataFrame) -> None:
    columns = ["run", "status", "steps", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "diverged_at"]
    text = committed[columns].sort_values("run").to_csv(index=False)
    assert len(committed) == 216
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "0e008507bf2c321d"


def test_a_run_that_was_recorded_is_found_under_the_same_directory(settings: Resolve, committed: pd.DataFrame) -> None:
    for row in committed.iloc[::12].to_dict("records"):
        chosen = settings(
            "scale=quick",
            f"optimizer={row['optimizer']}",
            f"optimizer.lr={row['lr']}",
            f"task.hidden_layers={row['hidden_layers']}",
            f"seed={row['seed']}",
        )
        assert run_directory(chosen) == Path("mlp_depth", row["run"])
