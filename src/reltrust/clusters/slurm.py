"""SLURM by way of submitit: an array of jobs is submitted, and watched until every job has ended.

What became of a run its record tells. What became of a job is asked of ``squeue``, which needs no accounting: a job
that it no longer knows has ended, whether or not it could say so.
"""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reltrust.clusters.jobs import Job, deal, outcome
from reltrust.errors import BusyError, SettingsError, first_line
from reltrust.packing.runner import Outcome
from reltrust.records.files import write_json
from reltrust.records.provenance import job as job_name
from reltrust.records.store import Status, busy
from reltrust.settings import Slurm
from reltrust.sweeps.plan import PlannedRun
from reltrust.training.stopping import StopRequest, heard_signals

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 2.0
_SECONDS_OF_SILENCE = 600.0  # of a controller that does not answer, after which nobody is waited for
_RUNS = "_runs.json"  # ends the names of files that say which runs the jobs of an array were given
_LARGEST_ARRAY = 1000  # where the controller does not tell; SLURM's own default
_GOES_ON = re.compile("PENDING|RUNNING|CONFIGURING|COMPLETING|SUSPENDED|STOPPED|REQUEUE|RESIZING|SIGNALING|STAGE_OUT")


@dataclass
class SlurmJob:
    """A job on the machine that SLURM chose for it."""

    job: Job
    requeues: int

    def __call__(self) -> list[str]:
        """Runs the share; when it has had to stop, checkpoints are left and the job asks for another turn.

        Of the end of its time SLURM tells it by SIGUSR2. SIGTERM it sends to a job that is requeued, cancelled, or
        preempted; the last has a grace period, and one that leaves in it would be taken for done.
        """
        with heard_signals() as heard:
            outcomes, number = self.job.run(str(job_name())), str(job_name()).split()[1]
            if Status.PREEMPTED in outcomes:
                turns, out_of_time = int(os.environ.get("SLURM_RESTART_COUNT", 0)), {signal.SIGUSR1, signal.SIGUSR2}
                if not out_of_time & set(heard()):
                    if re.search(r"PreemptTime=\d", _scontrol("show", "job", number)):
                        _scontrol("requeue", number)
                elif turns < self.requeues:
                    _scontrol("requeue", number)
                else:
                    log.warning("not requeued: its time has ended %d times, see launcher.requeues", turns + 1)
        return [str(one) for one in outcomes]

    def checkpoint(self) -> Any:
        """What submitit calls when the time ends before the runs have begun: the job is to begin again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class Submitted:
    """A job as the launcher knows it."""

    id: str
    runs: list[PlannedRun]
    log: Path


def submit(runs: Sequence[PlannedRun], launcher: Slurm) -> list[Submitted]:
    """Submits jobs for the runs that no job of an earlier command still has before it.

    Returns:
        Those jobs, and the jobs of earlier commands that have some of the runs.

    Raises:
        SettingsError: there is no SLURM here, or it refuses a job; those that were submitted before it are cancelled.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise SettingsError('launcher=slurm: needs the package submitit: pip install ".[experiments,slurm]"') from None
    if shutil.which("sbatch") is None:
        raise SettingsError("launcher=slurm: this machine has no command sbatch, it is no login node of a cluster")
    folder = Path(launcher.folder).absolute()
    waiting = _submitted_earlier(folder, runs)
    taken = {str(run.record.path) for job in waiting for run in job.runs}
    due = [run for run in runs if str(run.record.path) not in taken]
    if not due:
        return waiting
    shares = [[due[i] for i in share] for share in deal(due, launcher)]
    new: list[Submitted] = []
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=launcher.requeues)
        executor.update_parameters(**_parameters(launcher))
        size = _largest_array()
        for first in range(0, len(shares), size):
            chunk = shares[first : first + size]
            with executor.batch():
                jobs = [executor.submit(SlurmJob(Job(share, launcher), launcher.requeues)) for share in chunk]
            new += [Submitted(job.job_id, share, job.paths.stderr) for job, share in zip(jobs, chunk, strict=True)]
            array = jobs[0].job_id.partition("_")[0]
            write_json(folder / f"{array}{_RUNS}", {one.id: [_place(run) for run in one.runs] for one in new})
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
        for array in {one.id.partition("_")[0] for one in new}:
            subprocess.run(["scancel", array], capture_output=True, check=False)
        lines = [line for line in str(error).splitlines() if "error" in line] or [first_line(error)]
        raise SettingsError(f"launcher=slurm: {lines[-1].strip()}") from None
    return [*waiting, *new]


def wait(jobs: Sequence[Submitted], before: Mapping[str, int | None], stop: StopRequest) -> dict[str, Outcome]:
    """How each run ended, by the path of its record, once its job has ended; what is not in it ``stop`` came before.

    Never waits for a job that is gone: one that ``squeue`` does not know has ended, and where ``squeue`` itself does
    not answer for ten minutes, the leases of the runs tell which are still worked on.

    Args:
        before: by the path of its record, when the run's status had last changed at the time of the submission.
    """
    outcomes: dict[str, Outcome] = {}
    pending, last_answer, told = list(jobs), time.monotonic(), set()
    while pending and not stop.requested:
        states = _states([job.id for job in pending])
        if states is not None:
            last_answer = time.monotonic()
        for job in pending[:]:
            if states is None:
                silent = time.monotonic() - last_answer > _SECONDS_OF_SILENCE
                ended, state = silent and not any(busy([run.record for run in job.runs])), "of a SLURM that is silent"
            else:
                state = states.get(job.id, "unknown to SLURM")
                ended = not _GOES_ON.match(state)
                if "held" in state.lower() and job.id not in told:
                    log.warning("job %s: %s; `scontrol release` lets it go on, `scancel` ends it", job.id, state)
                    told.add(job.id)
            if ended:
                outcomes |= _ended(job, state, before)
                pending.remove(job)
        for _ in range(10 if pending else 0):
            if not stop.requested:
                time.sleep(_SECONDS_BETWEEN_LOOKS / 10)
    return outcomes


def _ended(job: Submitted, state: str, before: Mapping[str, int | None]) -> dict[str, Outcome]:
    """The outcomes of its runs; one that somebody still holds, another command's job perhaps, is not judged here."""
    outcomes: dict[str, Outcome] = {}
    for run, is_held in zip(job.runs, busy([run.record for run in job.runs]), strict=True):
        path = str(run.record.path)
        outcomes[path] = outcome(run, before[path], f"job {job.id} ({state})", job.log)
        if is_held and isinstance(outcomes[path], Exception):
            outcomes[path] = BusyError(f"{path}: another process is working on this run")
    return outcomes


def _parameters(launcher: Slurm) -> dict[str, Any]:
    """As submitit names them."""
    chosen = {
        "job_name": launcher.job_name,
        "time": launcher.minutes,
        "cpus_per_task": launcher.cpus,
        "ntasks_per_node": 1,
        "nodes": 1,
        "mem": f"{round(1024 * launcher.memory_gb)}M",
        "gpus_per_node": launcher.gpus or None,
        "array_parallelism": launcher.parallel_jobs,
        "signal_delay_s": launcher.warn_seconds,
        "partition": launcher.partition,
        "account": launcher.account,
        "qos": launcher.qos,
        "setup": launcher.setup or None,
        "additional_parameters": {"requeue": True} | dict(map(_option, launcher.options)),
    }
    return {key: value for key, value in chosen.items() if value is not None}


def _option(word: str) -> tuple[str, str | bool]:
    name, given, value = word.removeprefix("--").partition("=")
    return name, value if given else True


def _submitted_earlier(folder: Path, runs: Sequence[PlannedRun]) -> list[Submitted]:
    """Jobs of earlier commands that SLURM still has, with those of these runs that they were given."""
    wanted = {_place(run): run for run in runs}
    jobs = []
    for path in sorted(folder.glob(f"*{_RUNS}")):
        for number, places in json.loads(path.read_bytes()).items():
            if theirs := [wanted[place] for place in places if place in wanted]:
                jobs.append(Submitted(number, theirs, folder / f"{number}_0_log.err"))
    states = (_states([job.id for job in jobs]) if jobs else {}) or {}
    return [job for job in jobs if _GOES_ON.match(states.get(job.id, ""))]


def _place(run: PlannedRun) -> str:
    return str(run.record.path.absolute())


def _states(ids: Sequence[str]) -> dict[str, str] | None:
    """The states of those of the jobs that SLURM knows, with its reasons; None if it does not answer."""
    arrays = sorted({number.partition("_")[0] for number in ids})
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T, %r", f"--jobs={','.join(arrays)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode:
        return {} if "Invalid job id" in answer.stderr else None
    pairs = (line.strip().partition("|") for line in answer.stdout.splitlines())
    return {number: state.removesuffix(", None") for number, _, state in pairs}


def _largest_array() -> int:
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _scontrol("show", "config"))
    return max(1, int(found[1]) - 1) if found else _LARGEST_ARRAY


def _scontrol(*words: str) -> str:
    return subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=60, check=False).stdout
