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

    def submit(self, runs: Sequence[PlannedRun]) -> bool:
        """Hands runs to a cluster that goes on with them alone; returns whether they are to be waited for.

        Raises:
            SettingsError: a setting that the cluster refuses; nothing has been submitted.
        """
        if not isinstance(self._settings, Slurm):
            return True
        from reltrust.clusters import slurm

        self._stop = StopRequest()  # from now on: once there are jobs, Ctrl-C ends the waiting and nothing else
        self._stop.__enter__()
        self._before = {str(run.record.path): run.record.status_time for run in runs}
        self._jobs = slurm.submit(runs, self._settings)
        numbers = " ".join(sorted({job.id.partition("_")[0] for job in self._jobs}))
        count, folder = len(self._jobs), self._settings.folder
        text = f"submitted: {len(runs)} runs in {count} jobs of SLURM, logs in {folder}; `scancel {numbers}` ends them"
        print(text, file=sys.stderr)
        return self._settings.wait

    def launch_runs(self, runs: Sequence[PlannedRun]) -> Sequence[Any]:
        """How each run ended, or the error that it failed of.

        Raises:
            SettingsError: a setting that the engine refuses.
            SystemExit: they were asked to stop.
        """
        outcomes: Sequence[Any]
        if isinstance(self._settings, Slurm):
            outcomes = self._waited_for()
        elif isinstance(self._settings, Ray):
            from reltrust.clusters.on_ray import run_on_ray

            outcomes = run_on_ray(runs, self._settings)
        else:
            from reltrust.packing.workers import run_packs  # torch and all that: only now

            outcomes = run_packs(runs, self._settings)
        if Status.PREEMPTED in outcomes:
            raise SystemExit(PREEMPTED)
        return outcomes

    def _waited_for(self) -> Sequence[Any]:
        from reltrust.clusters import slurm

        outcomes = slurm.wait(self._jobs, self._before, self._stop)
        self._stop.__exit__()
        return [outcomes.get(path, Status.PREEMPTED) for path in self._before]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What Hydra's own sweepers would call."""
        raise SettingsError("launcher: only launcher=serial goes with a sweeper other than hydra/sweeper=reltrust")
