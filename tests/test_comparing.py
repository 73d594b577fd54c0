"""``sweep=compare``: new optimizers beside the papers' own on every benchmark."""

from collections import Counter
from functools import cache

import pytest

from hydra_plugins.reltrust_plugins.comparing import benchmark_grids, with_others
from hydra_plugins.reltrust_plugins.scripting import settings_of_sweep
from reltrust.errors import SettingsError
from reltrust.records.identity import run_id
from reltrust.settings import Settings

BENCHMARKS = ("mlp_depth", "cifar_classifier", "cifar_gan", "transformer_lm")


@cache
def runs(*words: str) -> list[Settings]:
    return settings_of_sweep(["sweep=compare", *words])


def ids(settings: list[Settings]) -> Counter[str]:
    return Counter(map(run_id, settings))


def of(settings: list[Settings], *names: str) -> list[Settings]:
    return [one for one in settings if one.optimizer is not None and one.optimizer.name in names]


@pytest.mark.parametrize("scale", ["smoke", "quick"])
def test_without_an_optimizer_it_is_the_benchmarks_own_sweeps(scale: str) -> None:
    own = [one for name in BENCHMARKS for one in settings_of_sweep([f"sweep={name}", f"scale={scale}"])]
    assert ids(runs(f"scale={scale}")) == ids(own)


def test_a_new_optimizer_comes_to_the_others_at_fromages_places_and_five_learning_rates() -> None:
    compared = runs("scale=quick", "optimizer=novograd")
    new, before = of(compared, "novograd"), runs("scale=quick")
    assert ids(compared) == ids(before) + ids(new)
    for name in BENCHMARKS:
        own = [one for one in new if one.experiment == name]
        places = {repr(one.task) for one in of(before, "fromage") if one.experiment == name}
        assert {repr(one.task) for one in own} == places
        assert Counter(one.optimizer.lr for one in own if one.optimizer) == dict.fromkeys(
            (1.0, 0.1, 0.01, 0.001, 0.0001), len(places)
        )
        # Not what was set for Fromage alone.
        assert {tuple(one.optimizer.hyperparameters) for one in own if one.optimizer} == {
            ("betas", "eps", "weight_decay", "grad_averaging")
        }


def test_an_optimizer_that_the_benchmarks_have_is_not_run_twice() -> None:
    both = runs("scale=smoke", "optimizer=novograd,fromage")
    assert ids(both) == ids(runs("scale=smoke", "optimizer=novograd"))


def test_several_are_compared_and_seeds_multiply_all() -> None:
    several = runs("scale=smoke", "optimizer=novograd,muon", "seed=0,1")
    assert (
        len(of(several, "muon"))
        == len(of(several, "novograd"))
        == 2 * len(of(runs("scale=smoke", "optimizer=novograd"), "novograd"))
    )
    assert len(of(several, "adam")) == 2 * len(of(runs("scale=smoke"), "adam"))


def test_one_benchmark_can_be_had_alone() -> None:
    alone = runs("scale=smoke", "optimizer=novograd", "experiment=transformer_lm")
    assert {one.experiment for one in alone} == {"transformer_lm"}
    assert of(alone, "novograd")


def test_a_scale_that_a_benchmark_has_not_is_refused_by_its_name() -> None:
    with pytest.raises(SettingsError, match=r"scale=madam: mlp_depth has no grids of it, it has paper, "):
        benchmark_grids(["mlp_depth"], "madam")
    with pytest.raises(SettingsError, match=r"sweep\.benchmarks=nobody: has no sweep, allowed are cifar_classifier, "):
        benchmark_grids(["nobody"], "quick")


def test_what_is_set_for_the_optimizer_whose_places_are_taken_is_left_behind() -> None:
    grids = [
        {"experiment": "e", "optimizer": ["a", "b"], "optimizer.lr": 1, "+optimizer.clip_norm": 2, "task.depth": [3]},
        {"experiment": "e", "optimizer": "b", "optimizer.lr": 5, "task.depth": [4]},
    ]
    more = with_others(grids, ["c", "b"], {"places_of": "a", "lrs": (7, 8)})
    assert more == [*grids, {"experiment": "e", "optimizer": "c", "optimizer.lr": [7, 8], "task.depth": [3]}]
