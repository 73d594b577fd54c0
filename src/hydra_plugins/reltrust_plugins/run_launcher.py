"""The launcher of this project's sweeps: runs as few programs, in processes of this machine or in jobs of a cluster."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from reltrust.errors import SettingsError
from reltrust.records.store import Status
from reltrust.settings import Cluster, Ray, Slurm, parse_launcher
from reltrust.sweeps.plan import PlannedRun
from reltrust.training.stopping import PREEMPTED, StopRequest


@dataclass
class RunLauncherConf:
    _target_: str = "hydra_plugins.reltrust_plugins.run_launcher.RunLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="reltrust", node=RunLauncherConf, provider="reltrust")


class RunLauncher(Launcher):
    """Launches whole runs, which the sweeper hands it, by its settings: see ``configs/launcher``.

    Hydra's callbacks of single jobs are not called.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises SettingsError on a setting of the launcher that is not allowed."""
        self._settings = parse_launcher(OmegaConf.to_container(config.launcher, resolve=True))

    @property
    def is_here(self) -> bool:
        """Whether the runs find what this process finds."""
        return not isinstance(self._settings, Cluster)

    def describe(self, runs: Sequence[PlannedRun]) -> str | None:
        """The jobs that would be submitted, in one line; None if there are none."""
        if not isinstance(self._settings, Slurm | Ray):
            return None
        from reltrust.clusters import jobs

        return jobs.describe(jobs.deal(runs, self._settings), self._settings.engine)

    @property
    def waits(self) -> bool:
        """Whether the runs have ended when they have been launched."""
        return not isinstance(self._settings, Slurm) or self._settings.wait

    def launch_runs(self, runs: Sequence[PlannedRun]) -> Sequence[Any] | None:
        """How each run ended, or the error that it failed of; None if nobody waits for them.

        Raises:
            SettingsError: a setting that the engine refuses.
            SystemExit: they were asked to stop.
        """
        outcomes: Sequence[Any] | None
        if isinstance(self._settings, Slurm):
            outcomes = _on_slurm(runs, self._settings)
        elif isinstance(self._settings, Ray):
            from reltrust.clusters.on_ray import run_on_ray

            outcomes = run_on_ray(runs, self._settings)
        else:
            from reltrust.packing.workers import run_packs  # torch and all that: only now

            outcomes = run_packs(runs, self._settings)
        if outcomes is not None and Status.PREEMPTED in outcomes:
            raise SystemExit(PREEMPTED)
        return outcomes

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What Hydra's own sweepers would call."""
        raise SettingsError("launcher: only launcher=serial goes with a sweeper other than hydra/sweeper=reltrust")


def _on_slurm(runs: Sequence[PlannedRun], launcher: Slurm) -> Sequence[Any] | None:
    from reltrust.clusters import slurm

    before = {str(run.record.path): run.record.status_time for run in runs}
    with StopRequest() as stop:  # once there are jobs, Ctrl-C ends the waiting and nothing else
        jobs = slurm.submit(runs, launcher)
        numbers = " ".join(sorted({job.id.partition("_")[0] for job in jobs}))
        told = f"submitted: {len(runs)} runs in {len(jobs)} jobs of SLURM, logs in {launcher.folder}"
        print(f"{told}; `scancel {numbers}` ends them", file=sys.stderr)
        if not launcher.wait:
            return None
        outcomes = slurm.wait(jobs, before, stop)
    return [outcomes.get(path, Status.PREEMPTED) for path in before]
