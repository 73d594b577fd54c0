"""Nystrom tops: splits and landmarks, packed trainings, verdicts, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from reltrust.experiments.nystrom import figure, verdicts
from reltrust.experiments.nystrom.kernels import KERNELS
from reltrust.experiments.nystrom.pool import Pool, load, split
from reltrust.experiments.nystrom.task import TopLayers

from reltrust.errors import SettingsError
from reltrust.records.identity import comparison_id
from reltrust.records.store import Status
from reltrust.records.summaries import collect
from reltrust.reporting import report
from reltrust.reporting.claims import Verdict
from reltrust.reporting.selection import Selection, select
from reltrust.settings import Settings
from runs import program_of, record_of, run, trained_alone_and_packed

Resolve = Callable[..., Settings]
WORDS = ["experiment=nystrom"]
CPU = torch.device("cpu")


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Pool:
    return load("digits", "nowhere", CPU)


def test_a_split_has_as_many_images_of_each_class_and_all_others_are_held_out(digits: Pool) -> None:
    chosen, held_out = split(digits, samples=5, examples=None, held_out=None, seed=3)
    assert torch.bincount(digits.labels[chosen]).tolist() == [5] * 10
    assert sorted([*chosen.tolist(), *held_out.tolist()]) == list(range(1_797))
    for m in (10, 20):  # landmarks are the first ones
        assert torch.bincount(digits.labels[chosen[:m]]).tolist() == [m // 10] * 10
    assert len(set(digits.labels[chosen[:4]].tolist())) == 4


def test_each_seed_has_a_split_of_its_own_and_more_samples_go_on_from_fewer(digits: Pool) -> None:
    splits = [split(digits, samples=5, examples=None, held_out=None, seed=seed)[0].tolist() for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    more, _ = split(digits, samples=20, examples=None, held_out=None, seed=0)
    assert more[:50].tolist() == splits[0]
    everything, held_out = split(digits, samples=0, examples=None, held_out=100, seed=0)
    assert (len(everything), len(held_out)) == (1_500, 100)


def test_data_with_a_split_of_their_own_keep_what_they_hold_out() -> None:
    photographs = load("photographs", "nowhere", CPU)
    chosen, held_out = split(photographs, samples=2, examples=4_600, held_out=30, seed=0)
    assert int(chosen.max()) < 4_600
    assert held_out.tolist() == list(range(5_000, 5_030))
    images, _ = photographs.batch(torch.arange(photographs.train))
    assert images.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert images.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-3)


def test_a_class_with_fewer_images_than_asked_for_is_an_error() -> None:
    """That there are enough in all is known before data are loaded, that there are of each class is not."""
    photographs = load("photographs", "nowhere", CPU)
    with pytest.raises(SettingsError, match=r"task\.samples=20: must be at most 0, which are all of a class among 200"):
        split(photographs, samples=20, examples=200, held_out=30, seed=0)


# --- tasks -----------------------------------------------------------------------------------------------------------

TOPS = [
    ["task.top=dense", "task.kernel=none", "task.size=16"],
    *([f"task.kernel={kernel}", "task.size=8"] for kernel in KERNELS),
    ["task.kernel=linear+chi2", "task.size=12", "task.columns=5"],
    ["task.top=fixed", "task.size=8"],
]


@pytest.mark.parametrize("words", TOPS, ids=" ".join)
def test_packed_trainings_measure_what_they_do_alone(settings: Resolve, words: list[str]) -> None:
    common = [*WORDS, *words, "task.samples=5", "training.batch_size=20"]
    chosen = [
        settings(*common, f"seed={seed}", f"optimizer.lr={lr}") for seed, lr in ((0, 0.01), (1, 0.01), (1, 0.003))
    ]
    alone, packed = trained_alone_and_packed(chosen, steps=10)
    for program, member in zip(alone, packed.state_dicts(), strict=True):
        assert torch.allclose(member["measured"], program.measured, rtol=1e-3, atol=1e-4)
    for program, measured in zip(alone, packed.evaluate(), strict=True):
        assert measured.row["test_loss"] == pytest.approx(program.evaluate()[0].row["test_loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["task.top=dense", "task.kernel=none", "task.size=16"], 128 * 16 + 16 + 16 * 10 + 10),
        (["task.size=8"], 8 * 8 + 8 * 10 + 10),
        (["task.size=8", "task.columns=3"], 8 * 3 + 3 * 10 + 10),
        (["task.size=8", "task.kernel=linear+rbf+chi2"], 3 * 8 * 8 + 3 * 8 * 10 + 10),
        (["task.size=8", "task.top=fixed"], 8 * 10 + 10),
    ],
)
def test_the_parameters_of_a_top_are_counted(settings: Resolve, words: list[str], count: int) -> None:
    row = program_of(settings(*WORDS, *words)).evaluate()[0].row
    convolutions = 8 * 9 + 8 + 32 * 8 * 9 + 32
    assert (row["top_parameters"], row["parameters"]) == (count, count + convolutions)


def test_landmarks_are_training_images_of_the_split(settings: Resolve) -> None:
    task: Any = program_of(settings(*WORDS, "task.size=20", "task.samples=5", "seed=4")).task
    assert isinstance(task, TopLayers)
    expected, _ = task.pool.batch(task.chosen[:20])
    assert torch.equal(task.landmarks, expected)
    assert torch.equal(task.module[0].landmarks, expected)


def test_it_learns_from_twenty_digits_of_each_class(settings: Resolve) -> None:
    chosen = settings(*WORDS, "optimizer.lr=0.03", "training.steps=60", "training.evaluate_every=60")
    assert run(chosen) is Status.FINISHED
    assert record_of(chosen).summary["test_accuracy"] > 0.6  # chance is a tenth


def test_vgg19_normalises_and_is_not_packed(settings: Resolve) -> None:
    chosen = settings(*WORDS, "task.network=vgg19", "data=photographs", "task.held_out=8", "task.samples=1",
                      "training.batch_size=10", "task.size=4")  # fmt: skip
    program = program_of(chosen)
    names = {type(module).__name__ for module in program.task.module.modules()}
    assert "BatchNorm2d" in names
    assert program.evaluate()[0].row["parameters"] > 20_000_000
    with pytest.raises(ValueError, match="batch normalisation does not pack"):
        type(program.task).packed([program.task])  # type: ignore[attr-defined]


def test_settings_that_do_not_go_together_are_refused(settings: Resolve) -> None:
    refused = {
        (
            "task.size=51",
            "task.samples=5",
        ): "task.size=51: must be at most the 50 training images, task.samples=5 of each",
        ("task.size=1501", "task.samples=0"): "task.size=1501: must be at most the 1500 training images of data=digits",
        ("task.kernel=cosine",): "task.kernel=cosine: cosine is unknown, must be some of linear, rbf, chi2, exp_chi2",
        ("task.kernel=rbf+cosine",): "task.kernel=rbf+cosine: cosine is unknown",
        ("task.gamma=0",): "task.gamma=0: must be greater than 0",
        ("task.gamma=-1",): "task.gamma=-1: must be greater than 0",
        (
            "task.activation=tanh",
            "task.kernel=linear+chi2",
        ): "task.activation=tanh: must be relu for task.kernel=linear+",
        ("task.activation=tanh", "task.kernel=exp_chi2"): "as exp_chi2 is of features from 0 on",
        ("task.top=dense",): "task.kernel=rbf: must be none for task.top=dense",
        ("task.top=dense", "task.kernel=none", "task.columns=3"): "task.columns=3: must be null for task.top=dense",
        ("task.columns=33",): "task.columns=33: must be at most task.size=32",
        ("task.samples=151",): "task.samples=151: must be at most 150, as data=digits has 1500 training images in 10",
        ("task.samples=2",): "training.batch_size=50: must be at most the 20 training images, task.samples=2 of each",
        ("task.examples=2000",): "task.examples=2000: must be at most the 1500 of data=digits",
        ("data=wikipedia",): "data=wikipedia: experiment=nystrom needs images: mnist, digits, mnist5k, cifar10",
    }
    for words, message in refused.items():
        with pytest.raises(SettingsError) as error:
            settings(*WORDS, *words)
        assert message in str(error.value), words
    assert settings(*WORDS, "task.init=random", "task.columns=33").task.columns == 33  # type: ignore[attr-defined]
    assert settings(*WORDS, "task.activation=tanh").task.activation == "tanh"  # type: ignore[attr-defined]


# --- verdicts --------------------------------------------------------------------------------------------------------

YES, PARTLY, NO = Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED
NOISE = (-0.01, 0.0, 0.01, 0.004, -0.004)  # of five splits


def of_tops(accuracies: dict[tuple[str, str, int, int], float], noisy: float = 1.0) -> Selection:
    """Five splits of tops (top, kernel, size, samples) with these mean accuracies; every second one has some noise, so
    that pairs differ by it."""
    rows = []
    for number, ((top, kernel, size, samples), accuracy) in enumerate(accuracies.items()):
        for seed, noise in enumerate(NOISE):
            rows.append({
                "status": "finished", "seed": seed, "lr": 0.01, "top": top, "kernel": kernel, "size": size,
                "samples": samples, "test_loss": 1.0, "test_accuracy": accuracy + noisy * noise * (top != "dense"),
                "top_parameters": 1_354 if top != "dense" else 138 * size + 10, "run": f"{number} {seed}",
            })  # fmt: skip
    return select(pd.DataFrame(rows), verdicts.BY_SAMPLES, "quick")


def from_all(**by_kernel: float) -> dict[tuple[str, str, int, int], float]:
    """Mean accuracies of kernels from all images, beside a dense top at 0.9."""
    return {("dense", "none", 128, 0): 0.9} | {("nystrom", name, 32, 0): value for name, value in by_kernel.items()}


def test_as_good_means_less_than_two_points_below_with_certainty_and_a_tenth_of_the_parameters() -> None:
    # The interval is a point to either side.
    assert verdicts.judge_as_good(of_tops(from_all(linear=0.89, rbf=0.95)))[1] is YES
    assert verdicts.judge_as_good(of_tops(from_all(linear=0.888, rbf=0.95)))[1] is PARTLY
    assert verdicts.judge_as_good(of_tops(from_all(linear=0.8, rbf=0.85)))[1] is NO
    text, _ = verdicts.judge_as_good(of_tops(from_all(linear=0.89, rbf=0.95)))
    assert text.startswith("points of accuracy, linear -1.0 [-1.9, -0.1], rbf +5.0 [+4.1, +5.9], with 7.7% of its")
    assert verdicts.judge_as_good(of_tops(from_all(linear=0.9))) == ("-", Verdict.NOT_RUN)
    large = of_tops(from_all(linear=0.95, rbf=0.95))
    large.best.loc[large.best["top"] == "nystrom", "top_parameters"] = 1_900
    assert verdicts.judge_as_good(large)[1] is NO


def from_few(*gains: float) -> dict[tuple[str, str, int, int], float]:
    """Of two kernels, the first with these gains over a dense top from 5, 10, 20 images, the second with none."""
    found = {}
    for samples, gain in zip((5, 10, 20), gains, strict=True):
        found[("dense", "none", 128, samples)] = 0.7
        found[("nystrom", "rbf", 32, samples)] = 0.7 + gain
        found[("nystrom", "chi2", 32, samples)] = 0.7
    return found


def test_from_few_images_some_kernel_has_to_be_better_at_each_number_and_none_worse() -> None:
    for gains, verdict in [
        ((0.1, 0.1, 0.1), YES), ((0.1, 0.0, 0.1), PARTLY), ((0.0, 0.0, 0.0), NO), ((-0.1, 0.0, 0.0), NO),
    ]:  # fmt: skip
        assert verdicts.judge_few(128, of_tops(from_few(*gains)))[1] is verdict, gains
    worse = from_few(0.1, 0.1, 0.1) | {("nystrom", "chi2", 32, 5): 0.5}
    assert verdicts.judge_few(128, of_tops(worse))[1] is PARTLY
    text, _ = verdicts.judge_few(128, of_tops(from_few(0.1, 0.1, 0.1)))
    assert "5 images: +0.0 to +10.0 (rbf, p " in text
    assert "1 of 2 better" in text
    assert verdicts.judge_few(8, of_tops(from_few(0.1, 0.1, 0.1))) == ("-", Verdict.NOT_RUN)


def test_p_values_are_corrected_for_all_kernels_and_numbers() -> None:
    """A gain that is significant by itself is not among six."""
    found = verdicts.pair(of_tops(from_few(0.012, 0.0, 0.0)), "nystrom rbf 32", "dense none 128", 5)
    assert found is not None
    assert 0.01 < found.p < 0.05
    assert verdicts.judge_few(128, of_tops(from_few(0.012, 0.0, 0.0)))[1] is NO


def test_a_learned_matrix_is_judged_at_each_number_of_images() -> None:
    def of(*gains: float) -> Verdict:
        found = {}
        for samples, gain in zip((5, 0), gains, strict=True):
            found[("fixed", "rbf", 32, samples)] = 0.7
            found[("nystrom", "rbf", 32, samples)] = 0.7 + gain
        table = of_tops(found)
        table.best.loc[table.best["top"] == "fixed", "value"] = 0.7
        return verdicts.judge_learned("rbf", table)[1]

    assert [of(*gains) for gains in ((0.1, 0.0), (0.1, -0.1), (0.0, -0.1))] == [YES, PARTLY, NO]
    assert verdicts.judge_learned("rbf", of_tops(from_few(0, 0, 0))) == ("-", Verdict.NOT_RUN)


# --- from runs to figures --------------------------------------------------------------------------------------------


def test_the_figure_is_drawn_from_records(settings: Resolve, tmp_path: Path) -> None:
    for words in (["task.top=dense", "task.kernel=none", "task.size=8"], ["task.size=8"]):
        for seed in (0, 1):
            chosen = settings(*WORDS, *words, "task.samples=5", f"seed={seed}")
            assert run(chosen) is Status.FINISHED
    results = tmp_path / "results"
    assert collect(results, "nystrom", {comparison_id(chosen): "smoke"}) is not None
    told = report.write(results, "nystrom", "smoke")
    assert "nystrom-smoke.png" in told
    assert "left out" not in told
    table = pd.read_csv(results / "summaries" / "nystrom-smoke-selected.csv")
    assert sorted(table["arm"]) == ["dense none 8", "nystrom rbf 8"]
    assert figure.REPORT.compared("quick") == [verdicts.BY_SAMPLES]
