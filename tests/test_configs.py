"""What can be run: every option composes to valid settings, and the sweeps hold the runs that were published."""

import importlib
import inspect
from contextlib import suppress
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from hydra_plugins.reltrust_plugins.scripting import settings_of_sweep
from reltrust import experiment
from reltrust.errors import SettingsError
from reltrust.records.identity import comparison_id
from reltrust.schedules import Schedule
from reltrust.settings import parse
from reltrust.sweeps.grids import Point, expand
from reltrust.sweeps.plan import plan
from runs import CONFIGS, ROOT, composed
from runs import settings_of as settings

FILES = sorted(CONFIGS.rglob("*.yaml"))
GROUPS = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


EXPERIMENTS = experiment.names()
RUNS = [(name, scale) for name in EXPERIMENTS for scale in experiment.scales(name)]


# --- every file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_begins_with_a_header_for_people(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines[0].startswith("# @package"):
        lines = lines[1:]
    header = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    assert any(len(line.strip("# ").split()) >= 3 for line in header), f"{path} has no comment at its top"


@pytest.mark.parametrize("path", sorted((CONFIGS / "optimizer").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_keys_of_an_optimizer_are_arguments_of_its_constructor(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for stated in [content, *([content["rest"]] if "rest" in content else [])]:
        module, _, name = stated["target"].rpartition(".")
        allowed = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        assert "params" in allowed
        assert set(stated) - {"name", "target", "style", "rest"} <= set(allowed)
        assert "lr" in stated


@pytest.mark.parametrize("group", ["optimizer", "data"])
def test_an_option_bears_the_name_of_its_file(group: str) -> None:
    for name in options(group):
        assert yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text(encoding="utf-8"))["name"] == name


# --- every choice ----------------------------------------------------------------------------------------------------


def test_the_groups_are_those_that_these_tests_know() -> None:
    assert set(GROUPS) == {"data", "experiment", "launcher", "optimizer", "schedule", "sweep", "tracking"}


@pytest.mark.parametrize(("name", "scale"), RUNS)
def test_every_scale_of_every_experiment_goes_with_every_optimizer(name: str, scale: str) -> None:
    if settings(f"experiment={name}", f"scale={scale}").training is None:
        return  # an analysis has none
    for optimizer in options("optimizer"):
        resolved = settings(f"experiment={name}", f"scale={scale}", f"optimizer={optimizer}")
        assert (resolved.experiment, resolved.optimizer.name) == (name, optimizer)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_scale_of_an_experiment_is_a_comparison_of_its_own(name: str) -> None:
    ids = {comparison_id(settings(f"experiment={name}", f"scale={scale}")) for scale in experiment.scales(name)}
    assert len(ids) == len(experiment.scales(name))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_has_a_page_a_quick_and_a_smoke_scale_and_axes_that_are_keys(name: str) -> None:
    folder = ROOT / "experiments" / name
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("# ")
    assert {"quick", "smoke"} <= set(experiment.scales(name))
    subject = experiment.load(name)
    keys = {field.name for field in fields(subject)}  # type: ignore[arg-type]
    assert {*subject.axes, *(subject.pack_keys or ())} <= keys


@pytest.mark.parametrize(
    ("group", "option"),
    [(group, option) for group in GROUPS if group not in ("experiment", "optimizer") for option in options(group)],
)
def test_every_other_option_composes_to_valid_settings(group: str, option: str) -> None:
    if group != "data":
        settings(f"{group}={option}", "scale=smoke")
        return
    users = []  # images are of no use to a language model
    for name in EXPERIMENTS:
        with suppress(SettingsError):
            users.append(settings(f"experiment={name}", f"data={option}", "scale=smoke").data)
    assert users
    assert {data.name for data in users if data is not None} == {option}


def test_a_schedule_that_is_chosen_has_its_own_keys_and_none_of_the_experiments() -> None:
    keys = {key for kind in get_args(Schedule) for key in (field.name for field in fields(kind))}
    for name in options("schedule"):
        stated = yaml.safe_load((CONFIGS / "schedule" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert set(stated) == keys
        chosen = settings(f"schedule={name}", "scale=quick")  # quick.yaml sets schedule.every
        assert asdict(chosen.schedule) == {key: value for key, value in stated.items() if value is not None}
    assert set(options("schedule")) == {get_args(get_type_hints(kind)["name"])[0] for kind in get_args(Schedule)}


@pytest.mark.parametrize("mode", options("tracking"))
def test_a_tracking_option_sets_the_mode_of_its_name(mode: str) -> None:
    assert settings(f"tracking={mode}").tracking.mode == mode


def test_every_scale_of_the_depth_benchmark_names_its_data_set() -> None:
    found = {scale: settings(f"scale={scale}").data.name for scale in experiment.scales("mlp_depth")}
    assert found == {"paper": "mnist", "paper20": "mnist", "quick": "digits", "bits": "digits", "smoke": "digits"}


def test_the_paper_scale_is_the_published_protocol() -> None:
    paper = settings("scale=paper")
    assert (paper.task.width, paper.task.init) == (784, "torch")
    assert (paper.training.batch_size, paper.training.steps) == (250, 100 * 240)
    assert (paper.schedule.name, paper.schedule.decay, paper.schedule.every) == ("exponential", 0.95, 240)
    assert paper.training.log_every == 240  # the last row is the accuracy of the last epoch


def test_an_experiment_may_be_analysed_at_one_scale_and_trained_at_another() -> None:
    """Its trained scales name their optimizer, which the command line changes; its analyses have none."""
    for name in ("vanishing_curvature", "sample_variance"):
        assert settings(f"experiment={name}").optimizer is None
        words = (f"experiment={name}", "scale=quick_training")
        assert settings(*words).optimizer.name == "sgd"
        changed = settings(*words, "optimizer=adam", "optimizer.lr=0.5").optimizer
        assert (changed.name, changed.lr) == ("adam", 0.5)


# --- the sweeps ------------------------------------------------------------------------------------------------------

COMMON_DEPTHS = [*range(1, 11), *range(15, 51, 5)]
PUBLISHED_DEPTHS = {
    "sgd_momentum": sorted([*COMMON_DEPTHS, 11, 12, 13, 14]),
    "adam": sorted([*COMMON_DEPTHS, 21, 22, 23, 24]),
    "fromage": sorted([*COMMON_DEPTHS, 27, 32, 37, 42]),
}
PUBLISHED_LRS = {
    "sgd_momentum": [0.01, 0.1, 1.0],
    "adam": [0.0001, 0.001, 0.01],
    "fromage": [0.001, 0.01, 0.1],
}


@cache
def points(scale: str) -> list[Point]:
    return expand(composed("sweep=mlp_depth", f"scale={scale}")["sweep"]["grids"], {})


def values(scale: str, optimizer: str, key: str) -> list[Any]:
    return sorted({point[key] for point in points(scale) if point["optimizer"] == optimizer})


def test_the_published_sweep_has_198_runs_and_66_of_plain_sgd() -> None:
    found = points("paper")
    assert len([point for point in found if point["optimizer"] != "sgd"]) == 198
    assert len([point for point in found if point["optimizer"] == "sgd"]) == 66
    assert len({repr(sorted(point.items())) for point in found}) == len(found)


@pytest.mark.parametrize("optimizer", PUBLISHED_DEPTHS)
def test_the_published_sweep_has_the_published_depths_and_learning_rates(optimizer: str) -> None:
    assert values("paper", optimizer, "task.hidden_layers") == PUBLISHED_DEPTHS[optimizer]
    assert values("paper", optimizer, "optimizer.lr") == PUBLISHED_LRS[optimizer]


def test_plain_sgd_has_the_grid_of_sgd_with_momentum() -> None:
    for key in ("task.hidden_layers", "optimizer.lr"):
        assert values("paper", "sgd", key) == values("paper", "sgd_momentum", key)


def test_the_published_sweep_varies_nothing_else() -> None:
    assert {key for point in points("paper") for key in point} == {"optimizer", "optimizer.lr", "task.hidden_layers"}
    assert {point["optimizer"] for point in points("paper")} == {*PUBLISHED_DEPTHS, "sgd"}


@pytest.mark.parametrize("optimizer", PUBLISHED_DEPTHS)
def test_the_quick_sweep_is_wide_enough_to_show_an_order(optimizer: str) -> None:
    depths = values("quick", optimizer, "task.hidden_layers")
    lrs = values("quick", optimizer, "optimizer.lr")
    assert len(depths) >= 8
    assert (min(depths), max(depths)) == (2, 40)
    assert lrs == PUBLISHED_LRS[optimizer]
    assert len([point for point in points("quick") if point["optimizer"] == optimizer]) == len(depths) * len(lrs)


def test_the_quick_sweep_asks_every_optimizer_the_same_depths() -> None:
    assert {point["optimizer"] for point in points("quick")} == set(PUBLISHED_DEPTHS)
    assert len({tuple(values("quick", optimizer, "task.hidden_layers")) for optimizer in PUBLISHED_DEPTHS}) == 1


def test_the_smoke_sweep_is_small() -> None:
    assert {point["optimizer"] for point in points("smoke")} == set(PUBLISHED_DEPTHS)
    assert len(points("smoke")) <= 12


@pytest.mark.parametrize("scale", experiment.scales("mlp_depth"))
def test_every_point_of_the_sweep_is_a_valid_run(scale: str) -> None:
    for point in points(scale):
        config = composed(f"scale={scale}", f"optimizer={point['optimizer']}")
        config["optimizer"]["lr"] = point["optimizer.lr"]
        if "task.hidden_layers" in point:
            config["task"]["hidden_layers"] = point["task.hidden_layers"]
        resolved = parse(config)
        assert (resolved.optimizer.name, resolved.optimizer.lr) == (point["optimizer"], point["optimizer.lr"])


@pytest.mark.parametrize(("name", "scale"), RUNS)
def test_every_experiments_sweep_has_grids_for_every_scale(name: str, scale: str) -> None:
    assert expand(composed(f"sweep={name}", f"scale={scale}")["sweep"]["grids"], {})


SPANNING = sorted(path.stem for path in (CONFIGS / "sweep").glob("*.yaml"))


@pytest.mark.parametrize("scale", ["smoke", "quick", "paper"])
@pytest.mark.parametrize("name", SPANNING)
def test_a_sweep_over_several_experiments_is_of_valid_runs(name: str, scale: str) -> None:
    runs = settings_of_sweep([f"sweep={name}", f"scale={scale}"])
    assert {one.experiment for one in runs} >= {"cifar_classifier", "cifar_gan", "transformer_lm"}
    plan(runs)  # raises a SettingsError
