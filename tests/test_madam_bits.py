"""B-bit Madam on all benchmarks: the representation and its bytes, the sweep, the errors, the verdicts, the figure."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from reltrust.experiments.madam_bits import figure, representation, verdicts
from reltrust.experiments.madam_bits.representation import Strategy
from torch import nn

from hydra_plugins.reltrust_plugins.scripting import settings_of_sweep
from reltrust.errors import SettingsError
from reltrust.models.conditional_gan import Discriminator, Generator
from reltrust.models.mlp import MLP
from reltrust.models.resnet import ResNet18
from reltrust.models.transformer import TransformerLM
from reltrust.optim import IntegerMadam, Madam, lns
from reltrust.packing.runner import run_pack
from reltrust.records.identity import comparison_id, run_id
from reltrust.records.summaries import collect
from reltrust.reporting import report
from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import Selection, select
from reltrust.reporting.style import Styles
from reltrust.reporting.table import load
from reltrust.settings import Settings
from reltrust.sweeps.grids import expand
from reltrust.sweeps.plan import plan
from runs import composed, metrics, run, settings_of

Resolve = Callable[..., Settings]

# --- the representation ----------------------------------------------------------------------------------------------


def test_at_twelve_bits_both_strategies_are_the_published_setting() -> None:
    assert representation.levels(12) == 4096
    assert {one: representation.base_lr(one, 12) for one in Strategy} == dict.fromkeys(Strategy, 0.001)
    assert representation.strategies(4096, 0.001) == tuple(Strategy)


@pytest.mark.parametrize("bits", range(1, 17))
def test_one_strategy_keeps_the_range_and_the_other_the_precision(bits: int) -> None:
    count = representation.levels(bits)
    assert representation.bits_of(count) == bits == lns.bits(count)
    assert representation.base_lr(Strategy.RANGE, bits) * count == pytest.approx(4.096, rel=1e-12)
    assert representation.base_lr(Strategy.PRECISION, bits) == 0.001


@pytest.mark.parametrize("bits", [0, -1, 17, 8.0, True])
def test_bits_that_integer_madam_has_no_levels_for_are_refused(bits: Any) -> None:
    for of in (representation.levels, lambda bits: representation.base_lr(Strategy.RANGE, bits)):
        with pytest.raises(SettingsError, match=r"must be an integer in 1\.\.16"):
            of(bits)


@pytest.mark.parametrize("count", [1, 100, 65_535, 131_072])
def test_levels_that_are_of_no_whole_bits_are_refused(count: int) -> None:
    with pytest.raises(SettingsError, match=rf"optimizer.levels={count}: must be a power of two in 2..65536"):
        representation.bits_of(count)


def test_levels_and_base_lr_that_contradict_the_strategies_are_refused_by_name() -> None:
    usual = settings_of("experiment=mlp_depth", "scale=smoke", "optimizer=integer_madam")
    assert usual.optimizer is not None
    changed = [
        replace(usual, optimizer=replace(usual.optimizer, hyperparameters=usual.optimizer.hyperparameters | keys))
        for keys in (
            {"levels": 256, "base_lr": 0.01},
            {"levels": 100},
            {"levels": 256, "base_lr": 0.01, "init": "random"},
        )
    ]
    representation.check_runs([usual, changed[2], settings_of("experiment=mlp_depth", "scale=smoke")])
    with pytest.raises(SettingsError) as error:
        representation.check_runs([usual, changed[0]])
    assert str(error.value) == (
        "optimizer.base_lr=0.01 with optimizer.levels=256: "
        "must be 0.016 (fixed dynamic range) or 0.001 (fixed base precision)"
    )
    with pytest.raises(SettingsError, match=r"optimizer\.levels=100: must be a power of two"):
        representation.check_runs([changed[1]])


def test_a_grid_that_contradicts_the_strategies_is_refused_before_anything_starts() -> None:
    words = ["sweep=madam_bits", "scale=smoke", "optimizer=integer_madam", "experiment=mlp_depth"]
    assert settings_of_sweep(words)
    grids = "[{experiment: mlp_depth, optimizer: integer_madam, optimizer.levels: 256, optimizer.base_lr: 0.01}]"
    with pytest.raises(SettingsError, match=r"optimizer\.base_lr=0\.01 with optimizer\.levels=256: must be 0\.016"):
        settings_of_sweep([*words, f"sweep.grids={grids}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # What the sweep does not compare it does not run.
        (["optimizer.levels=256", "optimizer.base_lr=0.01"], "no run of the sweep has these values together"),
        (["optimizer.levels=64", "optimizer.base_lr=0.016"], "no run of the sweep has these values together"),
        (["optimizer.levels=131072"], "no run of the sweep has these values together"),
    ],
)
def test_a_sweep_of_what_contradicts_the_strategies_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings_of_sweep(["sweep=madam_bits", "optimizer=integer_madam", *words])
    assert message in str(error.value)
    assert words[0] in str(error.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer.levels=65537", "levels=65537"),
        ("optimizer.levels=256.5", "levels=256.5"),
        ("optimizer.base_lr=0", "base_lr=0"),
    ],
)
def test_a_single_run_of_impossible_bits_is_refused_before_it_is_written(
    reltrust: Callable[..., Any], tmp_path: Path, word: str, message: str
) -> None:
    words = ["experiment=mlp_depth", "scale=smoke", "optimizer=integer_madam", "tracking=none", word]
    answer = reltrust(*words)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 6, 8, 12, 16])
def test_packed_bytes_are_those_that_packing_makes(bits: int) -> None:
    level = torch.randint(0, 2**bits, (800,), generator=torch.Generator().manual_seed(0))
    packed = lns.pack(torch.ones(800, dtype=torch.int8), level, levels=2**bits)
    assert packed.numel() == 800 * representation.packed_bytes(bits)


def held(optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> float:
    """Bytes a weight of parameter and state, what there is once a tensor left out."""
    param = nn.Parameter(torch.ones(64, 64))
    chosen = optimizer([param])
    param.grad = torch.ones(64, 64)
    chosen.step()
    state = [value for value in chosen.state[param].values() if isinstance(value, torch.Tensor)]
    return sum(value.nbytes for value in [param, *state] if value.numel() == param.numel()) / param.numel()


@pytest.mark.parametrize("bits", [6, 8, 9, 12, 14, 15, 16])
def test_training_bytes_are_those_that_integer_madam_holds(bits: int) -> None:
    assert representation.training_bytes(bits) == held(lambda params: IntegerMadam(params, levels=2**bits))


def test_training_bytes_of_the_others_are_those_that_they_hold() -> None:
    optimizers: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
        "sgd": lambda params: torch.optim.SGD(params, lr=0.1),
        "sgd_momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        "madam": Madam,
        "adam": torch.optim.Adam,
    }
    found = {name: held(optimizer) for name, optimizer in optimizers.items()}
    assert found == representation.TRAINING_BYTES


def models(scale: str) -> dict[str, Sequence[nn.Module]]:
    """The networks of each benchmark, without storage."""
    built: dict[str, Sequence[nn.Module]] = {}
    for name, of in verdicts.BENCHMARKS[scale].items():
        task: Any = settings_of(f"experiment={of.source[0]}", f"scale={of.source[1]}").task
        with torch.device("meta"):
            if name == "perceptron":
                built[name] = [MLP(64, task.width, task.hidden_layers, 10)]
            elif name == "classifier":
                built[name] = [ResNet18(task.architecture, task.channels, 10, affine=False)]
            elif name == "GAN":
                built[name] = [
                    Generator(task.channels, 10, blocks=task.blocks),
                    Discriminator(task.channels, 10, blocks=task.blocks),
                ]
            else:
                words = {"bits": 12_769, "paper": 33_278}[of.source[1]]
                sizes = {key: getattr(task, key) for key in ("width", "layers", "heads", "hidden", "dropout")}
                built[name] = [TransformerLM(words, context=task.bptt, **sizes)]
    return built


@pytest.mark.parametrize("scale", verdicts.BENCHMARKS)
def test_the_weights_of_the_second_axis_are_those_of_the_networks(scale: str) -> None:
    found = {name: sum(p.numel() for one in every for p in one.parameters()) for name, every in models(scale).items()}
    assert found == {name: of.weights for name, of in verdicts.BENCHMARKS[scale].items()}


# --- the sweep -------------------------------------------------------------------------------------------------------


@cache
def swept(scale: str) -> tuple[Settings, ...]:
    return tuple(settings_of_sweep(["sweep=madam_bits", f"scale={scale}"]))


def of_bits(scale: str, name: str) -> list[Settings]:
    return [
        one
        for one in swept(scale)
        if one.experiment == name and one.optimizer is not None and one.optimizer.name == "integer_madam"
    ]


def test_every_width_of_the_quick_sweep_is_of_a_strategy_and_both_are_there() -> None:
    found: dict[str, dict[Strategy, set[int]]] = {}
    for one in swept("quick"):
        assert one.optimizer is not None
        if one.optimizer.name != "integer_madam":
            continue
        pair = (one.optimizer.hyperparameters["levels"], one.optimizer.hyperparameters["base_lr"])
        of = representation.strategies(*pair)
        assert of, pair
        for strategy in of:
            found.setdefault(one.experiment, {}).setdefault(strategy, set()).add(representation.bits_of(pair[0]))
    every = {6, 8, 10, 12, 14}
    benchmarks = {of.source[0] for of in verdicts.BENCHMARKS["quick"].values()}
    assert found == {name: {Strategy.RANGE: every, Strategy.PRECISION: every} for name in benchmarks}


def test_b_bit_madam_differs_from_fp32_madam_in_its_representation_alone() -> None:
    for name, of in ((of.source[0], of) for of in verdicts.BENCHMARKS["quick"].values()):
        mine = [one for one in swept("quick") if one.experiment == name]
        madam = next(one for one in mine if one.optimizer and one.optimizer.name == "madam" and one.seed == 0)
        assert madam.optimizer is not None
        assert madam.optimizer.lr == verdicts.LR
        for one in of_bits("quick", name):
            assert one.optimizer is not None
            assert replace(one, optimizer=madam.optimizer, seed=0) == madam
            assert one.optimizer.lr == madam.optimizer.lr
            own, theirs = one.optimizer.hyperparameters, madam.optimizer.hyperparameters
            assert {key: own[key] for key in verdicts.SHARED} == theirs
            assert own["init"] == verdicts.INIT["quick"]
        arms = {one.optimizer.name for one in mine if one.optimizer}
        assert arms == {"madam", "adam", of.sgd, "integer_madam"}


def test_sgd_and_adam_have_learning_rates_of_the_benchmarks_own_quick_grids() -> None:
    for one in swept("quick"):
        assert one.optimizer is not None
        if one.optimizer.name in ("madam", "integer_madam"):
            continue
        grids = expand(composed(f"sweep={one.experiment}", "scale=quick")["sweep"]["grids"], {})
        lrs = {float(point["optimizer.lr"]) for point in grids if point["optimizer"] == one.optimizer.name}
        assert one.optimizer.lr in lrs, (one.experiment, one.optimizer.name)


@pytest.mark.parametrize("of", verdicts.BENCHMARKS["quick"].values(), ids=verdicts.BENCHMARKS["quick"])
def test_what_is_trained_is_the_quick_scale(of: verdicts.Benchmark) -> None:
    name = of.source[0]
    bits, quick = (settings_of(f"experiment={name}", f"scale={scale}") for scale in ("bits", "quick"))
    assert bits.training is not None
    assert quick.training is not None
    assert bits.training.evaluate_every == bits.training.steps
    same = replace(bits, task=quick.task, training=quick.training, machine=quick.machine)
    assert same == quick
    assert replace(bits.training, evaluate_every=quick.training.evaluate_every) == quick.training
    axes = {key: getattr(quick.task, key) for key in quick.task.axes}
    assert replace(bits.task, **axes) == quick.task  # type: ignore[type-var]
    if of.at is not None:
        assert getattr(bits.task, of.x) == of.at


@pytest.mark.parametrize("name", ["classifier", "GAN", "transformer"])
def test_the_paper_scale_has_the_published_settings(name: str) -> None:
    of = verdicts.BENCHMARKS["paper"][name]
    published = figure.PUBLISHED
    wanted = published[(published["benchmark"] == name) & (published["data"] != "cifar100")].set_index("bits")
    runs = of_bits("paper", of.source[0])
    assert len(runs) == len(wanted)
    named = comparison_id(settings_of(f"experiment={of.source[0]}", f"scale={of.source[1]}"))
    for one in runs:
        assert one.optimizer is not None
        assert one.lr_schedule is not None
        own = one.optimizer.hyperparameters
        row = wanted.loc[representation.bits_of(own["levels"])]
        assert (own["levels"], own["base_lr"], own["init"]) == (row["levels"], row["base_lr"], row["init"])
        assert one.optimizer.lr / own["base_lr"] == pytest.approx(row["lr_factor"])
        assert one.lr_schedule.decay == pytest.approx(1 / row["lr_factor_divided_by"])  # type: ignore[union-attr]
        assert pd.isna(row["p_scale"]) or own["p_scale"] == row["p_scale"]
        # A schedule of its own does not take a run out of its comparison.
        assert comparison_id(one) == named


def test_every_published_setting_names_its_bits() -> None:
    for row in figure.PUBLISHED.itertuples():
        assert representation.bits_of(row.levels) == row.bits
        assert row.base_lr * row.lr_factor == pytest.approx(0.016 if row.benchmark == "classifier" else 0.01)


# --- what bits do to a step ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "moved"), [(14, 40), (12, 10), (10, 2), (8, 1), (6, 0)])
def test_the_first_step_in_a_fixed_range_moves_weights_by_the_rounded_factor(bits: int, moved: int) -> None:
    """Its normalised gradient is 1, lr / base_lr levels are due: 40, 10, 2.5, 0.625, 0.156: six bits forget it."""
    param = nn.Parameter(torch.linspace(0.2, 1.0, 50))
    b = representation.base_lr(Strategy.RANGE, bits)
    chosen = IntegerMadam([param], lr=0.01, levels=2**bits, base_lr=b)
    param.grad = torch.zeros(50)
    chosen.step()
    before = chosen.state[param]["level"].to(torch.int32).clone()
    chosen.state[param]["exp_avg_rms"].zero_()
    chosen.state[param]["step"].zero_()
    param.grad = torch.full((50,), 0.3)
    chosen.step()
    after = chosen.state[param]["level"].to(torch.int32)
    assert (after - before).tolist() == [min(moved, 2**bits - 1 - n) for n in before.tolist()]


def test_a_fixed_precision_of_few_bits_leaves_no_small_weight() -> None:
    weight = torch.tensor([1.0, 0.5, 0.1, 1e-6])
    for bits, least in ((12, np.exp(-4.095)), (8, np.exp(-0.255))):
        kept = lns.quantize(weight, levels=2**bits, base_lr=0.001)
        meant = lns.dequantize(*kept, levels=2**bits, base_lr=0.001)
        assert float(meant.min()) == pytest.approx(least, rel=1e-6)


# --- errors and verdicts, from made-up tables ------------------------------------------------------------------------

SETTINGS = {"target": "reltrust.optim.Madam", "p_scale": 3.0, "g_bound": 10.0, "beta": 0.999}
# Errors: FP32 Madam, SGD, Adam, and B-bit Madam by strategy and bits.
ERRORS: dict[str, Any] = {
    "madam": 0.10,
    "sgd": 0.20,
    "adam": 0.08,
    Strategy.RANGE: {6: 0.9, 8: 0.3, 12: 0.105},
    Strategy.PRECISION: {6: 0.95, 8: 0.6, 12: 0.105},
}


def rows(scale: str, name: str, errors: dict[Any, Any]) -> pd.DataFrame:
    """The table of one benchmark."""
    of = verdicts.BENCHMARKS[scale][name]

    def row(optimizer: str, lr: float, error: float, **hyperparameters: Any) -> dict[str, Any]:
        value = 1 - error if of.measure.best == "max" else float(np.log(error)) if of.measure.exp else error
        return {
            "optimizer": optimizer, "lr": lr, "seed": 0, "status": "finished", "style": "{}", "comparison": "abcdef01",
            "run": f"{optimizer}/{lr}{hyperparameters}", "hyperparameters": json.dumps(SETTINGS | hyperparameters),
            "scale": of.source[1], of.x: of.at or 8, of.measure.column: value, of.measure.ties: 1.0,
        }  # fmt: skip

    made = [
        row({"sgd": of.sgd}.get(arm, arm), 0.01, errors[arm])
        for arm in ("madam", "sgd", "adam")
        if arm in errors
    ]  # fmt: skip
    init = verdicts.INIT[scale]
    every = {
        (2**bits, representation.base_lr(strategy, bits)): error
        for strategy in Strategy
        for bits, error in errors.get(strategy, {}).items()
    }
    made += [
        row("integer_madam", 0.01, error, levels=levels, base_lr=b, init=init) for (levels, b), error in every.items()
    ]
    return pd.DataFrame(made)


def selections(*changes: dict[Any, Any], scale: str = "quick") -> list[Selection]:
    """Of all benchmarks, with changed errors of the first ones."""
    found = []
    for i, (name, of) in enumerate(verdicts.BENCHMARKS[scale].items()):
        table = rows(scale, name, ERRORS | (changes[i] if i < len(changes) else {}))
        table["arm"] = table["optimizer"].where(table["optimizer"] != "integer_madam", table["run"])
        found.append(select(table, of.comparison, scale))
    return found


QUICK = list(verdicts.BENCHMARKS["quick"])


def judged(judge: Callable[..., tuple[str, Verdict]], given: Sequence[Any], *ours: Selection) -> tuple[str, Verdict]:
    return judge("quick", QUICK, *given, *ours)


def test_twelve_bits_are_close_on_all_benchmarks_on_half_of_them_or_on_fewer() -> None:
    text, verdict = judged(verdicts.judge_close, (12, "madam"), *selections())
    assert text == "perceptron x 1.05, classifier x 1.05, GAN x 1.05, transformer x 1.05 (n=1)"
    assert verdict is Verdict.REPRODUCED
    worse = {"madam": 0.05}
    expected = [Verdict.REPRODUCED, Verdict.PARTLY, Verdict.PARTLY, Verdict.NOT_REPRODUCED, Verdict.NOT_REPRODUCED]
    for count, wanted in enumerate(expected):
        assert judged(verdicts.judge_close, (12, "madam"), *selections(*[worse] * count))[1] is wanted


def test_twelve_bits_are_compared_with_the_better_one_of_sgd_and_adam() -> None:
    text, verdict = judged(verdicts.judge_close, (12, "best"), *selections({"adam": 0.3}))
    assert text == "perceptron x 0.525, classifier x 1.31, GAN x 1.31, transformer x 1.31 (n=1)"
    assert verdict is Verdict.NOT_REPRODUCED


def test_eight_bits_lose_where_they_are_worse_by_more_than_a_tenth() -> None:
    assert judged(verdicts.judge_loses, (8,), *selections())[1] is Verdict.REPRODUCED
    same = {Strategy.RANGE: {8: 0.1, 12: 0.1}}
    expected = [Verdict.PARTLY, Verdict.PARTLY, Verdict.NOT_REPRODUCED, Verdict.NOT_REPRODUCED]
    for count, wanted in enumerate(expected, start=1):
        assert judged(verdicts.judge_loses, (8,), *selections(*[same] * count))[1] is wanted


def test_the_strategies_are_compared_at_the_same_bits() -> None:
    text, verdict = judged(verdicts.judge_strategies, (8,), *selections())
    assert text.startswith("perceptron x 0.5, ")
    assert verdict is Verdict.REPRODUCED
    other = {Strategy.PRECISION: {8: 0.31, 12: 0.105}}  # within a tenth is not less
    assert judged(verdicts.judge_strategies, (8,), *selections(*[other] * 3))[1] is Verdict.NOT_REPRODUCED


def test_errors_of_zero_are_as_good_as_each_other_and_better_than_any_other() -> None:
    assert verdicts.ratio(0.0, 0.0) == 1
    assert verdicts.ratio(0.1, 0.0) == float("inf")
    zero = {"madam": 0.0, Strategy.RANGE: {8: 0.01, 12: 0.0}, Strategy.PRECISION: {12: 0.0}}
    text, verdict = judged(verdicts.judge_close, (12, "madam"), *selections(zero))
    assert text.startswith("perceptron x 1, ")
    assert verdict is Verdict.REPRODUCED


@pytest.mark.parametrize("missing", ["madam", Strategy.RANGE])
@pytest.mark.parametrize("place", range(4))
def test_nothing_is_said_while_a_benchmark_lacks_what_is_compared(missing: str, place: int) -> None:
    gone = {Strategy.RANGE: {}, Strategy.PRECISION: {}} if missing == Strategy.RANGE else {}
    ours = selections()
    name = QUICK[place]
    errors = {key: value for key, value in (ERRORS | gone).items() if key != missing}
    table = rows("quick", name, errors)
    table["arm"] = table["optimizer"].where(table["optimizer"] != "integer_madam", table["run"])
    ours[place] = select(table, verdicts.BENCHMARKS["quick"][name].comparison, "quick")
    for judge, given in (
        (verdicts.judge_close, (12, "madam")),
        (verdicts.judge_loses, (8,)),
        (verdicts.judge_strategies, (8,)),
    ):
        assert judged(judge, given, *ours) == ("-", Verdict.NOT_RUN)


def test_a_diverged_width_counts_as_the_worst_value() -> None:
    name, of = "classifier", verdicts.BENCHMARKS["quick"]["classifier"]
    table = rows("quick", name, ERRORS)
    table["arm"] = table["optimizer"].where(table["optimizer"] != "integer_madam", table["run"])
    of_8 = table["hyperparameters"].str.contains('"levels": 256, "base_lr": 0.016')
    assert of_8.sum() == 1
    table.loc[of_8, "status"] = "diverged"
    found = verdicts.points(select(table, of.comparison, "quick"), of, "quantize")
    assert verdicts.error_at(8, found, Strategy.RANGE) == of.measure.diverged
    assert verdicts.error_at(8, found, Strategy.PRECISION) == 0.6


def test_only_what_differs_from_fp32_madam_in_its_representation_is_a_point() -> None:
    of = verdicts.BENCHMARKS["quick"]["classifier"]
    table = rows("quick", "classifier", ERRORS)
    others = table[table["optimizer"] == "integer_madam"].iloc[:3].copy()
    changes = ({"init": "random"}, {"p_scale": 1.0}, {"levels": 1000})
    others["hyperparameters"] = [
        json.dumps(json.loads(text) | change)
        for text, change in zip(others["hyperparameters"], changes, strict=True)
    ]  # fmt: skip
    others["run"] += " other"
    both = pd.concat([table, others], ignore_index=True)
    both["arm"] = both["optimizer"].where(both["optimizer"] != "integer_madam", both["run"])
    found = verdicts.points(select(both, of.comparison, "quick"), of, "quantize")
    assert sorted(zip(found["bits"], found["error"], strict=True)) == [
        (6, 0.9), (6, 0.95), (8, 0.3), (8, 0.6), (12, 0.105),
    ]  # fmt: skip


def test_fp32_madam_is_the_one_at_its_one_learning_rate_though_another_one_is_better() -> None:
    of = verdicts.BENCHMARKS["quick"]["classifier"]
    table = rows("quick", "classifier", ERRORS)
    better = table[table["optimizer"] == "madam"].assign(lr=0.1, run="madam/0.1", train_loss=0.01)
    table = pd.concat([table, better], ignore_index=True).assign(arm=lambda runs: runs["optimizer"])
    ours = select(table[table["optimizer"] != "integer_madam"], of.comparison, "quick")
    assert verdicts.references(ours, of)["madam"].tolist() == [0.10]


# --- the report ------------------------------------------------------------------------------------------------------


def write(results: Path, *names: str) -> Path:
    """Tables of the benchmarks as their runs would leave them."""
    (results / "summaries").mkdir(parents=True)
    for name in names:
        path = results / "summaries" / f"{verdicts.BENCHMARKS['quick'][name].source[0]}.csv"
        rows("quick", name, ERRORS).to_csv(path, index=False)
    return results


def test_it_is_drawn_and_judged_from_the_tables_of_the_benchmarks(tmp_path: Path) -> None:
    told = report.write(write(tmp_path, *QUICK), "madam_bits")
    assert (tmp_path / "figures" / "madam_bits-quick.pdf").exists()
    assert "12-bit Madam stays close to FP32 Madam" in told
    (found,) = report.evaluate(tmp_path, "madam_bits", figure.REPORT)
    assert [one.verdict for one in found.judgements] == [
        Verdict.REPRODUCED, Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.REPRODUCED,
    ]  # fmt: skip
    cells = pd.read_csv(tmp_path / "summaries" / "madam_bits-quick-selected.csv")
    assert cells.groupby("experiment").size().to_dict() == dict.fromkeys(figure.REPORT.reads, 8)


def test_without_a_benchmark_the_others_are_drawn_and_nothing_is_judged(tmp_path: Path) -> None:
    report.write(write(tmp_path, "classifier"), "madam_bits")
    assert (tmp_path / "figures" / "madam_bits-quick.png").exists()
    (found,) = report.evaluate(tmp_path, "madam_bits", figure.REPORT)
    assert {one.verdict for one in found.judgements} == {Verdict.NOT_RUN}


def test_the_panels_show_the_errors_of_both_strategies_the_references_and_the_bytes() -> None:
    ours = selections()
    styles = Styles(pd.concat([one.runs for one in ours]))
    drawn = figure.error_against_bits(*ours, styles)
    panels = drawn.axes
    assert [axes.get_title() for axes in panels] == [
        "perceptron: test error",
        "classifier: training loss",
        "GAN: Frechet distance",
        "transformer: validation perplexity",
    ]
    drawn.canvas.draw()
    for axes, of in zip(panels, verdicts.BENCHMARKS["quick"].values(), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        for strategy in Strategy:
            line = lines[f"B-bit Madam, {strategy}"]
            assert list(line.get_xdata()) == [6, 8, 12]
            assert list(line.get_ydata()) == pytest.approx([ERRORS[strategy][bits] for bits in (6, 8, 12)])
        for label, arm in (("FP32 Madam", "madam"), (styles.label(of.sgd), "sgd"), (styles.label("adam"), "adam")):
            assert list(lines[label].get_ydata()) == pytest.approx([ERRORS[arm]] * 2)
        assert axes.get_xlabel() == "bits of a level (n=1)"
        (above,) = axes.child_axes
        shown = [text.get_text() for text in above.get_xticklabels()]
        unit = {"kB": 1e3, "MB": 1e6}[above.get_xlabel()[:2]]
        assert [float(text) for text in shown] == pytest.approx(
            [of.weights * (bits + 1) / 8 / unit for bits in (6, 8, 12)], rel=5e-3
        )
        assert f"FP32: {of.weights * 4 / unit:.3g}" in above.get_xlabel()


@pytest.mark.parametrize("name", ["mlp_depth", "cifar_classifier", "cifar_gan", "transformer_lm"])
def test_the_benchmarks_leave_these_runs_to_this_report(name: str, tmp_path: Path) -> None:
    names = {of.source[0]: key for key, of in verdicts.BENCHMARKS["quick"].items()}
    results = write(tmp_path, names[name])
    assert list(report.evaluate(results, name, report.load_report(name))) == []


# --- a schedule of its own -------------------------------------------------------------------------------------------


def test_an_optimizer_may_have_a_schedule_of_its_own_within_the_comparison() -> None:
    usual = settings_of("experiment=mlp_depth", "scale=smoke")
    own = settings_of("experiment=mlp_depth", "scale=smoke", "+optimizer.schedule.decay=0.25")
    assert usual.schedule is not None
    assert usual.lr_schedule == usual.schedule == own.schedule
    assert own.lr_schedule == replace(usual.schedule, decay=0.25) == own.trained[1]  # type: ignore[call-arg]
    assert comparison_id(own) == comparison_id(usual)
    assert run_id(own) != run_id(usual)


def test_a_schedule_of_its_own_that_is_that_of_all_is_none() -> None:
    usual = settings_of("experiment=mlp_depth", "scale=smoke")
    same = settings_of("experiment=mlp_depth", "scale=smoke", "+optimizer.schedule.decay=0.95")
    assert usual.schedule == same.schedule
    assert run_id(same) == run_id(usual)


def test_a_schedule_of_its_own_may_be_another_one() -> None:
    words = "+optimizer.schedule={name: cosine, warmup: 2, floor: 0.0}"
    chosen = settings_of("experiment=mlp_depth", "scale=smoke", words)
    assert chosen.lr_schedule is not None
    assert chosen.lr_schedule.name == "cosine"
    assert chosen.lr_schedule.depends_on_length


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+optimizer.schedule.decay=2", "optimizer.schedule.decay=2: must be less than or equal to 1"),
        ("+optimizer.schedule.at=[1]", "optimizer.schedule.at=[1]: unknown key"),
        ("+optimizer.schedule=3", "optimizer.schedule=3: must be keys of a schedule"),
        (
            "+optimizer.schedule={name: cosine, warmup: 500, floor: 0.0}",
            "optimizer.schedule.warmup=500: must be less than training.steps=120",
        ),
        ("+optimizer.players.model.schedule.decay=0.5", "optimizer.players.model.schedule: players have one schedule"),
    ],
)
def test_a_wrong_schedule_of_its_own_is_refused_by_name(word: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings_of("experiment=mlp_depth", "scale=smoke", word)
    assert message in str(error.value)


def test_runs_follow_their_own_schedules_alone_and_in_a_pack_and_their_rows_say_so(
    settings: Resolve, tmp_path: Path
) -> None:
    words = ["optimizer=madam", "schedule=constant"]
    own = "+optimizer.schedule={name: exponential, decay: 0.5, every: 30}"
    run(alone := settings(*words, own))
    folder = f"machine.results={tmp_path / 'packed'}"
    packed = [settings(*words, own, folder), settings(*words, folder)]
    run_pack(plan(packed), max_members=None, memory_fraction=0.5, require_packing=True)
    halved, constant = ([row["lr"] for row in metrics(one)] for one in packed)
    assert halved == pytest.approx([0.01 * 0.5**i for i in range(4)])
    assert constant == pytest.approx([0.01] * 4)
    assert [row["train_loss"] for row in metrics(alone)] == [row["train_loss"] for row in metrics(packed[0])]
    collect(tmp_path / "packed", "mlp_depth", {})
    table = load(tmp_path / "packed", "mlp_depth")
    assert table["arm"].nunique() == 2
    said = [json.loads(text).get("schedule") for text in table["hyperparameters"]]
    assert {"name": "exponential", "decay": 0.5, "every": 30} in said
    assert None in said
