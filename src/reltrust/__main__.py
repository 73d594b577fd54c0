"""``python -m reltrust``: the Hydra application. One run, or with ``-m`` or ``sweep=...`` many."""

import difflib
import os
import re
import sys
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reltrust.errors import SweepError, UserError
from reltrust.settings import COMMAND_KEYS, parse
from reltrust.sweeps.plan import describe, plan
from reltrust.training.stopping import PREEMPTED

_HERE = Path(__file__).resolve().parent
# In a checkout the configs are at its top; an installed package carries them with it.
_CONFIGS = next(path for path in (_HERE.parents[1] / "configs", _HERE / "configs") if path.is_dir())

BAD_SETTINGS, FAILED = 2, 1
_INTERRUPTED = "interrupted: the same command goes on from here"


@hydra.main(version_base="1.3", config_path=str(_CONFIGS), config_name="run")
def application(config: DictConfig) -> str:
    """One run from its resolved config; returns its status."""
    try:
        return _run(config)
    except UserError as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise  # the sweeper tells of it when the other runs have ended
        _refuse(str(error))


def _run(config: DictConfig) -> str:
    settings = parse(OmegaConf.to_container(config, resolve=True))
    if config.dry_run:
        print(describe(plan([settings]), each=True))
        return "planned"

    from reltrust.records.store import Status, record_of  # torch and all that: only now
    from reltrust.runner import run

    status = run(settings)
    if status is Status.PREEMPTED:
        raise SystemExit(PREEMPTED)
    if settings.machine.progress:
        record = record_of(settings)
        shown = {key: value for key, value in record.summary.items() if not isinstance(value, dict)}
        print(f"{status}: {', '.join(f'{key} {value:.6g}' for key, value in shown.items())}\nrecord: {record.path}")
    return status.value


def main() -> None:
    """Runs the application; what a user got wrong is one line on standard error and exit status 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print the error itself, and exit with 1
    try:
        application()
    except SweepError as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED)
    except UserError as error:
        _refuse(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _refuse(_one_line(_cause(error)))
    except KeyboardInterrupt:
        print(_INTERRUPTED, file=sys.stderr)
        sys.exit(128 + 2)
    except SystemExit as leaving:
        if leaving.code == PREEMPTED:
            print(_INTERRUPTED, file=sys.stderr)
        raise


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(BAD_SETTINGS)


def _cause(error: Exception) -> Exception:
    """The error itself, or the one that kept Hydra from finding out that a sweep was meant."""
    if "--multirun" not in str(error) or any(word.startswith("-") for word in sys.argv[1:]):
        return error
    overrides = OverridesParser.create().parse_overrides(sys.argv[1:])
    once = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(_CONFIGS), version_base="1.3"):
            hydra.compose("run", once)
    except (HydraException, OmegaConfBaseException) as cause:
        return cause
    return error


def _one_line(error: Exception) -> str:
    """Hydra's message in this project's form: the key, the value, what is allowed."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice}: unknown, allowed are {', '.join(error.options)}"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key and cause.parent_node is not None:
        key = str(cause.full_key)
        if key == "launcher":
            return f"{_given(key)}: only launcher=packed has settings of this kind, and it was not chosen"
        names = {str(name) for name in cause.parent_node} - {"hydra"}
        allowed = sorted(names | set(COMMAND_KEYS) if "." not in key else names)
        close = difflib.get_close_matches(str(cause.key), allowed, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{_given(key)}: unknown key, allowed are {', '.join(allowed)}{hint}"
    return " ".join(str(error).split())


def _given(key: str) -> str:
    """What the command line says of the key, or of one below it."""
    exact = rf"\+*{re.escape(key)}"
    found = [word for end in (r"\..*=", "=") for word in sys.argv[1:] if re.match(exact + end, word)]
    return found[0] if found else key


if __name__ == "__main__":
    main()
