"""The exit status of ``python -m reltrust``: 0 all have a result, 1 failed, 2 refused, 3 not all done, 128 + signal."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hydra_plugins.reltrust_plugins.grid_sweeper import report
from reltrust import build, precheck
from reltrust import run as life
from reltrust.errors import BusyError, SettingsError, SweepError
from reltrust.records.store import Status, Store
from reltrust.settings import Settings
from reltrust.sweeps.plan import PlannedRun, plan
from reltrust.training.stopping import StopRequest
from runs import ROOT, begun

Call = Callable[..., "subprocess.CompletedProcess[str]"]
Resolve = Callable[..., Settings]
QUIET = ("scale=smoke", "tracking=none", "training.steps=30", "training.evaluate_every=30", "machine.device=cpu")


def test_a_run_that_somebody_else_works_on_is_neither_a_failure_nor_a_wrong_setting(
    reltrust: Call, settings: Resolve
) -> None:
    record = begun(settings(*QUIET))
    answer = reltrust(*QUIET)
    assert answer.returncode == 3
    assert (
        answer.stderr
        == f"not all done: {record.path.relative_to(Path.cwd())}: another process is working on this run\n"
    )
    record.preempted()
    assert reltrust(*QUIET).returncode == 0
    assert reltrust(*QUIET).returncode == 0


@pytest.mark.parametrize("launcher", ["serial", "packed", "processes"])
def test_a_sweep_does_its_part_and_says_that_somebody_else_works_on_the_rest(
    reltrust: Call, settings: Resolve, launcher: str
) -> None:
    record = begun(settings(*QUIET, "seed=1", "machine.threads=1"))
    words = ("-m", *QUIET, "seed=0,1,2", f"launcher={launcher}")
    words += () if launcher == "serial" else ("launcher.workers=1",)
    answer = reltrust(*words)
    assert answer.returncode == 3
    assert "not all done: another process is working on 1 of 3 runs:" in answer.stderr
    assert "failed" not in answer.stderr
    assert [one.status for one in Store("results").records()].count(Status.FINISHED) == 2
    record.end(Status.FINISHED, {})
    assert reltrust(*words).returncode == 0


def test_a_run_that_another_process_takes_or_ends_in_the_meantime_is_counted_as_what_it_is_in_the_end(
    settings: Resolve,
) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(3)]
    busy = begun(chosen[0])
    runs = plan(chosen)
    taken = begun(chosen[1])
    runs[2].record.begin(chosen[2], "cpu")
    runs[2].record.end(Status.FINISHED, {})
    outcomes = [BusyError("another process"), Status.FINISHED]
    with pytest.raises(BusyError, match="working on 2 of 3 runs"):
        report(runs, outcomes)
    busy.end(Status.DIVERGED, {})
    with pytest.raises(BusyError, match="working on 1 of 3 runs") as caught:
        report(runs, outcomes)
    assert str(taken.path) in str(caught.value)
    taken.end(Status.FINISHED, {})
    report(runs, outcomes)


def test_a_failure_is_told_before_what_somebody_else_works_on(settings: Resolve) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(3)]
    records = [begun(one) for one in chosen[:2]]
    runs = plan(chosen)
    records[1].failed(OSError("elsewhere"))
    with pytest.raises(SweepError) as caught:
        report(runs, [ZeroDivisionError("here")])
    assert str(caught.value).startswith("2 of 3 runs failed:")
    assert "OSError: elsewhere" in str(caught.value)
    assert "ZeroDivisionError: here" in str(caught.value)
    assert "working on 1 of 3 runs" in str(caught.value)
    records[0].preempted()


@pytest.mark.parametrize("launcher", ["serial", "packed", "processes"])
def test_a_failed_run_of_a_sweep_is_1_a_refused_one_2_and_a_diverged_one_0(
    reltrust: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    words = ("-m", *QUIET, "optimizer=sgd", "seed=0,1", f"launcher={launcher}")
    words += () if launcher == "serial" else ("launcher.workers=1",)

    def broken(*_: object) -> None:
        raise SettingsError("what only the task could know")

    with monkeypatch.context() as patch:
        patch.setattr(build, "program", broken)
        refused = reltrust(*words)
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (2, "error: what only the task could know")
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(build, "optimizer", lambda *_: 1 / 0)
        patch.setattr(build, "check", lambda *_, **__: None)
        failed = reltrust(*words)
    assert failed.returncode == 1
    assert "2 of 2 runs failed" in failed.stderr
    assert reltrust(*words, "optimizer.lr=1.0e30").returncode == 0
    assert {one.status for one in Store("results").records()} == {Status.DIVERGED}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_a_signal_ended_says_which(
    reltrust: Call, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Ctrl-C was told from SIGTERM only where it left no checkpoint."""

    def interrupted(_: PlannedRun) -> Status:
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
            while not stop.requested:
                pass
        return Status.PREEMPTED

    monkeypatch.setattr(life, "run", interrupted)
    answer = reltrust(*QUIET)
    assert answer.returncode == 128 + number
    assert answer.stderr.startswith("interrupted: ")


# --- where it runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [["hydra.run.dir=out"], ["-m", "hydra.sweep.dir=out", "hydra.sweep.subdir=one"]])
def test_a_run_in_a_folder_of_its_own_keeps_its_record_where_the_command_began(
    reltrust: Call, tmp_path: Path, mode: list[str]
) -> None:
    """With hydra.job.chdir the results moved, and finished runs started again."""
    assert reltrust(*mode, *QUIET, "hydra.job.chdir=true").returncode == 0
    assert [path.name for path in tmp_path.glob("results/runs/*/*/*/summary.json")] == ["summary.json"]
    assert list((tmp_path / "out").rglob("*.json")) == []
    assert "1 finished" in reltrust(*QUIET, "dry_run=true").stdout
    assert "1 finished" in reltrust(*QUIET, "dry_run=true", "hydra.job.chdir=true", "hydra.run.dir=out").stdout


def test_a_launcher_that_refuses_its_settings_is_an_error_line(reltrust: Call, tmp_path: Path) -> None:
    answer = reltrust("-m", *QUIET, "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0")
    assert answer.returncode == 2
    assert "error: hydra.launcher.n_jobs=0: n_jobs == 0" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert list(tmp_path.glob("results/**")) == []


def test_a_function_that_makes_an_optimizer_is_not_packed_and_trains(
    reltrust: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "factory.py").write_text(
        "import torch\n\n\ndef make(params, lr) -> torch.optim.Optimizer:\n    return torch.optim.SGD(params, lr=lr)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ("optimizer=signsgd", "optimizer.name=made", "optimizer.target=factory.make", "seed=0,1")
    answer = reltrust("-m", *QUIET, *words, "launcher=packed", "launcher.workers=1")
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr


# --- what is refused early -------------------------------------------------------------------------------------------


def test_a_missing_package_is_named_with_what_installs_it(tmp_path: Path) -> None:
    code = "import sys, runpy; sys.modules['hydra'] = None; runpy.run_module('reltrust', run_name='__main__')"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.returncode == 2
    assert (
        answer.stderr == 'error: the package hydra is missing: pip install ".[experiments]" in a checkout of reltrust\n'
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("machine.results=file", "machine.results='file': "),
        ("machine.threads=100000", "machine.threads=100000: must be at most"),
        ("machine.device=cuda", "machine.device='cuda': not present"),
        ("optimizer.target=torch.optim.Nothing", "optimizer.target='torch.optim.Nothing': module torch.optim has no"),
        ("optimizer.target=nobody.Mine", "optimizer.target='nobody.Mine': there is no module nobody"),
        (
            "+optimizer.players.model.target=nobody.Mine",
            "optimizer.players.model.target='nobody.Mine': there is no module nobody",
        ),
    ],
)
def test_what_needs_no_torch_is_refused_before_it_is_imported(
    settings: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(precheck.ctypes, "CDLL", lambda _: (_ for _ in ()).throw(OSError("no driver")))
    with pytest.raises(SettingsError) as caught:
        precheck.precheck([settings(words)])
    assert str(caught.value).startswith(message)
    assert "torch" not in sys.modules


@pytest.mark.parametrize(
    "target", ["torch.optim.SGD", "reltrust.optim.Madam", "dynamic.Mine", "starred.Mine", "package.inner.Mine"]
)
def test_an_optimizer_that_may_be_there_is_left_to_the_run(
    settings: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    (tmp_path / "dynamic.py").write_text("def __getattr__(name):\n    return object\n")
    (tmp_path / "starred.py").write_text("from elsewhere import *\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("__path__.append('elsewhere')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "reltrust.optim", raising=False)
    precheck.precheck([settings(f"optimizer.target={target}")])


# --- make ------------------------------------------------------------------------------------------------------------


def test_make_hands_on_a_folder_with_spaces_whole(tmp_path: Path) -> None:
    python = tmp_path / "a folder" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "<%s>" "$@"\necho\nexit ${STATUS:-0}\n')
    python.chmod(0o755)
    results = tmp_path / "my (own) results"
    results.mkdir()

    def told(target: str, *words: str, status: int = 0) -> list[str]:
        command = ["make", "--no-print-directory", "-o", "setup", target, f"PY={python}", f"RESULTS={results}", *words]
        environment = {**os.environ, "STATUS": str(status)}
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment).stdout.splitlines()

    run, drawn = told("reproduce-mlp-depth", "ARGS=seed=5 task.width=8", status=3)
    assert f"<scale=quick><launcher=packed><machine.results='{results}'><seed=5><task.width=8>" in run
    assert f"<--results><{results}><--scale><quick>" in drawn
    assert len(told("reproduce-mlp-depth", status=2)) == 1  # refused: there is nothing to draw
    assert f"<--results><{results}>" in told("status")[0]
    assert f'--results "{results}"' in "\n".join(told("figures", "-n"))
