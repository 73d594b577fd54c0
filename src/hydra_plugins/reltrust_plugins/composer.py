"""Settings from overrides, many times over."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from reltrust import experiment
from reltrust.records.identity import comparison_id
from reltrust.settings import Settings, parse


class Composer:
    """What Hydra would come to for the runs of one multirun, in a fraction of its time.

    Composing a config takes Hydra a tenth of a second, so it is done once for each choice of groups, and the other keys
    are then set in copies.

    Args:
        fixed: the overrides that all runs have.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, fixed: Sequence[str]) -> None:
        self._loader, self._config, self._fixed = loader, config, list(fixed)
        self._parser = OverridesParser.create(config_loader=loader)
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def settings(self, overrides: Sequence[str]) -> Settings:
        """The settings of a run with the fixed overrides and these, ``key=value`` or ``group=choice``.

        Raises:
            SettingsError: a setting is not allowed.
        """
        parsed = [self._parse(text) for text in overrides]
        groups = tuple(str(override.input_line) for override in parsed if self._is_group(override.key_or_group))
        if groups not in self._bases:
            composed = self._loader.load_sweep_config(self._config, [*self._fixed, *groups])
            # Without the two large parts that no setting refers to: copying them would be most of the work.
            kept: list[Any] = [str(key) for key in composed if key not in ("hydra", "sweep")]
            self._bases[groups] = OmegaConf.masked_copy(composed, kept)
            OmegaConf.set_struct(self._bases[groups], True)  # an unknown key is an error here too
        config = copy.deepcopy(self._bases[groups])
        for override in parsed:
            if not self._is_group(override.key_or_group):
                OmegaConf.update(config, override.key_or_group, override.value(), force_add=override.is_add())
        return parse(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]

    @functools.cache  # noqa: B019 - one composer lives as long as its process
    def _is_group(self, key: str) -> bool:
        return bool(self._loader.get_group_options(key))

    @functools.cache  # noqa: B019
    def _parse(self, text: str) -> Override:
        return self._parser.parse_override(text)


def scales_by_comparison(loader: ConfigLoader, config: DictConfig, name: str) -> dict[str, str]:
    """The names of an experiment's scales, by the comparison id of the runs that follow them to the letter."""
    composer = Composer(loader, config, [f"experiment={name}"])
    return {comparison_id(composer.settings([f"scale={scale}"])): scale for scale in experiment.scales(name)}
