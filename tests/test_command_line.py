"""``python -m reltrust`` as a user meets it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., "subprocess.CompletedProcess[str]"]
QUIET = ("scale=smoke", "tracking=none")
GROUPS = ("data", "experiment", "launcher", "optimizer", "scale", "schedule", "sweep", "tracking")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("task.hidden_layer=3", ["task.hidden_layer=3", "unknown key", "hidden_layers", "did you mean"]),
        ("nonsense=1", ["nonsense=1", "unknown key", "allowed are"]),
        ("+nonsense=1", ["nonsense=1", "unknown key", "allowed are"]),
        ("+optimizer.p_bond=1", ["optimizer", "p_bond"]),
        ("optimizer=fromaged", ["optimizer=fromaged", "allowed are", "fromage"]),
        ("scale=big", ["scale=big", "allowed are", "quick"]),
        ("sweep=mlp_depth scale=big seed=range(2)", ["scale=big", "allowed are", "quick"]),
        ("seed=0,1", ["seed=0,1", "--multirun"]),
        ("launchr=packed", ["launchr=packed", "did you mean launcher?"]),
        ("launcher.workers=2", ["launcher.workers=2", "launcher=packed"]),
        ("optimizer.lr=-1", ["optimizer.lr=-1", "greater than 0"]),
        ("optimizer.lr=.inf", ["optimizer.lr", "number"]),
        ("optimizer.lr=fast", ["optimizer.lr='fast'", "number"]),
        ("task.hidden_layers=2.5", ["task.hidden_layers=2.5", "integer"]),
        ("task.hidden_layers=0", ["task.hidden_layers=0", "greater than or equal to 1"]),
        ("task.init=xavier", ["task.init='xavier'", "'torch' or 'he'"]),
        ("schedule.name=triangle", ["schedule.name='triangle'", "exponential"]),
        ("+schedule.warmup=5", ["schedule.warmup=5", "unknown key", "decay"]),
        ("training.batch_size=2000", ["training.batch_size=2000", "1500"]),
        ("training.log_every=7", ["training.evaluate_every=60", "multiple of training.log_every=7"]),
        ("seed=-1", ["seed=-1", "greater than or equal to 0"]),
        ("seed=true", ["seed=True", "integer"]),
        ("machine.device=tpu", ["machine.device='tpu'", "cuda"]),
        # These ended in a traceback, or were taken for something else.
        *((f"{group}=null", [f"{group}=null: must be a name, allowed are "]) for group in GROUPS),
        *((f"{group}=", [f"{group}=: unknown, allowed are "]) for group in GROUPS),
        ("optimizer=1", ["optimizer=1: must be a name, allowed are adam"]),
        ("hydra.mode=MULTIRUN optimizer=sgd,1", ["optimizer=1: must be a name, allowed are adam"]),
        ("hydra.mode=MULTIRUN seed=0,1 data=null", ["data=null: must be a name, allowed are "]),
        # Regression: Hydra took it for --experimental-rerun, and ended in a traceback.
        ("--experiment mlp_depth", ["--experiment: no option; a setting is written without dashes, as experiment="]),
        ("--lr=0.1", ["--lr: no option; a setting is written without dashes, as lr=value"]),
        ("seed=0,1 data=null", ["data=null: must be a name, allowed are "]),
        ("sweep.grids=foo", ["sweep.grids=foo: needs sweep="]),
        ("sweep=mlp_depth sweep.grids=foo", ["sweep.grids='foo': must be a list"]),
        ("sweep=mlp_depth sweep.grids=[]", ["sweep.grids=[]: must be a list of at least one"]),
        ("task.width=1000000000", ["task.width=1000000000: must be less than or equal to 10000"]),
        ("launcher=packed launcher.workers=100000", ["launcher.workers=100000: must be less than or equal to 1024"]),
        ("machine.threads=100000", ["machine.threads=100000: must be at most", "cores of this machine"]),
        ("machine.results=", ["machine.results='': must have at least 1 character"]),
        ("machine.data=", ["machine.data='': must have at least 1 character"]),
        ("tracking.entity=", ["tracking.entity='': must have at least 1 character"]),
        ("dry_run=maybe", ["dry_run='maybe': must be a valid boolean"]),
        ("dry_run=1", ["dry_run=1: must be a valid boolean"]),
        ("hydra.mode=MULTIRUN seed=0,1 dry_run=maybe", ["dry_run='maybe': must be a valid boolean"]),
        ("schedule=milestones schedule.at=[60,30]", ["schedule.at=[60, 30]: must be in ascending order"]),
        ("seed=${oops}", ["seed=${oops}: Interpolation key 'oops' not found"]),
        ("hydra.mode=MULTIRUN seed=${oops} task.width=1,2", ["seed=${oops}: Interpolation key 'oops' not found"]),
        ("seed=${oc.env:RELTRUST_OOPS}", ["seed=${oc.env:RELTRUST_OOPS}", "RELTRUST_OOPS", "not found"]),
        (
            "hydra.mode=MULTIRUN optimizer=sgd,adam optimizer.momentum=0.5",
            ["optimizer.momentum=0.5: unknown key", "amsgrad"],
        ),
    ],
)
def test_a_bad_setting_is_refused_in_one_line_and_nothing_is_written(
    reltrust: Call, tmp_path: Path, words: str, named: list[str]
) -> None:
    answer = reltrust(*QUIET, *words.split())
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1
    assert all(part in answer.stderr for part in named), answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_options_of_hydra_are_no_settings(reltrust: Call) -> None:
    answer = reltrust("--config-dir", ".", *QUIET, "seed=0,1")
    assert answer.returncode == 2
    assert len(answer.stderr.splitlines()) == 1
    assert "--multirun" in answer.stderr


def test_a_bad_setting_is_refused_by_a_process_without_importing_torch(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "reltrust", "optimizer.lr=-1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    told = [line for line in answer.stderr.splitlines() if not line.startswith("import time:")]
    assert [line.partition(": ")[0] for line in told] == ["error"]
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "pydantic" in imported
    assert not imported & {"torch", "pandas", "matplotlib", "sklearn", "wandb"}


@pytest.mark.parametrize(
    "words",
    [
        "optimizer=adam +optimizer.foo=1",
        "optimizer.p_bound=-2",
        "optimizer=adam optimizer.eps=small",
        "optimizer=adam optimizer.betas=[0.9,1.5]",
        "machine.device=cuda:99",
        "machine.results=/dev/null",
        "optimizer.target=torch.optim.Nothing",
        "optimizer=signsgd optimizer.target=torch.optim.LBFGS",  # it asks for a closure
        "optimizer.target=no_such_package.Nothing",
        "optimizer.target=reltrust.no_such_module.Nothing",
    ],
)
def test_what_only_the_machine_can_refuse_is_refused_in_one_line_too(
    reltrust: Call, tmp_path: Path, words: str
) -> None:
    answer = reltrust(*QUIET, *words.split())
    assert answer.returncode == 2
    assert len(answer.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_has_imported_torch_tells_it_in_one_line_too(reltrust_process: Call, tmp_path: Path) -> None:
    answer = reltrust_process(*QUIET, "optimizer=adam", "+optimizer.foo=1")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_in_a_multirun_one_bad_run_is_refused_before_the_first_starts(reltrust: Call, tmp_path: Path) -> None:
    answer = reltrust("-m", *QUIET, "optimizer.lr=0.1,-1")
    assert answer.returncode == 2
    assert "optimizer.lr=-1" in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_shows_commands_groups_and_the_config(reltrust: Call) -> None:
    answer = reltrust("--help")
    assert answer.returncode == 0
    for part in ("sweep=mlp_depth", "optimizer: adam, adamw, fromage", "hidden_layers: 10"):
        assert part in answer.stdout


def test_one_run_tells_its_result_and_where_its_record_is(reltrust: Call, tmp_path: Path) -> None:
    answer = reltrust(*QUIET, "optimizer=fromage", "optimizer.lr=0.01", "task.hidden_layers=3", "seed=4")
    assert answer.returncode == 0, answer.stderr
    (record,) = (tmp_path / "results/runs/mlp_depth/fromage").iterdir()
    assert record.name.startswith("depth3-lr0.01-seed4-")
    assert f"record: {record.relative_to(tmp_path)}" in answer.stdout
    assert "train_accuracy" in answer.stdout
    assert "step 120/120" in answer.stderr  # plain lines where there is no terminal
    assert json.loads((record / "status.json").read_text())["status"] == "finished"


def test_a_dry_run_tells_what_would_happen_and_writes_nothing(reltrust: Call, tmp_path: Path) -> None:
    answer = reltrust("sweep=mlp_depth", "scale=paper", "dry_run=true", "optimizer=adam", "seed=0,1")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == "132 runs: 132 start"
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_terminated_says_so_by_its_exit_status_and_goes_on_when_repeated(
    reltrust: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An optimizer that takes its time: what is terminated must not have ended by itself.
    (tmp_path / "slow_until_hurried.py").write_text(
        "import pathlib, time, torch\n"
        "class Slow(torch.optim.SGD):\n"
        "    def step(self, closure=None):\n"
        "        time.sleep(0 if pathlib.Path('hurry').exists() else 0.05)\n"
        "        return super().step(closure)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    target = ["optimizer=sgd", "optimizer.name=slow", "optimizer.target=slow_until_hurried.Slow"]
    words = [*QUIET, *target, "training.log_every=10", "machine.progress=false"]
    process = subprocess.Popen([sys.executable, "-m", "reltrust", *words], cwd=tmp_path)
    while not any(path.stat().st_size for path in tmp_path.glob("results/runs/*/*/*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 143
    (status,) = tmp_path.glob("results/runs/*/*/*/status.json")
    assert json.loads(status.read_text())["status"] == "preempted"
    (tmp_path / "hurry").touch()
    planned = reltrust(*words, "dry_run=true")
    assert "resume" in planned.stdout
    assert reltrust(*words).returncode == 0
    assert json.loads(status.read_text())["status"] == "finished"
