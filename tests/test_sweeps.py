"""Sweeps: grids, skipping what is done, failing alone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from reltrust.errors import SettingsError
from reltrust.records.store import RunRecord, Status, Store
from reltrust.settings import Settings
from reltrust.sweeps.grids import expand
from reltrust.sweeps.plan import plan
from reltrust.sweeps.watch import SweepProgress
from runs import settings_of
from sweep_processes import BREAKABLE

Call = Callable[..., "subprocess.CompletedProcess[str]"]
Resolve = Callable[..., Settings]
GRIDS = [{"o": "a", "lr": [1, 2], "d": [5, 6]}, {"o": "b", "lr": [3], "d": [5]}]


def test_a_sweep_is_the_product_of_each_grid_one_after_another() -> None:
    points = expand(GRIDS, {})
    assert len(points) == 5
    assert points[0] == {"o": "a", "lr": 1, "d": 5}
    assert points[-1] == {"o": "b", "lr": 3, "d": 5}


def test_a_key_that_no_grid_has_multiplies_every_grid() -> None:
    assert len(expand(GRIDS, {"seed": [0, 1, 2]})) == 15
    assert expand([{}], {"seed": [0, 1]}) == [{"seed": 0}, {"seed": 1}]
    assert expand([{}], {}) == [{}]


def test_a_key_that_a_grid_has_narrows_it() -> None:
    assert expand(GRIDS, {"o": ["b"]}) == [{"o": "b", "lr": 3, "d": 5}]
    assert [point["o"] for point in expand(GRIDS, {"d": [6]})] == ["a", "a"]
    assert len(expand(GRIDS, {"lr": [1.0]})) == 2  # 1 and 1.0 are one number


def test_a_value_that_no_grid_has_is_refused_with_those_it_has() -> None:
    with pytest.raises(SettingsError, match=r"o=c: no run of the sweep .* it has a, b"):
        expand(GRIDS, {"o": ["c"]})
    with pytest.raises(SettingsError, match=r"o=c: no run"):  # also beside one that it has
        expand(GRIDS, {"o": ["a", "c"]})
    with pytest.raises(SettingsError, match=r"o=b lr=1: no run of the sweep has these values together"):
        expand(GRIDS, {"o": ["b"], "lr": [1]})


def test_a_run_that_two_grids_name_is_run_once() -> None:
    assert len(expand([{"lr": [1, 2]}, {"lr": [2, 3]}], {})) == 3


def test_the_plan_tells_start_resume_again_busy_and_results_apart(settings: Resolve) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(6)]
    records = [Store(s.machine.results).record(s) for s in chosen]
    for record, one in list(zip(records, chosen, strict=True))[1:]:
        record.begin(one, "cpu")
    records[1].preempted()
    records[1].checkpoint_path.write_bytes(b"state")
    records[2].failed(RuntimeError("no"))
    records[3].end(Status.FINISHED, {})
    records[4].end(Status.DIVERGED, {})
    planned = plan(chosen)
    assert [run.action for run in planned] == [
        "start", "resume", "run again", "finished", "diverged", "running elsewhere",
    ]  # fmt: skip
    assert [run.is_due for run in planned] == [True, True, True, False, False, False]
    records[5].preempted()


def test_the_progress_of_a_sweep_is_read_from_the_records(
    settings: Resolve, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(3)]
    records = [Store(s.machine.results).record(s) for s in chosen]
    records[2].begin(chosen[2], "cpu")
    records[2].failed(OSError("yesterday"))
    with SweepProgress("depths", plan(chosen), enabled=True):
        for record, one in zip(records[:2], chosen, strict=False):
            record.begin(one, "cpu")
        records[0].end(Status.FINISHED, {})
        records[1].end(Status.DIVERGED, {})
    assert "depths: 2/3 runs, 1 finished, 1 diverged" in capsys.readouterr().err


def test_the_progress_of_a_sweep_counts_the_steps_of_those_that_run(
    settings: Resolve, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [settings(f"seed={seed}") for seed in range(2)]
    records = [Store(s.machine.results).record(s) for s in chosen]
    with SweepProgress("depths", plan(chosen), enabled=True) as shown:
        for record, one in zip(records, chosen, strict=True):
            record.begin(one, "cpu")
            for step in (30, 60):
                record.append({"step": step})
        shown.update(last=True)
        told = capsys.readouterr().err
        records[0].end(Status.FINISHED, {})
        records[1].preempted()
    assert re.search(r"depths: 0/2 runs, 2 running, [\d,]+ steps/s, \d+ s left", told)
    assert "depths: 1/2 runs, 1 preempted, 1 finished" in capsys.readouterr().err


@pytest.mark.parametrize("launcher", ["launcher=processes", "launcher=packed", "hydra/launcher=joblib"])
def test_a_sweep_leaves_a_table_and_a_second_one_starts_nothing(
    reltrust: Call, reltrust_process: Call, tmp_path: Path, launcher: str
) -> None:
    packed, joblib = launcher == "launcher=packed", "joblib" in launcher
    words = ["sweep=mlp_depth", "scale=smoke", launcher]
    words += [] if joblib else ["launcher.workers=1"]  # several processes are those of the next tests
    words += ["launcher.require_packing=true"] if packed else []  # whether it pays is no matter here
    first = reltrust_process(*words) if joblib else reltrust(*words)  # joblib keeps the processes that it has started
    assert first.returncode == 0, first.stderr
    assert "6/6 runs, 6 finished" in first.stderr
    table = tmp_path / "results/summaries/mlp_depth.csv"
    assert len(table.read_text().splitlines()) == 7
    provenances = [json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*/*/*/provenance.json")]
    assert {p["attempts"][0]["members"] for p in provenances} == {3 if packed else 1}
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/runs/**/*.json*")}
    second = reltrust(*words)
    assert second.returncode == 0
    assert "6 runs: 6 finished" in second.stderr
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/runs/**/*.json*")}


def test_a_run_of_a_scale_that_the_sweep_has_no_grids_for_runs_in_this_process_too(reltrust: Call) -> None:
    """The grids are those of the command's scale: with the run's own they could not be resolved."""
    short = "training.steps: 2, training.log_every: 1, training.evaluate_every: 2, schedule.every: 1"
    grid = f"[{{experiment: mlp_depth, scale: bits, optimizer: adam, optimizer.lr: 0.01, {short}}}]"
    answer = reltrust("sweep=madam_bits", f"sweep.scales.quick={grid}", "launcher=serial", "tracking=none")
    assert answer.returncode == 0, answer.stderr
    assert "1/1 runs, 1 finished" in answer.stderr


def test_what_the_sweeper_checks_is_what_hydra_then_runs(reltrust: Call, tmp_path: Path) -> None:
    """The sweeper composes once for each choice of groups and sets the other keys itself."""
    reltrust("-m", "scale=smoke", "optimizer=fromage,adam", "optimizer.lr=0.01,0.001", "task.hidden_layers=3")
    for path in tmp_path.glob("results/runs/*/*/*"):
        recorded = json.loads((path / "provenance.json").read_text())["id"]
        _, lr, *_ = path.name.split("-lr")
        overrides = ["scale=smoke", f"optimizer={path.parent.name}", f"optimizer.lr={lr.split('-seed')[0]}"]
        composed = settings_of(*overrides, "task.hidden_layers=3")
        assert Store("anywhere").record(composed).path.name.endswith(recorded[:8])
    assert len(list(tmp_path.glob("results/runs/*/*/*"))) == 4


def test_one_number_written_in_two_ways_is_one_run(reltrust: Call) -> None:
    answer = reltrust("-m", "scale=smoke", "optimizer.lr=1,1.0,2", "dry_run=true")
    assert answer.returncode == 0, answer.stderr
    assert "2 runs: 2 start" in answer.stdout


@pytest.mark.parametrize("launcher", ["serial", "processes", "packed"])
def test_one_failed_run_does_not_stop_the_others_and_is_run_again(
    reltrust: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    # A target that exists for the settings and fails in the run: at its second step, for one is tried before.
    (tmp_path / "mine.py").write_text(BREAKABLE)
    (tmp_path / "broken").touch()
    words = (
        "-m", "scale=smoke", "optimizer=sgd", "optimizer.name=mine", "optimizer.target=mine.Mine",
        "optimizer.lr=0.1,0.02,0.03", f"launcher={launcher}",
        *(["launcher.workers=2"] if launcher == "processes" else []),
        *(["launcher.workers=1"] if launcher == "packed" else []),
    )  # fmt: skip
    answer = reltrust(*words)
    assert answer.returncode == 1
    assert "1 of 3 runs failed" in answer.stderr
    assert "ZeroDivisionError: as planned" in answer.stderr
    statuses = [
        json.loads(path.read_text())["status"] for path in sorted(tmp_path.glob("results/runs/*/*/*/status.json"))
    ]
    assert statuses == ["finished", "finished", "failed"]

    (tmp_path / "broken").unlink()
    again = reltrust(*words)
    assert again.returncode == 0, again.stderr
    assert "2 finished, 1 run again" in again.stderr or "1 run again, 2 finished" in again.stderr
    assert len(list(tmp_path.glob("results/summaries/mlp_depth.csv"))) == 1


@pytest.mark.parametrize("key", ["optimizer.nonexist", "task.nonexist"])
@pytest.mark.parametrize("launcher", ["serial", "packed"])
def test_an_unknown_key_that_is_swept_is_refused_before_anything_starts(
    reltrust: Call, tmp_path: Path, launcher: str, key: str
) -> None:
    answer = reltrust("-m", "scale=smoke", f"{key}=1,2", f"launcher={launcher}")
    assert answer.returncode == 2
    assert f"{key}=1,2: unknown key, allowed are" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("launcher", "words", "message"),
    [
        ("serial", ["optimizer.target=torch.optim.SGD,torch.optim.Adamax"], "unexpected keyword argument"),
        ("serial", ["machine.device=cuda:99", "seed=0,1"], "machine.device='cuda:99': not present"),
        ("processes", ["machine.results=file", "seed=0,1"], "machine.results='file': "),
        ("packed", ["optimizer.target=torch.optim.SGD,torch.optim.No"], "optimizer.target='torch.optim.No': "),
        ("packed", ["seed=range(0)"], "seed=range(0): must have at least one value"),
    ],
)
def test_what_only_the_machine_can_refuse_is_refused_once_and_before_anything_starts(
    reltrust: Call, tmp_path: Path, launcher: str, words: list[str], message: str
) -> None:
    (tmp_path / "file").touch()
    answer = reltrust("-m", "scale=smoke", "optimizer=sgd", f"launcher={launcher}", *words)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"error: {message}" if message.endswith(" ") else "error: ")
    assert answer.stderr.count(message) == 1
    assert len(answer.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Schedulers and terminals send a signal to all processes of the group, other people to the first one.
@pytest.mark.parametrize(
    ("workers", "send"),
    [("launcher.workers=2", os.kill), ("launcher.workers=2", os.killpg), ("launcher.workers=1", os.kill)],
)
def test_a_sweep_that_is_terminated_takes_its_processes_along_and_goes_on_when_repeated(
    reltrust: Call, tmp_path: Path, workers: str, send: Callable[[int, int], None]
) -> None:
    kinds = ("task.hidden_layers=2,3", "seed=0,1")  # two packs
    long = ("training.steps=1500", "training.log_every=20", "training.evaluate_every=1500")
    words = ("-m", "scale=smoke", *long, *kinds, "launcher=packed")
    sweep = subprocess.Popen(
        [sys.executable, "-m", "reltrust", *words, workers],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not any(path.stat().st_size for path in tmp_path.glob("results/runs/*/*/*/metrics.jsonl")):
        assert sweep.poll() is None
        time.sleep(0.02)
    send(sweep.pid, signal.SIGTERM)
    assert sweep.wait(timeout=120) == 143
    records = [RunRecord(path.parent) for path in tmp_path.glob("results/runs/*/*/*/status.json")]
    deadline = time.monotonic() + 30
    while any(record.is_busy for record in records) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(record.is_busy for record in records)
    assert {record.status for record in records} == {Status.PREEMPTED}  # at least one of them had begun
    assert all(record.checkpoint_path.exists() for record in records)
    again = reltrust(*words, "launcher.workers=1")
    assert again.returncode == 0, again.stderr
    assert {record.status for record in Store(tmp_path / "results").records()} == {Status.FINISHED}
    assert len(list(Store(tmp_path / "results").records())) == 4


def test_processes_that_are_interrupted_while_they_import_say_nothing_and_end(tmp_path: Path) -> None:
    quiet = ("machine.progress=false", "tracking=none")
    words = ("-m", "scale=smoke", "task.hidden_layers=2,3", "launcher=processes", "launcher.workers=2", *quiet)
    sweep = subprocess.Popen(
        [sys.executable, "-m", "reltrust", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(family := psutil.Process(sweep.pid).children(recursive=True)) < 2:  # the first one imports nothing
        assert sweep.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(sweep.pid, signal.SIGINT)
    _, said = sweep.communicate(timeout=120)
    assert sweep.returncode == 130
    assert said.splitlines() == ["2 runs: 2 start", "interrupted: the same command goes on from what was kept"]
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert {record.status for record in Store(tmp_path / "results").records()} <= {Status.PREEMPTED}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launcher.max_members=0"], "launcher.max_members=0: must be greater than or equal to 1"),
        (["launcher.memory_fraction=0"], "launcher.memory_fraction=0: must be greater than 0"),
        (["launcher.memory_fraction=1.5"], "launcher.memory_fraction=1.5: must be less than or equal to 1"),
        (["launcher.workers=two"], "launcher.workers='two': must be a valid integer"),
        (["launcher.members=3"], "launcher.members=3: unknown key"),
        (["launcher=serial", "launcher.workers=3"], "launcher.workers=3: launcher=serial has no settings"),
        (
            ["launcher.require_packing=true", "optimizer=integer_madam", "optimizer.init=random"],
            "launcher.require_packing=true, but optimizer.init=random draws",
        ),
    ],
)
@pytest.mark.parametrize("many", [["-m", "seed=0,1"], []])
def test_a_wrong_setting_of_the_launcher_is_refused_before_anything_starts(
    reltrust: Call, tmp_path: Path, words: list[str], message: str, many: list[str]
) -> None:
    if not many and "require_packing" in message:
        pytest.skip("a single run asks for no packing")
    chosen = [] if "launcher=serial" in words else ["launcher=packed"]
    answer = reltrust(*many, "scale=smoke", *chosen, *words)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "results").exists()
