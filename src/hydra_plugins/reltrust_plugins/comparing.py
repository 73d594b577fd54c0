"""One optimizer beside others on several benchmarks: the benchmarks' own grids, and more of them for what is new."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from reltrust import experiment
from reltrust.errors import SettingsError
from reltrust.sweeps.grids import Point, as_list


def benchmark_grids(names: Sequence[str], scale: str) -> list[Point]:
    """The grids of each experiment's sweep at this scale that train with optimizers.

    Raises:
        SettingsError: an experiment is unknown, or has no grids of this scale.
    """
    grids: list[Point] = []
    for name in names:
        path = experiment.CONFIGS / "experiment" / name / "sweep.yaml"
        if not path.exists():
            raise SettingsError(f"sweep.benchmarks={name}: has no sweep, allowed are {', '.join(experiment.names())}")
        loaded: Any = OmegaConf.to_container(OmegaConf.load(path).sweep.scales)
        if scale not in loaded:
            raise SettingsError(f"scale={scale}: {name} has no grids of it, it has {', '.join(loaded)}")
        trained = [grid for grid in loaded[scale] if "optimizer" in grid]
        # A grid's own scale, of another part of the experiment, stays.
        grids += [{"experiment": name, "scale": scale, **grid} for grid in trained]
    return grids


def with_others(grids: Sequence[Point], asked: Sequence[Any], sweep: Mapping[str, Any]) -> list[Point]:
    """The grids, and for each optimizer that is asked for and that none of them has: all places of the one whose places
    are taken, without what is set for that one alone, at the comparison's learning rates."""
    known = {name for grid in grids for name in as_list(grid["optimizer"])}
    places = [grid for grid in grids if sweep["places_of"] in as_list(grid["optimizer"])]
    more = [
        {key: value for key, value in grid.items() if not key.lstrip("+").startswith("optimizer")}
        | {"optimizer": name, "optimizer.lr": list(sweep["lrs"])}
        for name in asked
        if name not in known
        for grid in places
    ]
    return [*grids, *more]
