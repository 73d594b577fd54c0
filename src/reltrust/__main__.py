"""``python -m reltrust``: the Hydra application. One run, or with ``-m`` or ``sweep=...`` many."""

import math
import os
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import NoReturn

try:
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from hydra_plugins.reltrust_plugins.composer import check_choices
    from reltrust import messages
    from reltrust.errors import BusyError, RecordError, SettingsError, SweepError, UserError
    from reltrust.experiment import CONFIGS
    from reltrust.precheck import precheck
    from reltrust.records.store import RunRecord, Status
    from reltrust.settings import COMMAND_KEYS, MACHINE_FIELDS, Settings, parse
    from reltrust.sweeps.plan import BUSY, describe, plan
    from reltrust.training.stopping import PREEMPTED, SIGNALS, heard_signals
except ModuleNotFoundError as error:
    print(
        f'error: the package {error.name} is missing: pip install ".[experiments]" in a checkout of reltrust',
        file=sys.stderr,
    )
    raise SystemExit(2) from None

FAILED, BAD_SETTINGS, NOT_ALL_DONE = 1, 2, 3
# Of Hydra's command line. It would take a longer one for the first that begins alike.
_OPTIONS = (
    *("--help", "--hydra-help", "--version", "--multirun", "--run", "--cfg", "--info", "--package", "--resolve"),
    *("--config-path", "--config-name", "--config-dir", "--shell-completion", "--experimental-rerun"),
)
_INTERRUPTED = "interrupted: the same command goes on from what was kept"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="run")
def application(config: DictConfig) -> str | float:
    """One run from its resolved config; returns its status, or the measure that ``objective`` names.

    The latter is for sweepers that look for its best value; of a diverged run it is the worst that there is.
    """
    try:
        # Without the grids that it is from: they are those of another scale where the run has its own.
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "sweep"])
        settings = _from_where_it_began(parse(OmegaConf.to_container(own, resolve=True)))  # type: ignore[arg-type]
        (planned,) = plan([settings], retry_failed=config.retry_failed)
        if planned.action == Status.FAILED:
            raise SweepError(f"{planned.record.path}: failed, and retry_failed=false: {planned.record.error}")
        if config.dry_run:
            print(describe([planned], each=True))
            return "planned"
        if planned.action == BUSY:
            raise BusyError(f"{planned.record.path}: another process is working on this run")
        if planned.is_due:
            precheck([planned.settings])

        from reltrust.run import run  # torch and all that: only now
        from reltrust.training import ranks

        status = run(planned)
    except (UserError, OmegaConfBaseException) as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise  # the sweeper tells of it when the other runs have ended
        _leave(error)
    if status is Status.PREEMPTED:
        raise SystemExit(PREEMPTED)
    if planned.settings.machine.progress and ranks.rank() == 0:
        shown = {key: value for key, value in planned.record.summary.items() if not isinstance(value, dict)}
        result = ", ".join(f"{key} {value:.6g}" for key, value in shown.items())
        print(f"{status}: {result}\nrecord: {planned.record.path}")
    return status.value if config.objective is None else _objective(config.objective, status, planned.record)


def _objective(name: str, status: Status, record: RunRecord) -> float:
    """Raises SettingsError if the run has measured nothing of this name."""
    if status is Status.DIVERGED:  # not NaN, with which Optuna's sweeper would end the search
        direction = str(HydraConfig.get().sweeper.get("direction", ""))
        return -math.inf if "maximize" in direction else math.inf
    measured = {key: value for key, value in record.summary.items() if isinstance(value, int | float)}
    if name not in measured:
        raise SettingsError(f"objective={name}: not measured, allowed are {', '.join(sorted(measured))}")
    return float(measured[name])


def _from_where_it_began(settings: Settings) -> Settings:
    """With hydra.job.chdir a run is in another folder by now; its paths are meant from where the command was given."""
    began = Path(HydraConfig.get().runtime.cwd)
    if began == Path.cwd():
        return settings
    machine = settings.machine
    machine = replace(machine, results=str(began / machine.results), data=str(began / machine.data))
    return replace(settings, machine=machine)


def main() -> None:
    """Runs the application; what a user got wrong is one line on standard error and exit status 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print the error itself, and exit with 1
    words = sys.argv[1:]
    with heard_signals() as heard:
        _main(words, heard)


def _main(words: list[str], heard: Callable[[], list[int]]) -> None:
    try:
        words = ["retry_failed=true" if word == "--retry-failed" else word for word in words]
        sys.argv[1:] = words
        if unknown := [word for word in words if word.startswith("--") and word.partition("=")[0] not in _OPTIONS]:
            name = unknown[0].partition("=")[0]
            raise SettingsError(f"{name}: no option; a setting is written without dashes, as {name[2:]}=value")
        sys.argv[1:] = [_left_to_the_sweeper(word) for word in words] if _are_many(words) else words
        application()
    except (UserError, HydraException, OmegaConfBaseException, ValueError) as error:
        sys.argv[1:] = words
        cause = _cause(error)
        if isinstance(cause, UserError | HydraException | OmegaConfBaseException):
            _leave(cause)
        raise
    except KeyboardInterrupt:
        print(_INTERRUPTED, file=sys.stderr)
        sys.exit(128 + 2)
    except SystemExit as leaving:
        if leaving.code != PREEMPTED:
            raise
        print(_INTERRUPTED, file=sys.stderr)
        if signals := [number for number in heard() if number in SIGNALS]:
            sys.exit(128 + signals[0])
        raise  # only a process of this one was asked to stop


def _leave(error: Exception) -> NoReturn:
    """Prints the error, and ends the process with the exit status that says of which kind it is."""
    if isinstance(error, SweepError):
        print(error, file=sys.stderr)
        raise SystemExit(FAILED)
    if isinstance(error, BusyError):
        print(f"not all done: {error}", file=sys.stderr)
        raise SystemExit(NOT_ALL_DONE)
    text = str(error) if isinstance(error, UserError) else messages.of_hydra(error, COMMAND_KEYS)
    print(f"error: {text}", file=sys.stderr)
    raise SystemExit(FAILED if isinstance(error, RecordError) else BAD_SETTINGS)


def _are_many(words: list[str]) -> bool:
    return any(word in ("-m", "--multirun", "hydra.mode=MULTIRUN") or word.startswith("sweep=") for word in words)


def _left_to_the_sweeper(word: str) -> str:
    """``a.b=choice(value)`` for ``a.b=value``, a setting of a run.

    Hydra checks what is fixed against the default choices of the groups, though others are swept; the sweeper checks it
    against those of each run.
    """
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return word  # an option, or what Hydra will refuse itself
    part, _, key = override.key_or_group.partition(".")
    of_run = part in {field.name for field in fields(Settings)} - set(MACHINE_FIELDS)
    is_choice = not key and not isinstance(override.value(), dict)
    is_choice |= override.value() is None  # which Hydra's choice() does not take
    if override.is_delete() or override.is_sweep_override() or not of_run or is_choice:
        return word
    return f"{override.get_key_element()}=choice({override.get_value_element_as_str() or repr('')})"


def _cause(error: Exception) -> Exception:
    """The error itself, or what is behind one of Hydra's that does not tell."""
    unclear = "Config group override must be" in str(error)
    alone = "--multirun" in str(error) and not any(word.startswith("-") for word in sys.argv[1:])
    if not unclear and not alone:
        return error
    overrides = OverridesParser.create().parse_overrides([word for word in sys.argv[1:] if not word.startswith("-")])
    once = [override for override in overrides if not override.is_sweep_override()]
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            check_choices(GlobalHydra.instance().config_loader(), once)
            hydra.compose("run", [str(override.input_line) for override in once])
    except (UserError, HydraException, OmegaConfBaseException) as cause:
        return cause
    return error


if __name__ == "__main__":
    main()
