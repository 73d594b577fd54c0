"""``make gpu-check``: one line without a GPU, and commands that are right where there is one."""

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hydra_plugins.reltrust_plugins.scripting import settings_of_sweep
from reltrust.sweeps.plan import plan
from runs import ROOT

Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line_and_writes_nothing(script: Script) -> None:
    answer = script("gpu_check")
    assert answer.returncode == 0
    assert (
        answer.stdout == "no GPU that torch can use here, nothing was checked: docs/gpu.md lists what waits for one\n"
    )
    assert not (ROOT / "benchmarks" / "gpu").exists()


def test_its_commands_are_of_runs_and_scripts_that_there_are(script: Script, tmp_path: Path) -> None:
    lines = script("gpu_check", "--list").stdout.splitlines()
    commands = [shlex.split(line.partition(": python ")[2] or line.rpartition(": python ")[2]) for line in lines]
    assert len(commands) >= 10
    for words in commands:
        if words[:2] == ["-m", "reltrust"]:
            found = [word.replace("RESULTS", str(tmp_path)) for word in words[2:]]
            assert plan(settings_of_sweep(found))
        elif words[0] != "-m":
            assert (ROOT / words[0]).exists()


def test_tests_that_need_a_gpu_bear_its_mark() -> None:
    """Those alone are what it runs."""
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if "@pytest.mark.gpu" in path.read_text()]
    assert {path.name for path in marked} >= {"test_triton_kernels.py", "test_packed.py", "test_language_model.py"}
    for path in (ROOT / "tests").rglob("test_*.py"):
        assert not re.search(r"skipif\(not torch\.cuda", path.read_text()) or path == Path(__file__), path
