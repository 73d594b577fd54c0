"""Which run is it? Settings that decide the result, all of them and no others, decide the run's identity."""

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from reltrust.errors import SettingsError
from reltrust.experiment import load
from reltrust.records.identity import comparison_id, run_directory, run_id, semantic
from reltrust.settings import COMMAND_KEYS, MACHINE_FIELDS, Machine, Settings, Tracking, parse
from runs import CONFIGS, composed

SUBJECT: Any = load("mlp_depth")
OPTIMIZERS = sorted(path.stem for path in (CONFIGS / "optimizer").glob("*.yaml"))

Config = dict[str, Any]
Keys = tuple[str, ...]


def smoke(*overrides: str) -> Config:
    """A resolved smoke config as plain dicts, without the keys of the command itself."""
    resolved = composed("scale=smoke", *overrides)
    return {key: value for key, value in resolved.items() if key not in COMMAND_KEYS}


def leaves(config: Config, above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def changed(config: Config, keys: Keys, value: Any) -> Config:
    config = copy.deepcopy(config)
    part = config
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    return config


# Another allowed value where one does not follow from the type. A new key with words for values needs a line here.
OTHERS: dict[str, Any] = {
    "task.init": "he",
    "data.name": "mnist5k",
    "optimizer.name": "another",
    "optimizer.target": "torch.optim.Rprop",
    "optimizer.p_bound": 1.0,
    "optimizer.init": "random",
    "optimizer.adjust_lr_fn": "match_rms_adamw",
    "optimizer.rest.target": "torch.optim.NAdam",
    "schedule.name": None,  # changes the other keys too: see below
    "training.steps": 240,
    "trainer.precision": "bf16",
    "training.log_every": 15,
    "training.evaluate_every": 30,
    "machine.device": "cpu",
    "machine.keep": "weights",
    "machine.results": "elsewhere",
    "machine.data": "elsewhere",
    "tracking.mode": "none",
    "tracking.project": "another",
    "tracking.entity": "somebody",
}


def other(keys: Keys, value: Any) -> Any:
    if ".".join(keys) in OTHERS:
        return OTHERS[".".join(keys)]
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 or 0.5
        case list():
            return [other(keys, value[0]), *value[1:]]
    raise AssertionError(f"{'.'.join(keys)}={value!r}: OTHERS has no other value for it")


def semantic_changes(config: Config) -> Iterator[tuple[str, Settings]]:
    """For every key that decides a result: its name, and settings that differ in it alone."""
    for keys, value in leaves({key: part for key, part in config.items() if key not in MACHINE_FIELDS}):
        if keys == ("experiment",) or keys[:2] == ("optimizer", "style"):
            continue  # see the tests of these
        if keys == ("schedule", "name"):
            yield "schedule.name", parse({**config, "schedule": {"name": "constant"}})
            continue
        yield ".".join(keys), parse(changed(config, keys, other(keys, value)))


# --- what decides ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_setting_that_decides_the_result_changes_the_run(optimizer: str) -> None:
    config = smoke(f"optimizer={optimizer}")
    ids = {name: run_id(settings) for name, settings in semantic_changes(config)}
    hyperparameters = {".".join(keys) for keys, _ in leaves({"optimizer": config["optimizer"]}) if keys[1] != "style"}
    assert {
        "seed",
        "schedule.name",
        "schedule.decay",
        "data.name",
        "task.width",
    } | hyperparameters <= set(ids)
    ids["nothing"] = run_id(parse(config))
    assert len(set(ids.values())) == len(ids), f"equal ids: {ids}"


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "milestones", "decay": 0.1, "at": [10, 20]},
        {"name": "milestones", "decay": 0.1, "at": [10, 21]},
        {"name": "milestones", "decay": 0.2, "at": [10, 20]},
        {"name": "exponential", "decay": 0.1, "every": 10},
        {"name": "constant"},
    ],
)
def test_every_schedule_is_another_run(schedule: Config) -> None:
    assert run_id(parse({**smoke(), "schedule": schedule})) != run_id(parse(smoke()))
    again = {key: schedule[key] for key in reversed(schedule)}
    assert run_id(parse({**smoke(), "schedule": again})) == run_id(parse({**smoke(), "schedule": schedule}))


def test_the_order_of_milestones_and_betas_is_part_of_them() -> None:
    adam = smoke("optimizer=adam")
    swapped = changed(adam, ("optimizer", "betas"), adam["optimizer"]["betas"][::-1])
    assert run_id(parse(swapped)) != run_id(parse(adam))


def test_the_experiment_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    config = smoke()
    monkeypatch.setattr("reltrust.experiment.load", lambda _: SUBJECT)
    assert run_id(parse({**config, "experiment": "another"})) != run_id(parse(config))


def test_how_an_optimizer_is_drawn_is_no_part_of_the_identity() -> None:
    config = smoke("optimizer=adam")
    plain = changed(config, ("optimizer", "style"), {"label": "Another", "color": "#123456"})
    assert parse(plain) != parse(config)
    assert run_id(parse(plain)) == run_id(parse(config))


def test_a_part_that_an_experiment_has_no_use_for_is_no_part_of_its_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SUBJECT, "check", lambda *_: None)
    assert "data" not in semantic(parse({**smoke(), "data": None}))


def test_a_raised_protocol_is_another_run_and_another_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parse(smoke())
    before = run_id(settings), comparison_id(settings)
    monkeypatch.setattr(SUBJECT, "protocol", SUBJECT.protocol + 1)
    after = run_id(settings), comparison_id(settings)
    assert all(one != two for one, two in zip(before, after, strict=True))


# --- what does not ---------------------------------------------------------------------------------------------------


def test_no_setting_of_the_machine_or_of_tracking_changes_the_run() -> None:
    config = smoke()
    settings = parse(config)
    seen = set()
    for keys, value in leaves({key: config[key] for key in MACHINE_FIELDS}):
        elsewhere = parse(changed(config, keys, other(keys, value)))
        assert elsewhere != settings, f"{keys} was not changed"
        assert run_id(elsewhere) == run_id(settings), keys
        assert comparison_id(elsewhere) == comparison_id(settings), keys
        assert run_directory(elsewhere) == run_directory(settings), keys
        seen.add(keys)
    every = {(part, f.name) for part, kind in (("machine", Machine), ("tracking", Tracking)) for f in fields(kind)}
    assert seen == every


@pytest.mark.parametrize("key", ["lr", "p_scale", "g_bound", "of_our_own"])
def test_three_and_three_point_zero_are_one_number(key: str) -> None:
    whole, point, more = (parse(changed(smoke("optimizer=madam"), ("optimizer", key), n)) for n in (3, 3.0, 3.5))
    assert run_id(whole) == run_id(point)
    assert run_directory(whole) == run_directory(point)
    assert run_id(more) != run_id(point)


def test_numbers_in_lists_and_mappings_are_compared_as_numbers_too() -> None:
    nested = [{"steps": [1, 2.0], "by": {"part": 4.0}}, {"steps": [1.0, 2], "by": {"part": 4}}]
    one, two = (run_id(parse(changed(smoke(), ("optimizer", "of_our_own"), value))) for value in nested)
    assert one == two


def test_true_and_one_are_not_the_same() -> None:
    one, true = (run_id(parse(changed(smoke(), ("optimizer", "of_our_own"), value))) for value in (1, True))
    assert one != true


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_default_that_is_given_explicitly_is_the_same_run(optimizer: str) -> None:
    config = smoke(f"optimizer={optimizer}")
    explicit = [
        f"{'.'.join(keys)}={json.dumps(value)}"
        for keys, value in leaves({key: part for key, part in config.items() if key not in MACHINE_FIELDS})
    ]
    assert len(explicit) > 12
    assert run_id(parse(smoke(f"optimizer={optimizer}", *explicit))) == run_id(parse(config))


def test_the_group_that_is_the_default_may_be_named() -> None:
    named = smoke("experiment=mlp_depth", "optimizer=fromage", "data=digits", "launcher=processes", "tracking=none")
    assert run_id(parse(named)) == run_id(parse(smoke()))


@pytest.mark.parametrize("key", ["g_bound", "of_our_own"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_number_that_is_not_finite_has_no_identity_and_is_refused_with_its_key(key: str, value: float) -> None:
    with pytest.raises(SettingsError, match=rf"optimizer\.{key}"):
        parse(changed(smoke("optimizer=madam"), ("optimizer", key), value))


# --- the directory and the comparison --------------------------------------------------------------------------------


def test_the_directory_names_the_run_for_people_and_by_its_id() -> None:
    settings = parse(smoke("optimizer=adam", "task.hidden_layers=7", "optimizer.lr=1e-4", "seed=3"))
    directory = run_directory(settings)
    assert not directory.is_absolute()
    assert PurePosixPath(*directory.parts) == PurePosixPath(
        f"mlp_depth/adam/depth7-lr0.0001-seed3-{run_id(settings)[:8]}"
    )


def test_an_id_is_sixty_four_hexadecimal_digits() -> None:
    for identity in (run_id(parse(smoke())), comparison_id(parse(smoke()))):
        assert len(identity) == 64
        assert set(identity) <= set("0123456789abcdef")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_comparison_leaves_out_the_optimizer_the_seed_and_the_depth_and_nothing_else(optimizer: str) -> None:
    config = smoke(f"optimizer={optimizer}")
    same = comparison_id(parse(config))
    assert same == comparison_id(parse(smoke()))
    left_out = {name for name, settings in semantic_changes(config) if comparison_id(settings) == same}
    assert left_out == {
        "seed",
        "task.hidden_layers",
        *(".".join(keys) for keys, _ in leaves({"optimizer": config["optimizer"]}) if keys[1] != "style"),
    }


def test_what_is_hashed_can_be_read_and_holds_the_protocol() -> None:
    settings = parse(smoke("trainer.precision=bf16"))
    content = semantic(settings)
    assert content["protocol"] == SUBJECT.protocol
    assert set(content) == set(asdict(settings)) - set(MACHINE_FIELDS) | {"protocol"}
    assert json.loads(json.dumps(content)) == content


# --- any settings ----------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"x_[a-z]{1,5}", fullmatch=True)  # of hyperparameters that nobody has yet
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)


def shuffled(value: Any, draw: st.DrawFn) -> Any:
    """The same value with the keys of every mapping in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], draw) for key in draw(st.permutations(list(value)))}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


@hypothesis_settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), hyperparameters=st.dictionaries(NAMES, VALUES, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_equal_settings_have_equal_ids_whatever_the_order_of_their_keys(
    data: st.DataObject, hyperparameters: Config, seed: int
) -> None:
    config = {**smoke("optimizer=adam"), "seed": seed}
    config["optimizer"] |= hyperparameters
    one, two = parse(config), parse(shuffled(config, data.draw))
    assert one == two
    assert (run_id(one), comparison_id(one)) == (run_id(two), comparison_id(two))
    assert run_directory(one) == run_directory(two)


@hypothesis_settings(max_examples=40, deadline=None, derandomize=True)
@given(one=st.floats(1e-300, 1e300), two=st.floats(1e-300, 1e300))
def test_two_learning_rates_are_one_run_exactly_when_they_are_one_number(one: float, two: float) -> None:
    first, second = (run_id(parse(changed(composed(), ("optimizer", "lr"), lr))) for lr in (one, two))
    assert (first == second) == (one == two)


def test_the_precision_that_runs_had_before_there_was_a_choice_is_no_part_of_their_id() -> None:
    """The id of a run that was recorded then."""
    config = smoke("scale=quick", "optimizer=adam", "optimizer.lr=0.0001", "task.hidden_layers=16")
    assert run_id(parse(config))[:8] == "81cef310"
    assert run_id(parse(changed(config, ("trainer", "precision"), "bf16")))[:8] != "81cef310"
