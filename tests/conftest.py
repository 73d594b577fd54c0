"""What several tests use: settings as the command line would resolve them, and the command line itself."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import command_lines
from reltrust.settings import Settings
from runs import ROOT, settings_of

Answer = "subprocess.CompletedProcess[str]"
modules = 0  # that the garbage collector has been spared

# Where it is set, each of the processes that tests start would compile torch from its source, for 6 seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tests run beside each other; more threads than cores make small networks slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _modules_are_no_garbage() -> None:
    """Spares the collector what has been imported: each pack calls it several times, and it looked for 0.2 seconds."""
    global modules
    if len(sys.modules) > modules + 100:
        gc.collect()
        gc.freeze()
        modules = len(sys.modules)


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings at smoke scale on the CPU, nobody watching, results in a temporary folder, changed by overrides."""

    def resolve(*overrides: str) -> Settings:
        fixed = ["scale=smoke", "tracking=none", "machine.progress=false", "machine.device=cpu"]
        return settings_of(*fixed, f"machine.results={tmp_path / 'results'}", *overrides)

    return resolve


@pytest.fixture
def reltrust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """What ``python -m reltrust`` answers to these words in an empty folder, within this process, which has torch.

    Its results go to ``results`` there. Warnings that it logs are in no stream: pytest's ``caplog`` has them.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # what the command sets is taken back

    def call(*words: str) -> Answer:
        GlobalHydra.instance().clear()
        return command_lines.answer(["-m", "reltrust", *words])

    return call


@pytest.fixture
def reltrust_process(tmp_path: Path) -> Callable[..., Answer]:
    """``python -m reltrust`` with these words, in an empty folder: a process, which takes seconds to start."""

    def call(*words: str) -> Answer:
        return subprocess.run(
            [sys.executable, "-m", "reltrust", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return call


@pytest.fixture
def script() -> Callable[..., Answer]:
    """``python scripts/<name>.py`` with these words, but in this process."""

    def call(name: str, *words: str) -> Answer:
        return command_lines.answer([str(ROOT / "scripts" / f"{name}.py"), *words])

    return call
