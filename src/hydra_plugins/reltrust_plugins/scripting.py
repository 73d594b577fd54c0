"""What scripts ask of the configs: the runs of a command line, and the names of an experiment's scales."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.reltrust_plugins import composer
from hydra_plugins.reltrust_plugins.grid_sweeper import GridSweeper
from reltrust import messages
from reltrust.errors import SettingsError
from reltrust.experiment import CONFIGS
from reltrust.settings import COMMAND_KEYS, Settings


def settings_of_sweep(words: Sequence[str]) -> list[Settings]:
    """The settings of each run that ``python -m reltrust -m`` with these words would make.

    Raises:
        SettingsError: a word is wrong, as the command would say.
    """
    try:
        with _composed(words) as (loader, config):
            return [settings for settings, _ in GridSweeper.of(loader, config).settings(list(words))]
    except (HydraException, OmegaConfBaseException) as error:
        raise SettingsError(messages.of_hydra(error, COMMAND_KEYS)) from None


def scales_by_comparison(experiment: str) -> dict[str, str]:
    """The names of the experiment's scales, by the comparison id of the runs that follow them to the letter."""
    with _composed([]) as (loader, config):
        return composer.scales_by_comparison(loader, config, experiment)


@contextmanager
def _composed(words: Sequence[str]) -> Iterator[tuple[ConfigLoader, DictConfig]]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield loader, loader.load_configuration("run", list(words), run_mode=RunMode.MULTIRUN)
