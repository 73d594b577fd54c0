"""The sweeper of every multirun: it expands the grids, checks every run, skips what is done, and launches the rest."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.reltrust_plugins.composer import Composer, scales_by_comparison
from reltrust.errors import SettingsError, SweepError, UserError
from reltrust.sweeps.grids import Point, expand
from reltrust.sweeps.plan import describe, plan
from reltrust.sweeps.watch import SweepProgress

# Launchers whose runs find what this process finds, by the names of their classes: Hydra loads plugins twice, so the
# classes themselves cannot be asked for.
_ON_THIS_MACHINE = ("BasicLauncher", "PackedLauncher", "JoblibLauncher")


@dataclass
class GridSweeperConf:
    _target_: str = "hydra_plugins.reltrust_plugins.grid_sweeper.GridSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="reltrust", node=GridSweeperConf, provider="reltrust")


class GridSweeper(Sweeper):
    """Runs the product of what the command line sweeps (``seed=0,1,2``) with the grids of ``sweep.grids``, if any.

    All runs are checked before the first one starts. Runs whose result is in the store are left out; a failed run
    does not stop the others, and raises a SweepError in the end.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config = config
        sweep: Any = OmegaConf.to_container(config.get("sweep") or OmegaConf.create(), resolve=True)
        self._name: str = sweep.get("name", "multirun")
        self._grids: list[Point] = sweep.get("grids", [{}])
        self._loader = hydra_context.config_loader
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise SettingsError("under torchrun several processes compute one run, and this command is of many")
        fixed, swept = self._parse(arguments)
        fixed.append("machine.progress=false")  # of single runs: the sweep shows its own
        composer = Composer(self._loader, self._config, fixed)
        settings, words = [], {}
        for point in expand(self._grids, swept):
            overrides = [f"{key}={in_hydras_grammar(value)}" for key, value in point.items()]
            settings.append(composer.settings(overrides))
            words[id(settings[-1])] = overrides
        runs = plan(settings)
        if self._config.dry_run:
            print(describe(runs, each=True))
            return []

        due = [run for run in runs if run.is_due]
        if due and type(self._launcher).__name__ in _ON_THIS_MACHINE:
            from reltrust import build  # torch and all that: only now

            build.check([run.settings for run in due])
        print(describe(runs, each=False), file=sys.stderr)
        outcomes: Sequence[Any] = []
        if due:
            with SweepProgress(self._name, due, self._config.machine.progress):
                if hasattr(self._launcher, "launch_runs"):
                    outcomes = self._launcher.launch_runs(due)
                else:
                    jobs = [[*fixed, *words[id(run.settings)]] for run in due]
                    outcomes = [one._return_value for one in self._launcher.launch(jobs, 0)]

        # --- bring the tables up to date, say how it went -----------------------------------------------------------
        from reltrust.records.summaries import collect  # pandas: only now

        for results, experiment in sorted({(run.settings.machine.results, run.settings.experiment) for run in runs}):
            if path := collect(results, experiment, scales_by_comparison(self._loader, self._config, experiment)):
                print(f"results: {path}", file=sys.stderr)
        failed = []
        for run, outcome in zip(due, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                text = str(outcome) if isinstance(outcome, UserError) else f"{type(outcome).__name__}: {outcome}"
                failed.append(f"  {text}" if str(run.record.path) in text else f"  {run.record.path}: {text}")
        if failed:
            raise SweepError("\n".join([f"{len(failed)} of {len(runs)} runs failed:", *failed]))
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=outcome) for outcome in outcomes]

    def _parse(self, arguments: list[str]) -> tuple[list[str], dict[str, list[Any]]]:
        """What is the same for all runs, as overrides, and the values of the keys that a grid or a list varies."""
        parser = OverridesParser.create(config_loader=self._loader)
        in_grids = {key for grid in self._grids for key in grid}
        fixed: list[str] = []
        swept: dict[str, list[Any]] = {}
        overrides = parser.parse_overrides(arguments)
        for override in overrides:
            key = override.get_key_element()
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise SettingsError(f"{override.input_line}: only lists, choice(...) and range(...) can be swept")
            if override.is_sweep_override():
                swept[key] = [parser.parse_override(f"k={text}").value() for text in override.sweep_string_iterator()]
                if not swept[key]:
                    raise SettingsError(f"{override.input_line}: must have at least one value")
            elif key in in_grids:
                swept[key] = [override.value()]
            else:
                fixed.append(str(override.input_line))
        # Runs of a multirun are many: W&B watches them only if it was asked to.
        if not any(override.key_or_group == "tracking" for override in overrides):
            fixed.append("tracking=none")
        return fixed, swept


def in_hydras_grammar(value: Any) -> str:
    """A value as a command line would have it: not None but null, also inside of lists and mappings."""
    if isinstance(value, list):
        return f"[{','.join(map(in_hydras_grammar, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {in_hydras_grammar(item)}' for key, item in value.items())}}}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
