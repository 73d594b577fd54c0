"""The sweeper of every multirun: it expands the grids, checks every run, skips what is done, and launches the rest."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.reltrust_plugins.comparing import benchmark_grids, with_others
from hydra_plugins.reltrust_plugins.composer import Composer, override_text, scales_by_comparison
from reltrust.errors import BusyError, DataError, SettingsError, SweepError, UserError, first_line
from reltrust.precheck import precheck
from reltrust.records.store import Status
from reltrust.settings import COMMAND_KEYS, MACHINE_FIELDS, Settings
from reltrust.sweeps.grids import Point, as_list, check_grids, expand
from reltrust.sweeps.plan import BUSY, PlannedRun, describe, plan
from reltrust.sweeps.watch import SweepProgress
from reltrust.training.stopping import StopRequest

# Hydra's launchers whose runs find what this process finds, by the names of their classes: Hydra loads plugins twice,
# so the classes themselves cannot be asked for.
_ON_THIS_MACHINE = ("BasicLauncher", "JoblibLauncher")


@dataclass
class GridSweeperConf:
    _target_: str = "hydra_plugins.reltrust_plugins.grid_sweeper.GridSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="reltrust", node=GridSweeperConf, provider="reltrust")


class GridSweeper(Sweeper):
    """Runs the product of what the command line sweeps (``seed=0,1,2``) with the grids of ``sweep.grids``, if any.

    All runs are checked before the first one starts. Runs whose result is in the store are left out; a failed run
    does not stop the others, and raises a SweepError in the end; a BusyError is raised if another process is still
    working on one of them then.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._read(hydra_context.config_loader, config)
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    @classmethod
    def of(cls, loader: ConfigLoader, config: DictConfig) -> "GridSweeper":
        """One that launches nothing, to be asked which runs there are."""
        sweeper = cls()
        sweeper._read(loader, config)
        return sweeper

    def _read(self, loader: ConfigLoader, config: DictConfig) -> None:
        self._config, self._loader = config, loader
        sweep: Any = OmegaConf.to_container(config.get("sweep") or OmegaConf.create(), resolve=True)
        self._sweep, self._name = sweep, sweep.get("name", "multirun")
        grids = check_grids(sweep.get("grids", [{}]))
        if "benchmarks" in sweep:
            grids = benchmark_grids(sweep["benchmarks"], config.scale)
        # A key is written with or without + and is the same.
        self._spelled = {key.lstrip("+"): key for grid in grids for key in grid}
        self._grids: list[Point] = [{key.lstrip("+"): value for key, value in grid.items()} for grid in grids]

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise SettingsError("under torchrun several processes compute one run, and this command is of many")
        composed = self.settings(arguments)
        runs = plan([settings for settings, _ in composed], retry_failed=self._config.retry_failed)
        due = [run for run in runs if run.is_due]
        if self._config.dry_run:
            print(describe(runs, each=True))
            if due and (jobs := self._jobs(due)):
                print(jobs)
            return []

        here = getattr(self._launcher, "is_here", type(self._launcher).__name__ in _ON_THIS_MACHINE)
        if due and (here or hasattr(self._launcher, "launch_runs")):
            precheck([run.settings for run in due], here=here)
            from reltrust import build  # torch and all that: only now

            build.check([run.settings for run in due], here=here)
        print(describe(runs, each=False), file=sys.stderr)
        outcomes: Sequence[Any] = []
        if due:
            shown = self._config.machine.progress and getattr(self._launcher, "waits", True)
            with SweepProgress(self._name, due, shown):
                if hasattr(self._launcher, "launch_runs"):
                    if (launched := self._launcher.launch_runs(due)) is None:
                        return []
                    outcomes = launched
                else:
                    words = {id(settings): overrides for settings, overrides in composed}
                    with StopRequest():  # between two runs: the next one stops after its first step
                        outcomes = self._launched([words[id(run.settings)] for run in due])
                if all(isinstance(outcome, SettingsError | DataError) for outcome in outcomes):
                    raise outcomes[0]  # what only the task could refuse; nothing was written

        # --- bring the tables up to date, say how it went -----------------------------------------------------------
        from reltrust.records.summaries import collect  # pandas: only now

        for results, experiment in sorted({(run.settings.machine.results, run.settings.experiment) for run in runs}):
            if path := collect(results, experiment, scales_by_comparison(self._loader, self._config, experiment)):
                print(f"results: {path}", file=sys.stderr)
        report(runs, outcomes)
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=outcome) for outcome in outcomes]

    def settings(self, arguments: list[str]) -> list[tuple[Settings, list[str]]]:
        """The settings of each run, beside its overrides; raises SettingsError as :meth:`runs`, and for a setting.

        A sweep may name a function, ``check``, that refuses what its figure has no place for.
        """
        composer = Composer(self._loader, self._config)
        composed = [(composer.settings(overrides), overrides) for overrides in self.runs(arguments)]
        if "check" in self._sweep:
            get_method(self._sweep["check"])([settings for settings, _ in composed])
        return composed

    def runs(self, arguments: list[str]) -> list[list[str]]:
        """The overrides of each run of the multirun with these, as a single run would be given them.

        Raises:
            SettingsError: what is swept is no setting of a run, or a grid has none of its values.
        """
        line, swept = self._parse(arguments)
        grids, runs = self._grids, []
        if "benchmarks" in self._sweep:  # what is asked for comes to the grids' optimizers, and does not choose of them
            grids = with_others(grids, swept.pop("optimizer", []), self._sweep)
        for point in expand(grids, swept):
            written = {key: override_text(self._spelled[key], value) for key, value in point.items()}
            said = line | ({"scale": None} if "scale" in point else {})
            overrides = [text for key, text in written.items() if key not in said]
            overrides += [written[key] if text is None else text for key, text in said.items()]
            runs.append([*overrides, "machine.progress=false"])  # of single runs: the sweep shows its own
        return runs

    def _jobs(self, due: Sequence[PlannedRun]) -> str | None:
        """What a cluster's launcher would submit."""
        return self._launcher.describe(due) if hasattr(self._launcher, "describe") else None

    def _launched(self, jobs: list[list[str]]) -> list[Any]:
        """How each run ended under one of Hydra's launchers, or the error that it failed of."""
        try:
            return [one._return_value for one in self._launcher.launch(jobs, 0)]
        except (TypeError, ValueError) as error:  # a run's own error is its outcome: this is the launcher's
            launcher = self._config.hydra.runtime.choices["hydra/launcher"]
            given = " ".join(word for word in self._config.hydra.overrides.hydra if word.startswith("hydra.launcher"))
            raise SettingsError(f"{given or f'hydra/launcher={launcher}'}: {first_line(error)}") from None

    def _parse(self, arguments: list[str]) -> tuple[dict[str, str | None], dict[str, list[Any]]]:
        """What the command line says of each key, in its order, and the values of those that a list or a grid varies.

        What it says is an override, the same for all runs, or None where each run has one of the values. Of two for
        one key the later one wins.
        """
        parser = OverridesParser.create(config_loader=self._loader)
        overrides = parser.parse_overrides(arguments)
        for key, values in ((key, as_list(value)) for grid in self._grids for key, value in grid.items()):
            self._check_swept(key, f"sweep.grids: {key}={','.join(map(str, values))}", len(values))
        in_grids = set(self._spelled) - {"scale"}  # it chooses the grids, of which one may be of another scale
        # Runs of a multirun are many: W&B watches them only if it was asked to.
        line: dict[str, str | None] = {} if "tracking" in in_grids else {"tracking": "tracking=none"}
        swept: dict[str, list[Any]] = {}
        for override in overrides:
            text, key, varies = str(override.input_line), override.get_key_element(), override.is_sweep_override()
            values = [override.value()]
            if varies:
                if not override.is_discrete_sweep():
                    raise SettingsError(f"{text}: only lists, choice(...) and range(...) can be swept")
                values = [parser.parse_override(f"k={one}").value() for one in override.sweep_string_iterator()]
                if not values:
                    raise SettingsError(f"{text}: must have at least one value")
                self._check_swept(key.lstrip("+"), text, len(values))
                if len(values) == 1:
                    text, varies = override_text(key, values[0]), False
            name = key.lstrip("+")
            if name not in in_grids:
                # A mapping sets some keys of its own, and leaves what came before it.
                name = text if any(isinstance(value, dict) for value in values) else name
                self._spelled[name] = key
            line.pop(name, None)
            swept.pop(name, None)
            if varies or name in in_grids:
                line[name], swept[name] = None, values
            else:
                line[name] = text
        return line, swept

    def _check_swept(self, key: str, text: str, values: int) -> None:
        """Raises SettingsError if so many values of a key would not be as many runs."""
        part = key.replace("/", ".").split(".")[0]
        if (part in COMMAND_KEYS and key != "scale") or part == "hydra":
            raise SettingsError(f"{text}: {part} is no setting of a run, and cannot be swept")
        if values > 1 and part in MACHINE_FIELDS:
            raise SettingsError(f"{text}: {part} does not make it another run, and cannot be swept")
        in_grids = any(key in grid for grid in self._grids)
        if values > 1 and key in ("experiment", "scale") and "sweep" in self._config and not in_grids:
            raise SettingsError(f"{text}: the grids of sweep={self._name} are for one {key}")


def report(runs: Sequence[PlannedRun], outcomes: Sequence[Any]) -> None:
    """Says which runs have no result.

    Args:
        runs: all of the sweep.
        outcomes: of those that were due, in their order: how they ended, or the error that they failed of.

    Raises:
        SweepError: runs failed.
        BusyError: another process is working on the rest.
    """
    failed, busy = [], []
    remaining = iter(outcomes)
    for run in runs:
        outcome = next(remaining) if run.is_due else None
        status = run.record.status
        if status is not None and status.is_result:
            continue  # whoever has come to it
        if isinstance(outcome, BusyError) or (run.action == BUSY and status is not Status.FAILED):
            busy.append(f"  {run.record.path}")
        elif isinstance(outcome, BaseException) or run.action in (BUSY, Status.FAILED):
            known = outcome is None or isinstance(outcome, UserError)
            text = str(outcome or run.record.error) if known else f"{type(outcome).__name__}: {outcome}"
            failed.append(f"  {text}" if str(run.record.path) in text else f"  {run.record.path}: {text}")
    waiting = [f"another process is working on {len(busy)} of {len(runs)} runs:", *busy] if busy else []
    if failed:
        raise SweepError("\n".join([f"{len(failed)} of {len(runs)} runs failed:", *failed, *waiting]))
    if busy:
        raise BusyError("\n".join(waiting))
