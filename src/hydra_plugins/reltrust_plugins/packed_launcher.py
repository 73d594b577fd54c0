"""The launcher that trains the runs of a multirun many at a time, as few programs."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.reltrust_plugins.composer import Composer
from reltrust.settings import parse_launcher
from reltrust.training.stopping import PREEMPTED


@dataclass
class PackedLauncherConf:
    _target_: str = "hydra_plugins.reltrust_plugins.packed_launcher.PackedLauncher"


ConfigStore.instance().store(
    group="hydra/launcher", name="reltrust_packed", node=PackedLauncherConf, provider="reltrust"
)


class PackedLauncher(Launcher):
    """Groups the jobs that can be one program, and runs the groups in several processes or, on a GPU, in this one.

    Its settings are those of ``configs/launcher/packed.yaml``. Hydra's callbacks of single jobs are not called.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises SettingsError on a setting of the launcher that is not allowed."""
        self._loader, self._config = hydra_context.config_loader, config
        self._settings = parse_launcher(OmegaConf.to_container(config.launcher, resolve=True))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Raises SystemExit if the runs were asked to stop."""
        from reltrust.records.store import Status  # torch and all that: only now
        from reltrust.workers import run_packs

        fixed = [text for text in job_overrides[0] if all(text in job for job in job_overrides)]
        composer = Composer(self._loader, self._config, fixed)
        runs = [composer.settings([text for text in job if text not in fixed]) for job in job_overrides]
        outcomes = run_packs(runs, self._settings)
        if Status.PREEMPTED in outcomes:
            raise SystemExit(PREEMPTED)
        returns = []
        for job, outcome in zip(job_overrides, outcomes, strict=True):
            status = JobStatus.FAILED if isinstance(outcome, BaseException) else JobStatus.COMPLETED
            returns.append(JobReturn(overrides=list(job), status=status, _return_value=outcome))
        return returns
