"""``experiment=<name>``, ``scale=<name>`` and ``sweep=<name>``, for whatever lies in ``configs/experiment``."""

from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from reltrust import experiment

# OmegaConf would take a third of the seconds that a command needs to begin.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _register(group: str, name: str, node: Any) -> None:
    ConfigStore.instance().store(group=group, name=name, node=node, package="_global_", provider="reltrust")


for _name in experiment.names():
    _folder = experiment.CONFIGS / "experiment" / _name
    # What is trained has an optimizer, and an analysis none. What is both names one in its trained scales.
    _contents: list[Any] = [yaml.load(path.read_bytes(), _LOADER) or {} for path in _folder.glob("*.yaml")]
    _trained = any("training" in content for content in _contents)
    _named = any("/optimizer" in default for content in _contents for default in content.get("defaults", ()))
    _optimizer = [{"/optimizer": "fromage"}] if _trained and not _named else []
    _register("experiment", _name, {"defaults": [*_optimizer, "_self_"], "experiment": _name})
    for _scale in experiment.scales(_name):
        _register("scale", _scale, {"scale": _scale})
    _files, _grids = [f"/experiment/{_name}/sweep"], "${sweep.scales.${scale}}"
    if not (_folder / "sweep.yaml").exists():
        _files, _grids = [], [{}]  # type: ignore[assignment]
    _sweep = {
        "defaults": [*_files, "_self_", {"override /experiment": _name}],
        "hydra": {"mode": "MULTIRUN"},
        "sweep": {"name": _name, "grids": _grids},
    }
    _register("sweep", _name, _sweep)
