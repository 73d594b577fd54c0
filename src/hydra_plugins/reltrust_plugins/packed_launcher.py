"""The launcher that trains the runs of a multirun many at a time, as few programs."""

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
from reltrust.settings import parse_launcher
from reltrust.sweeps.plan import PlannedRun
from reltrust.training.stopping import PREEMPTED


@dataclass
class PackedLauncherConf:
    _target_: str = "hydra_plugins.reltrust_plugins.packed_launcher.PackedLauncher"


ConfigStore.instance().store(
    group="hydra/launcher", name="reltrust_packed", node=PackedLauncherConf, provider="reltrust"
)


class PackedLauncher(Launcher):
    """Groups the runs that can be one program, and runs the groups in several processes or, on a GPU, in this one.

    Its settings are those of ``configs/launcher/packed.yaml``. Hydra's callbacks of single jobs are not called.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises SettingsError on a setting of the launcher that is not allowed."""
        self._settings = parse_launcher(OmegaConf.to_container(config.launcher, resolve=True))

    def launch_runs(self, runs: Sequence[PlannedRun]) -> Sequence[Any]:
        """How each run ended, or the error that it failed of; raises SystemExit if they were asked to stop."""
        from reltrust.packing.workers import run_packs  # torch and all that: only now

        outcomes = run_packs(runs, self._settings)
        if Status.PREEMPTED in outcomes:
            raise SystemExit(PREEMPTED)
        return outcomes

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What Hydra's own sweepers would call."""
        raise SettingsError("hydra/launcher=reltrust_packed: needs hydra/sweeper=reltrust, which hands it whole runs")
