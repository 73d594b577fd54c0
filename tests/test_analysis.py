"""Analyses, made up: records, resume in the middle, files, identity."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch

from reltrust import run as life
from reltrust.errors import SettingsError
from reltrust.experiment import Measured, ResumePoint
from reltrust.packing.runner import run_pack
from reltrust.packing.workers import run_packs
from reltrust.records.identity import run_directory, run_id, semantic
from reltrust.records.store import Status
from reltrust.records.summaries import collect
from reltrust.records.tracking import NoTracker
from reltrust.reporting.table import load
from reltrust.settings import Launcher, Settings
from reltrust.sweeps.plan import plan
from runs import metrics, record_of, run

Resolve = Callable[..., Settings]


@dataclass(frozen=True)
class Walk:
    """A random walk, of which the rows are the places."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ()
    pack_keys: ClassVar[tuple[str, ...] | None] = None
    slug: ClassVar[str] = "walk"
    steps: int = 20
    stop_at: ClassVar[int] = 0

    def check(self, settings: Settings) -> None: ...

    def build(self, settings: Settings, device: torch.device) -> "Walk":
        return self

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        state = resume.state or {"done": 0, "place": torch.zeros(())}
        for step in range(state["done"] + 1, self.steps + 1):
            state = {"done": step, "place": state["place"] + torch.randn(())}
            log({"step": step, "place": float(state["place"])})
            if step == Walk.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if step % 3 == 0:  # it can only go on from some places
                resume.reached(step, lambda state=state: state)  # type: ignore[misc]
        return Measured({"place": float(state["place"])}, {"walk.txt": b"a walk"})


def walk(settings: Resolve, *words: str) -> Settings:
    absent = {"data": None, "optimizer": None, "schedule": None, "training": None}
    return replace(settings(*words), task=Walk(), **absent)


def test_an_analysis_leaves_a_record_like_any_run(settings: Resolve) -> None:
    chosen = walk(settings)
    assert run(chosen) is Status.FINISHED
    record = record_of(chosen)
    assert [row["step"] for row in metrics(chosen)] == list(range(1, 21))
    assert record.summary["place"] == metrics(chosen)[-1]["place"]
    assert record.summary["seconds"] >= 0
    assert (record.path / "files" / "walk.txt").read_bytes() == b"a walk"
    before = record.status_time
    assert run(chosen) is Status.FINISHED  # a result: not computed again
    assert record.status_time == before


def test_the_files_of_an_analysis_are_shown_to_who_watches(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    class Watcher(NoTracker):
        def file(self, name: str, path: Path) -> None:
            shown.append((name, path.read_bytes()))

    monkeypatch.setattr(life, "open_tracker", lambda *_, **__: Watcher())
    run(walk(settings))
    assert shown == [("walk.txt", b"a walk")]


def test_an_analysis_that_is_stopped_goes_on_to_the_bit(
    settings: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = walk(settings, f"machine.results={tmp_path / 'whole'}")
    run(whole)
    broken = walk(settings)
    monkeypatch.setattr(Walk, "stop_at", 10)
    assert run(broken) is Status.PREEMPTED
    assert record_of(broken).checkpoint_path.exists()
    assert metrics(broken)[-1]["step"] == 12  # the next place from which it can go on
    monkeypatch.setattr(Walk, "stop_at", 0)
    torch.rand(5)
    assert run(broken) is Status.FINISHED
    assert metrics(broken) == metrics(whole)
    assert not record_of(broken).checkpoint_path.exists()
    assert len(record_of(broken).provenance["attempts"]) == 2


def test_an_analysis_that_raises_has_failed_and_is_computed_again(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = walk(settings)
    monkeypatch.setattr(Walk, "compute", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(chosen)
    assert record_of(chosen).error == "ZeroDivisionError: division by zero"
    monkeypatch.undo()
    assert run(chosen) is Status.FINISHED


def test_a_row_of_step_0_stands_once_though_the_first_attempt_failed(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(self: Walk, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        log({"step": 0})
        return Measured({"place": 1 / self.stop_at}, {})

    monkeypatch.setattr(Walk, "compute", compute)
    chosen = walk(settings)
    with pytest.raises(ZeroDivisionError):
        run(chosen)
    monkeypatch.setattr(Walk, "stop_at", 1)
    assert run(chosen) is Status.FINISHED
    assert metrics(chosen) == [{"step": 0}]


def test_what_an_analysis_does_not_have_is_no_part_of_its_identity(settings: Resolve) -> None:
    content = semantic(walk(settings))
    assert set(content) == {"experiment", "task", "seed", "protocol"}
    assert run_id(walk(settings, "optimizer=adam", "trainer.precision=bf16", "data=mnist5k")) == run_id(walk(settings))
    assert run_id(walk(settings, "seed=1")) != run_id(walk(settings))
    assert run_directory(walk(settings)).parts[:2] == ("mlp_depth", "analysis")


def test_analyses_are_tabled_and_are_an_arm_of_their_own(settings: Resolve, tmp_path: Path) -> None:
    for seed in range(2):
        run(walk(settings, f"seed={seed}"))
    path = collect(tmp_path / "results", "mlp_depth", {})
    table = pd.read_csv(path)
    assert table["place"].notna().all()
    assert load(tmp_path / "results", "mlp_depth")["arm"].tolist() == ["analysis"] * 2


def test_an_analysis_is_run_alone_by_a_launcher_that_packs(settings: Resolve, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody expects it to be packed, so it is neither told so nor refused where packing is required."""
    chosen = [walk(settings, f"seed={seed}") for seed in range(2)]
    assert run_pack(plan(chosen[:1]), max_members=None, memory_fraction=0.5) == [Status.FINISHED]
    assert run_packs(plan(chosen), Launcher(require_packing=True, workers=1)) == [Status.FINISHED] * 2
    assert "is run alone" not in caplog.text


def test_a_trained_experiment_without_its_training_is_refused(settings: Resolve) -> None:
    chosen = replace(settings(), optimizer=None, schedule=None, training=None)
    with pytest.raises(SettingsError, match="training=null: experiment=mlp_depth is trained"):
        run(chosen)
    assert not Path(chosen.machine.results).exists()
