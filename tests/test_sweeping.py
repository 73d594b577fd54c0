"""What a multirun runs: every run is the run that its overrides would be alone, and what is no run's is refused."""

from typing import Any

import pytest
from hydra._internal.callbacks import Callbacks
from hydra.types import HydraContext, RunMode
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hydra_plugins.reltrust_plugins.composer import Composer, override_text
from hydra_plugins.reltrust_plugins.grid_sweeper import GridSweeper
from reltrust.errors import SettingsError
from reltrust.records.identity import run_id
from reltrust.settings import Settings
from runs import hydra_loader, settings_of

KEY = "+optimizer.extra"  # a hyperparameter, which may be anything


def swept(*arguments: str, grids: Any = None) -> list[Settings]:
    """The settings of the runs of ``-m`` with these arguments, over grids as a YAML file would state them."""
    with hydra_loader() as loader:
        config = loader.load_configuration("run", ["scale=smoke", *arguments], RunMode.MULTIRUN)
        OmegaConf.set_struct(config, False)
        if grids is not None:
            config.sweep = {"grids": grids}
        sweeper = GridSweeper()
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        sweeper.setup(hydra_context=context, task_function=lambda _: None, config=config)
        composer = Composer(loader, config)
        return [composer.settings(overrides) for overrides in sweeper.runs(["scale=smoke", *arguments])]


def alone(*arguments: str) -> Settings:
    return settings_of("scale=smoke", "tracking=none", "machine.progress=false", *arguments)


def typed(value: Any) -> str:
    """Tells 1, 1.0, True and '1' apart."""
    return repr(value)


# --- values ----------------------------------------------------------------------------------------------------------

# As a user would type them, and what they are; without quotes the first ones would be of another type.
TYPED = {
    "'null'": "null", "'true'": "true", "'1e3'": "1e3", "'[1]'": "[1]", "'a,b'": "a,b", '"it\'s"': "it's", "''": "",
    "null": None, "true": True, "1e3": 1e3, "1": 1, "[1,'2']": [1, "2"], "word": "word", "a/b.c": "a/b.c",
    "{a:1,b:'1'}": {"a": 1, "b": "1"}, "[{a:[]},{a:'null'}]": [{"a": []}, {"a": "null"}], "'${seed}'": 0,
}  # fmt: skip


def test_a_value_that_is_swept_is_the_value_that_it_is_alone() -> None:
    """Quotes were lost on the way, so 'null' was null, and 'a,b' and mappings failed."""
    found, singles = swept(f"{KEY}={','.join(TYPED)}"), [alone(f"{KEY}={word}") for word in TYPED]
    extras = [one.optimizer.hyperparameters["extra"] for one in found if one.optimizer]
    assert list(map(typed, extras)) == list(map(typed, TYPED.values()))
    assert found == singles
    assert list(map(run_id, found)) == list(map(run_id, singles))


words = st.text("ab,'\" []{}:=\\()$~#-+.123enulltrfas/\n\t", max_size=8) | st.sampled_from(["null", "True", "1e3"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
keys = st.text("bcdgkz_", min_size=1, max_size=3)
values = st.recursive(
    # Not what OmegaConf takes for something else: an interpolation, a missing value.
    scalars.filter(lambda value: not isinstance(value, str) or not ("${" in value or value == "???")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


@hypothesis_settings(deadline=None, max_examples=8, derandomize=True, database=None)
@given(st.lists(values, min_size=6, max_size=20, unique_by=typed))
def test_any_value_is_the_same_run_alone_in_a_list_and_in_a_grid_of_yaml(chosen: list[Any]) -> None:
    listed = swept(f"{KEY}={','.join(override_text('', value)[1:] for value in chosen)}")
    assert [typed(one.optimizer.hyperparameters["extra"]) for one in listed if one.optimizer] == [*map(typed, chosen)]
    in_grid = swept(grids=[{KEY: chosen}])
    assert in_grid == listed
    assert [run_id(one) for one in in_grid] == [run_id(one) for one in listed]
    single = alone(override_text(KEY, chosen[0]))
    assert (single, run_id(single)) == (listed[0], run_id(listed[0]))


def test_a_grid_may_have_schedules() -> None:
    found = swept(grids=[{"schedule": ["constant", "cosine"]}, {"schedule": "linear", "schedule.warmup": [3, 4]}])
    assert [one.schedule.name for one in found if one.schedule] == ["constant", "cosine", "linear", "linear"]
    mapped = swept(grids=[{"schedule": [{"decay": 0.5}, {"decay": 0.25, "every": 7}]}])
    assert mapped == [alone("schedule={decay:0.5}"), alone("schedule={decay:0.25,every:7}")]


# --- which of two wins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "same_as"),
    [
        ("seed=0,1 seed=5", ["seed=5"]),
        ("seed=5 seed=0,1", ["seed=0", "seed=1"]),
        ("seed=0,1 seed=2,3", ["seed=2", "seed=3"]),
        ("seed=range(3) seed=5", ["seed=5"]),
        ("optimizer=sgd,adam optimizer=fromage", ["optimizer=fromage"]),
        ("optimizer.lr=0.1,0.2 ++optimizer.lr=0.05", ["optimizer.lr=0.05"]),
        ("++optimizer.lr=0.05 optimizer.lr=0.1,0.2", ["optimizer.lr=0.1", "optimizer.lr=0.2"]),
        ("task={width:8} task.hidden_layers=2,3", [f"task.width=8 task.hidden_layers={n}" for n in (2, 3)]),
        ("task={width:8},{width:9} task={hidden_layers:3}", [f"task.width={n} task.hidden_layers=3" for n in (8, 9)]),
        ("optimizer=sgd optimizer={momentum:0.5},{momentum:0.6}",
         [f"optimizer=sgd optimizer.momentum={x}" for x in (0.5, 0.6)]),
        ("++optimizer.extra=1,2", ["+optimizer.extra=1", "+optimizer.extra=2"]),
        ("optimizer.lr=0.1,0.2 optimizer=adam", [f"optimizer=adam optimizer.lr={lr}" for lr in (0.1, 0.2)]),
        ("'optimizer.lr=choice(0.5)'", ["optimizer.lr=0.5"]),
    ],
)  # fmt: skip
def test_of_two_values_for_one_key_the_later_one_wins(arguments: str, same_as: list[str]) -> None:
    assert swept(*arguments.replace("'", "").split()) == [alone(*words.split()) for words in same_as]


def test_a_mapping_that_comes_later_wins_over_a_key_of_it() -> None:
    assert set(map(run_id, swept("task.width=8,9", "task={width:7}"))) == {run_id(alone("task.width=7"))}


@pytest.mark.parametrize("key", ["optimizer.lr", "++optimizer.lr"])
def test_a_key_of_a_grid_is_narrowed_however_it_is_written(key: str) -> None:
    """With ++ it was set before the grid's own values, which won."""
    grids = [{"optimizer.lr": [0.1, 0.2], "+optimizer.clip_norm": [1.0, 2.0]}]
    assert swept(f"{key}=0.1", "++optimizer.clip_norm=2.0", grids=grids) == [
        alone("optimizer.lr=0.1", "+optimizer.clip_norm=2.0")
    ]
    assert len(swept(f"{key}=0.3", f"{key}=0.2", grids=grids)) == 2
    with pytest.raises(SettingsError, match=r"optimizer\.lr=0\.05: no run of the sweep has this value, it has 0\.1"):
        swept(f"{key}=0.05", grids=grids)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("launcher=serial,packed", "launcher=serial,packed: launcher is no setting of a run"),
        ("launcher=packed launcher.workers=1,2", "launcher.workers=1,2: launcher is no setting of a run"),
        ("dry_run=true,false", "dry_run=true,false: dry_run is no setting of a run"),
        ("machine.device=cpu,cuda", "machine.device=cpu,cuda: machine does not make it another run"),
        ("tracking=none,wandb", "tracking=none,wandb: tracking does not make it another run"),
        ("tracking.mode=none,wandb", "tracking.mode=none,wandb: tracking does not make it another run"),
    ],
)
def test_sweeping_what_is_no_setting_of_a_run_is_refused_by_name(arguments: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        swept(*arguments.split())
    assert str(caught.value).startswith(message)


def test_a_grid_may_be_of_a_scale_of_its_own_whatever_scale_the_command_line_chooses() -> None:
    """The scale on the command line chooses the grids; an analysis and a training of one sweep are two scales."""
    grids = [{"seed": [0, 1]}, {"scale": "quick", "task.hidden_layers": [3, 4], "seed": [1, 2]}]
    found = swept(grids=grids)  # under scale=smoke
    assert [(one.task.width, one.seed) for one in found] == [(32, 0), (32, 1), (64, 1), (64, 2), (64, 1), (64, 2)]
    assert found[2:] == [
        alone("scale=quick", f"task.hidden_layers={depth}", f"seed={seed}") for depth in (3, 4) for seed in (1, 2)
    ]
    assert [one.seed for one in swept("seed=1", grids=grids)] == [1, 1, 1]
    assert [one.task.width for one in swept(grids=[{"scale": ["smoke", "quick"]}])] == [32, 64]


def test_a_grid_may_be_of_experiments_of_its_own_which_the_command_line_narrows() -> None:
    grids = [{"experiment": ["cifar_gan", "mlp_depth"], "optimizer": "adam"}, {"experiment": "transformer_lm"}]
    assert [one.experiment for one in swept(grids=grids)] == ["cifar_gan", "mlp_depth", "transformer_lm"]
    found = swept("experiment=mlp_depth", "seed=1", grids=grids)
    assert found == [alone("scale=smoke", "optimizer=adam", "seed=1")]
    assert len(swept("experiment=cifar_gan,mlp_depth", grids=grids)) == 2
    with pytest.raises(SettingsError, match="experiment=cifar_classifier: no run of the sweep has this value"):
        swept("experiment=cifar_classifier", grids=grids)


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ("foo", "sweep.grids='foo': must be a list"),
        ([], "sweep.grids=[]: must be a list of at least one grid"),
        ({"seed": [1]}, "sweep.grids={'seed': [1]}: must be a list"),
        ([3], "sweep.grids=[3]: must be a list"),
        ([{"seed": []}], "sweep.grids: seed=[]: must be a key of the settings with at least one value"),
        ([{1: [2]}], "sweep.grids: 1=[2]: must be a key"),
        ([{"launcher": "packed"}], "sweep.grids: launcher=packed: launcher is no setting of a run"),
        ([{"machine.threads": [1, 2]}], "sweep.grids: machine.threads=1,2: machine does not make it another run"),
    ],
)
def test_grids_that_are_none_are_refused(grids: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        swept(grids=grids)
    assert str(caught.value).startswith(message)


def test_a_grid_may_say_where_its_runs_compute() -> None:
    assert [one.machine.threads for one in swept(grids=[{"machine.threads": 2, "seed": [0, 1]}])] == [2, 2]
    assert [one.tracking.mode for one in swept(grids=[{"tracking": "wandb_offline"}])] == ["wandb_offline"]


def test_the_grids_of_a_sweep_are_for_one_scale() -> None:
    with pytest.raises(SettingsError, match="scale=smoke,quick: the grids of sweep="):
        swept("sweep=mlp_depth", "scale=smoke,quick")
    assert len(swept("scale=smoke,quick")) == 2
