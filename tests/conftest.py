"""What several tests use: settings as the command line would resolve them, and the command line itself."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from reltrust.settings import Settings, parse

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tests run beside each other; more threads than cores make small networks slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings at smoke scale on the CPU, nobody watching, results in a temporary folder, changed by overrides."""

    def resolve(*overrides: str) -> Settings:
        fixed = ["scale=smoke", "tracking=none", "machine.progress=false", "machine.device=cpu"]
        fixed.append(f"machine.results={tmp_path / 'results'}")
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            return parse(OmegaConf.to_container(compose("run", overrides=[*fixed, *overrides]), resolve=True))

    return resolve


@pytest.fixture
def reltrust(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """``python -m reltrust`` with these words, in an empty folder; its results go to ``results`` there."""

    def call(*words: str, timeout: float = 300, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "reltrust", *words],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return call
