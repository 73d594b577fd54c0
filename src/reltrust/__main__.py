"""``python -m reltrust``: the Hydra application. One run, or with ``-m`` or ``sweep=...`` many."""

import os
import sys
from typing import NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reltrust import messages
from reltrust.errors import SweepError, UserError
from reltrust.experiment import CONFIGS
from reltrust.settings import COMMAND_KEYS, parse
from reltrust.sweeps.plan import describe, plan
from reltrust.training.stopping import PREEMPTED

BAD_SETTINGS, FAILED = 2, 1
_INTERRUPTED = "interrupted: the same command goes on from what was kept"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="run")
def application(config: DictConfig) -> str:
    """One run from its resolved config; returns its status."""
    try:
        (planned,) = plan([parse(OmegaConf.to_container(config, resolve=True))])  # type: ignore[arg-type]
        if config.dry_run:
            print(describe([planned], each=True))
            return "planned"

        from reltrust.records.store import Status  # torch and all that: only now
        from reltrust.run import run
        from reltrust.training import ranks

        status = run(planned)
    except UserError as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise  # the sweeper tells of it when the other runs have ended
        _refuse(str(error))
    if status is Status.PREEMPTED:
        raise SystemExit(PREEMPTED)
    if planned.settings.machine.progress and ranks.rank() == 0:
        shown = {key: value for key, value in planned.record.summary.items() if not isinstance(value, dict)}
        result = ", ".join(f"{key} {value:.6g}" for key, value in shown.items())
        print(f"{status}: {result}\nrecord: {planned.record.path}")
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
        _refuse(messages.of_hydra(_cause(error), COMMAND_KEYS))
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
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            hydra.compose("run", once)
    except (HydraException, OmegaConfBaseException) as cause:
        return cause
    return error


if __name__ == "__main__":
    main()
