"""Settings from overrides, many times over."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, Transformer
from omegaconf import DictConfig, OmegaConf

from reltrust import experiment, messages
from reltrust.errors import SettingsError
from reltrust.records.identity import comparison_id
from reltrust.settings import Settings, parse


class Composer:
    """What Hydra would come to for the runs of one multirun, in a fraction of its time.

    Composing a config takes Hydra a tenth of a second, so it is done once for each choice of groups, and the other keys
    are then set in copies.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self._loader, self._config = loader, config
        self._parser = OverridesParser.create(config_loader=loader)
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def settings(self, overrides: Sequence[str]) -> Settings:
        """The settings of a run with these overrides, in Hydra's grammar; of two for one key the later one wins.

        Raises:
            SettingsError: a setting is not allowed.
        """
        choices: list[Override] = []
        changes: list[Override] = []
        for override in map(self._parse, overrides):
            is_choice = self._options(override.key_or_group) and not isinstance(override.value(), dict)
            (choices if is_choice else changes).append(override)
        groups = tuple(str(override.input_line) for override in choices)
        if groups not in self._bases:
            check_choices(self._loader, choices)
            composed = self._loader.load_sweep_config(self._config, list(groups))
            # Without the two large parts that no setting refers to: copying them would be most of the work.
            kept: list[Any] = [str(key) for key in composed if key not in ("hydra", "sweep")]
            self._bases[groups] = OmegaConf.masked_copy(composed, kept)
            OmegaConf.set_struct(self._bases[groups], True)  # an unknown key is an error here too
        config = copy.deepcopy(self._bases[groups])
        # Hydra's own, so that +, ++ and ~ and the merging of mappings mean what they mean for a single run.
        type(self._loader)._apply_overrides_to_config(  # type: ignore[attr-defined]
            [one for one in changes if not one.key_or_group.startswith("sweep.")], config
        )
        return parse(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]

    @functools.cache  # noqa: B019 - one composer lives as long as its process
    def _options(self, group: str) -> list[str]:
        return self._loader.get_group_options(group)

    @functools.cache  # noqa: B019
    def _parse(self, text: str) -> Override:
        return self._parser.parse_override(text)


def check_choices(loader: ConfigLoader, overrides: Sequence[Override]) -> None:
    """Raises SettingsError if one of the overrides chooses of a group what is no name, ``data=null`` for example.

    Hydra itself would end with an error that names neither the group nor what it has.
    """
    for override in overrides:
        options = loader.get_group_options(override.key_or_group)
        if options and not (override.is_delete() or isinstance(override.value(), str | list | dict)):
            raise SettingsError(messages.of_choice(str(override.input_line), options))


def override_text(key: str, value: Any) -> str:
    """``key=value`` in Hydra's grammar, which reads it as this very value, of this type."""
    return f"{key}={Transformer.str(_quoted(value))}"


def _quoted(value: Any) -> Any:
    if isinstance(value, str):
        return QuotedString(value, Quote.single)
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    return [_quoted(item) for item in value] if isinstance(value, list) else value


def scales_by_comparison(loader: ConfigLoader, config: DictConfig, name: str) -> dict[str, str]:
    """The names of an experiment's scales, by the comparison id of the runs that follow them to the letter."""
    composer = Composer(loader, config)
    scales = experiment.scales(name)
    return {comparison_id(composer.settings([f"experiment={name}", f"scale={scale}"])): scale for scale in scales}
