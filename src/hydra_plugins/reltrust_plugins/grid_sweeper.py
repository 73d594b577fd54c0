"""The sweeper of every multirun: it expands the grids, checks every run, skips what is done, and launches the rest."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.reltrust_plugins.composer import Composer
from reltrust.errors import SettingsError, SweepError, UserError
from reltrust.records.store import record_of
from reltrust.sweeps.grids import Point, expand
from reltrust.sweeps.plan import PlannedRun, describe, plan
from reltrust.sweeps.watch import SweepProgress

# Launchers by the names of their classes: Hydra loads plugins twice, so the classes themselves cannot be asked for.
_HEARS_TERMINATION = ("BasicLauncher", "PackedLauncher")  # the runs hear SIGTERM themselves, or from the launcher
_ON_THIS_MACHINE = (*_HEARS_TERMINATION, "JoblibLauncher")  # the runs find what this process finds


@dataclass
class GridSweeperConf:
    _target_: str = "hydra_plugins.reltrust_plugins.grid_sweeper.GridSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="reltrust", node=GridSweeperConf, provider="reltrust")


class GridSweeper(Sweeper):
    """Runs the product of what the command line sweeps (``seed=0,1,2``) with the grids of ``sweep.grids``, if any.

    All runs are checked before the first one starts. Runs whose result is in the store are left out; a failed run
    does not stop the others.
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
        fixed, swept = self._parse(arguments)
        points = expand(self._grids, swept)
        composer = Composer(self._loader, self._config, fixed)
        varied = {}  # by run: lr=1 and lr=1.0 are one
        for point in points:
            overrides = [_override(key, value) for key, value in point.items()]
            settings = composer.settings(overrides)
            varied[record_of(settings).path] = settings, overrides
        runs = plan([settings for settings, _ in varied.values()])
        if self._config.dry_run:
            print(describe(runs, each=True))
            return []

        due = [run for run in runs if run.is_due]
        if due and type(self._launcher).__name__ in _ON_THIS_MACHINE:
            _check(due)
        print(describe(runs, each=False), file=sys.stderr)
        jobs = [
            [*fixed, *overrides, "machine.progress=false"]
            for run, (_, overrides) in zip(runs, varied.values(), strict=True)
            if run.is_due
        ]
        returns: Sequence[JobReturn] = []
        if due:
            shown = SweepProgress(self._name, due, self._config.machine.progress)
            with shown, _termination_ends(self._launcher):
                returns = self._launcher.launch(jobs, initial_job_idx=0)
        _finish(runs, due, returns)
        return returns

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


@contextmanager
def _termination_ends(launcher: Launcher) -> Iterator[None]:
    """SIGTERM ends a launcher whose runs are other processes in good order, so that it takes them along.

    Where the runs hear the signal, they leave a checkpoint.
    """
    if type(launcher).__name__ in _HEARS_TERMINATION:
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    earlier = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _override(key: str, value: Any) -> str:
    """The value in Hydra's grammar."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return f"{key}={text}"


def _check(runs: Sequence[PlannedRun]) -> None:
    """Raises UserError, before anything starts, on what one of the runs would be refused for on this machine."""
    from reltrust.runner import check  # torch and all that: only now

    check([run.settings for run in runs])


def _told(path: Path, error: Any) -> str:
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return text if str(path) in text else f"{path}: {text}"


def _finish(runs: Sequence[PlannedRun], launched: Sequence[PlannedRun], returns: Sequence[JobReturn]) -> None:
    """Brings the tables up to date and says how it went.

    Raises:
        SweepError: a run failed.
    """
    from reltrust.records.summaries import collect  # pandas: only now

    for results, experiment in sorted({(run.settings.machine.results, run.settings.experiment) for run in runs}):
        if path := collect(results, experiment):
            print(f"results: {path}", file=sys.stderr)
    failed = [
        f"  {_told(run.record.path, result._return_value)}"
        for run, result in zip(launched, returns, strict=True)
        if result.status is not JobStatus.COMPLETED
    ]
    if failed:
        raise SweepError("\n".join([f"{len(failed)} of {len(runs)} runs failed:", *failed]))
