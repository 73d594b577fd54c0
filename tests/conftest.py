"""What several tests use: settings as the command line would resolve them, and the command line itself."""

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
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


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., "subprocess.CompletedProcess[str]"]]:
    """As ``reltrust``, but in this process, which has imported everything already."""
    from reltrust import __main__ as command_line

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # what main() sets is taken back

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["reltrust", *words])
        capsys.readouterr()
        code: Any = 0
        try:
            command_line.main()
        except SystemExit as leaving:
            code = leaving.code or 0
        told = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, told.out, told.err)

    yield call
    signal.set_wakeup_fd(-1)


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """``python scripts/<name>.py`` with these words, but in this process."""

    def call(name: str, *words: str) -> "subprocess.CompletedProcess[str]":
        path = ROOT / "scripts" / f"{name}.py"
        monkeypatch.syspath_prepend(str(path.parent))
        monkeypatch.setattr(sys, "argv", [str(path), *words])
        capsys.readouterr()
        code: Any = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as leaving:
            code = leaving.code or 0
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
        told = capsys.readouterr()
        return subprocess.CompletedProcess(words, int(code), told.out, told.err)

    return call
