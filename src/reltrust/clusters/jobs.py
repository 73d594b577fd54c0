"""What one job of a cluster does: the runs of its share, as a machine of its own would run them."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reltrust.packing.eligibility import obstacle
from reltrust.packing.grouping import group_into_packs
from reltrust.packing.runner import Outcome
from reltrust.packing.workers import run_packs
from reltrust.records.provenance import JOB
from reltrust.settings import Cluster
from reltrust.sweeps.plan import PlannedRun


@dataclass
class Job:
    """Runs that one job takes, and where it finds what it needs: folders are shared by all machines of the cluster."""

    runs: Sequence[PlannedRun]
    launcher: Cluster
    folder: str = field(default_factory=os.getcwd)
    words: Sequence[str] = field(default_factory=lambda: list(sys.argv))

    def run(self, name: str) -> list[Outcome]:
        """Starts or resumes the runs; returns the outcome of each.

        Args:
            name: of this job, as ``slurm 17_3``, for the records.
        """
        os.chdir(self.folder)
        if self.folder not in sys.path:  # as for `python -m`: an optimizer of the user's own may lie there
            sys.path.insert(0, self.folder)
        os.environ[JOB] = name
        sys.argv[:] = self.words  # the command that the records will tell
        return run_packs(self.runs, self.launcher, cores=self.launcher.cpus)


def deal(runs: Sequence[PlannedRun], launcher: Cluster) -> list[list[int]]:
    """Places in ``runs`` of those that one job takes: ``packs_per_job`` packs, see :func:`group_into_packs`."""
    settings = [run.settings for run in runs]
    alone = [i for i, one in enumerate(settings) if launcher.max_members == 1 or obstacle(one)]
    packs = group_into_packs(settings, workers=launcher.parallel_jobs, max_members=launcher.max_members, alone=alone)
    shares = [packs[first : first + launcher.packs_per_job] for first in range(0, len(packs), launcher.packs_per_job)]
    return [[i for pack in share for i in pack] for share in shares]


def describe(shares: Sequence[Sequence[int]], engine: str) -> str:
    """The jobs for people."""
    fewest, most = min(map(len, shares)), max(map(len, shares))
    return f"jobs of {engine}: {len(shares)}, of {fewest if fewest == most else f'{fewest} to {most}'} runs each"


def outcome(run: PlannedRun, before: int | None, job: str, log: Path | None) -> Outcome:
    """How a run ended, from its record, once its job has.

    Args:
        before: :attr:`~reltrust.records.store.RunRecord.status_time` at the time of the submission.
        job: the job and what became of it.
        log: where its output is.
    """
    status, where = run.record.status, f" (log: {log})" if log is not None else ""
    if status is not None and status.is_result:
        return status
    begun = run.record.status_time != before
    if status == "failed" and begun:
        return RuntimeError(f"{run.record.error}{where}")
    left = f"left the run {status}" if begun else "did not begin the run"
    return RuntimeError(f"{job} {left}{where}")
