"""Sixty command lines with something wrong in them: one line, exit status 2, before anything is written."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_table import FORM, Fault

from sweep_processes import answer

New = Callable[[str], Fault]
# The words, and what the line has to name: the setting, the value and what is allowed.
WRONG = [
    ("optimizer.lr=-1", "optimizer.lr=-1: must be greater than 0"),
    ("optimizer.lr=0", "optimizer.lr=0"),
    ("optimizer.lr=nan", "optimizer: must be a finite number|optimizer.lr"),
    ("optimizer.lr=inf", "optimizer: must be a finite number|optimizer.lr"),
    ("optimizer.lr=fast", "optimizer.lr='fast': must be a valid number"),
    ("optimizer.lr=null", "optimizer.lr=None"),
    ("optimizer=adamm", "optimizer=adamm: unknown, allowed are adam"),
    ("optimizer=null", "optimizer=null"),
    ("optimizer.momentumm=0.9 optimizer=sgd", "optimizer.momentumm=0.9: unknown key"),
    ("optimizer=sgd optimizer.momentum=-1", "momentum"),
    ("optimizer=sgd optimizer.nesterov=true", "Nesterov"),
    ("optimizer.target=torch.optim.Nope", "optimizer.target='torch.optim.Nope'"),
    ("optimizer.target=no.such.Module", "optimizer.target='no.such.Module'"),
    ("optimizer.target=nodots", "optimizer.target='nodots'"),
    ("optimizer.target=os.path.join", "optimizer.target='os.path.join'"),
    ("+optimizer.clip_norm=-1 optimizer=sgd", "optimizer.clip_norm=-1"),
    ("optimizer=madam optimizer.g_bound=-1", "g_bound"),
    ("optimizer=integer_madam optimizer.levels=1", "levels"),
    ("optimizer=fromage optimizer.p_bound=-2", "p_bound"),
    ("optimizer=muon optimizer.rest.lr=0", "optimizer.rest.lr=0"),
    ("task.hidden_layers=0", "task.hidden_layers=0: must be greater than or equal to 1"),
    ("task.hidden_layers=-3", "task.hidden_layers=-3"),
    ("task.hidden_layers=2.5", "task.hidden_layers=2.5"),
    ("task.hidden_layers=many", "task.hidden_layers='many'"),
    ("task.width=0", "task.width=0"),
    ("task.depth=3", "task.depth=3: unknown key, allowed are"),
    ("task.init=magic", "task.init='magic'"),
    ("experiment=mlp_breadth", "experiment=mlp_breadth: unknown, allowed are"),
    ("experiment=null", "experiment"),
    ("scale=huge", "scale=huge: unknown, allowed are"),
    ("data=imagenet", "data=imagenet: unknown, allowed are"),
    ("data=wikipedia", "data=wikipedia"),
    ("data=mnist machine.data=nowhere", "data=mnist|MNIST|mnist"),
    ("training.steps=0", "training.steps=0"),
    ("training.steps=1e3", "training.steps=1000.0"),
    ("training.batch_size=0", "training.batch_size=0"),
    ("training.batch_size=100000", "training.batch_size=100000: must be at most"),
    ("training.log_every=7", "must be a multiple of training.log_every=7"),
    ("training.evaluate_every=100000", "training.evaluate_every=100000: must be at most training.steps"),
    ("training=null", "training=None with optimizer=fromage: an analysis"),
    ("experiment=vanishing_curvature optimizer=adam", "optimizer=adam: the chosen experiment is an analysis"),
    ("trainer.accumulate=7", "trainer.accumulate=7: must divide"),
    ("trainer.precision=fp8", "trainer.precision='fp8'"),
    ("trainer.precision=tf32 machine.device=cpu", "trainer.precision='tf32'"),
    ("schedule=cosine schedule.warmup=100000", "schedule.warmup=100000"),
    ("schedule=zigzag", "schedule=zigzag: unknown, allowed are"),
    ("schedule=exponential schedule.gamma=-1", "schedule"),
    ("seed=-1", "seed=-1"),
    ("seed=one", "seed='one'"),
    ("seed=range(0)", "seed=range(0): must have at least one value"),
    ("machine.device=cuda:77", "machine.device='cuda:77': not present"),
    ("machine.device=tpu", "machine.device='tpu'"),
    ("machine.threads=0", "machine.threads=0"),
    ("machine.threads=99999", "machine.threads=99999: must be at most"),
    ("machine.results=afile", "machine.results='afile'"),
    ("machine.results=''", "machine.results=''"),
    ("machine.checkpoint_minutes=-1", "machine.checkpoint_minutes=-1"),
    ("machine.keep=everything", "machine.keep='everything'"),
    ("tracking=tensorboard", "tracking=tensorboard: unknown, allowed are"),
    ("tracking.timeout_seconds=-5", "tracking.timeout_seconds=-5"),
    ("launcher=kubernetes", "launcher=kubernetes: unknown, allowed are"),
    ("launcher=serial launcher.workers=3", "launcher.workers=3: launcher=serial has no settings"),
    ("launcher=packed launcher.max_members=0", "launcher.max_members=0"),
    ("launcher=packed launcher.memory_fraction=2", "launcher.memory_fraction=2"),
    ("launcher=processes launcher.partition=main", "launcher.partition='main': unknown key|launcher.partition=main"),
    ("launcher=slurm launcher.minutes=0", "launcher.minutes=0"),
    ("launcher=slurm launcher.memory_gb=-4", "launcher.memory_gb=-4"),
    ("launcher=ray launcher.retries=-5", "launcher.retries=-5"),
    ("sweep=mlp_breadth", "sweep=mlp_breadth: unknown, allowed are"),
    ("sweep=mlp_depth optimizer=lars", "optimizer=lars: no run of the sweep has this value"),
    ("dry_run=perhaps", "dry_run='perhaps'"),
    ("retry_failed=never", "retry_failed='never'"),
    ("--lr=3", "--lr: no option"),
    ("colour=red", "colour=red: unknown key|colour: unknown key"),
]
EVERY = {"short": (6, 6), "usual": (1, 3), "full": (1, 1)}[FORM]  # of single runs, of sweeps


@pytest.mark.parametrize("many", [(), ("-m",)], ids=["one run", "a sweep"])
def test_what_is_wrong_is_one_line_and_nothing_is_written(tmp_path: Path, fault: New, many: tuple[str, ...]) -> None:
    row, slowest = fault(f"wrong settings, {'a sweep' if many else 'one run'}"), (0.0, "")
    (tmp_path / "afile").touch()
    problems = []
    for words, named in WRONG[:: EVERY[bool(many)]]:
        if not many and ("launcher" in words or "range(" in words):
            continue  # a single run is launched by nobody
        started = time.monotonic()
        told: subprocess.CompletedProcess[str] = answer(tmp_path, *many, "scale=smoke", "tracking=none", *words.split())
        slowest = max(slowest, (time.monotonic() - started, words))
        row.tries += 1
        lines = told.stderr.splitlines()
        is_named = any(part in told.stderr for part in named.split("|"))
        if told.returncode != 2 or len(lines) != 1 or not lines[0].startswith("error: ") or not is_named:
            problems.append(f"{words}: exit {told.returncode}: {told.stderr[-300:]}")
        if [path.name for path in tmp_path.iterdir()] != ["afile"]:
            problems.append(f"{words}: wrote {sorted(path.name for path in tmp_path.iterdir())}")
    row.note = f"slowest {slowest[0]:.1f} s: {slowest[1]}"
    row.different = len(problems)
    assert not problems, "\n".join(problems)
    assert re.match(r"slowest \d", row.note)
