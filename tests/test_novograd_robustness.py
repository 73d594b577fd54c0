"""NovoGrad's claims: widths of ranges, scaled beginnings, packed trainings, bytes of state, verdicts, refusals."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from reltrust.experiments.novograd_robustness import figure, verdicts
from reltrust.experiments.novograd_robustness.analysis import OPTIMIZERS
from reltrust.experiments.novograd_robustness.task import ScaledLanguageModel
from reltrust.experiments.novograd_robustness.verdicts import good_range

from reltrust.data.text import TextData
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
WORDS = ["experiment=novograd_robustness"]
LM = [*WORDS, "scale=smoke_lm"]
YES, PARTLY, NO = Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED


# --- widths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.2, 1.0, 7.0])
def test_the_width_of_a_valley_of_one_slope_is_exact(slope: float) -> None:
    """log loss = slope |log10 lr - c|: within 5 % at a distance of log(1.05) / slope on either side."""
    x = np.arange(-4.0, 3.0, 0.5)
    found = good_range(10.0**x, 0.3 * np.exp(slope * np.abs(x + 1)))
    assert found.width == pytest.approx(2 * math.log(1.05) / slope, rel=1e-12)
    assert (found.best, found.lr, found.open) == (pytest.approx(0.3), pytest.approx(0.1), False)
    assert found.low * found.high == pytest.approx(0.01)  # as far to the left as to the right


def test_a_flat_curve_is_as_wide_as_its_grid_which_is_a_lower_bound() -> None:
    found = good_range(np.array([0.01, 0.1, 1.0, 10.0]), np.array([9.0, 1.0, 1.02, 1.04]))
    assert found.open
    assert found.high == pytest.approx(10)
    assert 0.09 < found.low < 0.1


def test_good_learning_rates_beyond_a_bad_one_do_not_count() -> None:
    found = good_range(np.array([0.1, 1.0, 10.0, 100.0]), np.array([1.0, 2.0, 1.01, 9.0]))
    assert found.high < 1.0
    assert found.lr == pytest.approx(0.1)


# --- tasks -----------------------------------------------------------------------------------------------------------


def language_model(subject: Any, seed: int = 0) -> ScaledLanguageModel:
    """On a text of few words."""
    tokens = [torch.randint(11, (n,), generator=torch.Generator().manual_seed(n)) for n in (90, 80, 70)]
    return ScaledLanguageModel(TextData(*tokens, tuple("abcdefghijk")), subject, batch_size=2, seed=seed)


def test_matrices_are_scaled_and_biases_are_not(settings: Resolve) -> None:
    subjects = [settings(*words, f"task.init_scale={x}").task for words in (WORDS, LM) for x in (1.0, 3.0)]
    perceptrons = [program_of(settings(*WORDS, f"task.init_scale={x}")).task.module for x in (1.0, 3.0)]
    for plain, scaled in (perceptrons, [language_model(subject).module for subject in subjects[2:]]):
        own = dict(scaled.named_parameters())
        for name, p in plain.named_parameters():
            assert torch.equal(own[name], 3 * p if p.dim() > 1 else p), name


def test_packed_perceptrons_measure_what_they_do_alone(settings: Resolve) -> None:
    changes = [("0.3", "novograd"), ("1.0", "adamw"), ("3.0", "sgd_momentum"), ("1.0", "fromage"), ("1.0", "madam")]
    chosen = [
        settings(*WORDS, f"task.init_scale={scale}", f"optimizer={name}", f"seed={seed}")
        for seed, (scale, name) in enumerate(changes)
    ]
    alone, packed = trained_alone_and_packed(chosen, steps=10)
    for program, member in zip(alone, packed.state_dicts(), strict=True):
        assert torch.allclose(member["measured"], program.measured, rtol=1e-4, atol=1e-5)
    for program, measured in zip(alone, packed.evaluate(), strict=True):
        assert measured.row["valid_loss"] == pytest.approx(program.evaluate()[0].row["valid_loss"], rel=1e-4)


def test_packed_language_models_have_the_losses_and_gradients_of_each(settings: Resolve) -> None:
    members = [language_model(settings(*LM, "task.words=80").task, seed) for seed in range(3)]
    packed = ScaledLanguageModel.packed(members)
    params = [list(member.players[0].params) for member in members]
    stacks = [torch.stack([p.detach() for p in own]).requires_grad_() for own in zip(*params, strict=True)]
    for step in (0, 1):
        (losses,) = packed.losses(stacks, *packed.inputs(step))
        grads = torch.autograd.grad(losses.sum(), stacks)
        for k, member in enumerate(members):
            (loss,) = member.loss(step)
            assert torch.allclose(losses[k], loss, rtol=1e-6)
            for grad, own in zip(grads, torch.autograd.grad(loss, params[k]), strict=True):
                assert torch.allclose(grad[k], own, rtol=1e-4, atol=1e-6)
    assert members[0].evaluate().row["valid_loss"] == pytest.approx(members[0].mean_loss(members[0].data.valid[:80]))


def test_bytes_of_state_are_those_of_the_definitions(settings: Resolve) -> None:
    chosen = settings(*WORDS, "scale=smoke_state")
    assert run(chosen) is Status.FINISHED
    row = record_of(chosen).summary
    tensors, parameters = 6, row["parameters"]
    assert parameters == 784 * 8 + 8 + 8 * 8 + 8 + 8 * 10 + 10
    assert set(OPTIMIZERS) == set(verdicts.NAMES)
    # A moment of 4 bytes a parameter; counts of steps and norms are a number a tensor, or two.
    for name, moments in {"novograd": 1, "adamw": 2, "sgd_momentum": 1, "fromage": 0, "madam": 1}.items():
        assert 4 * moments <= row[f"state_{name}"] <= 4 * moments + 16 * tensors / parameters, name
    assert row["state_sgd_momentum"] == 4
    assert row["state_fromage"] == 0


def test_settings_that_do_not_go_together_are_refused(settings: Resolve) -> None:
    refused = {
        ("task.init_scale=0",): "task.init_scale=0: must be greater than 0",
        ("+task.heads=2",): "task.heads=2: must be null for task.model=perceptron",
        ("task.model=transformer",): "task.heads=null: must be a number for task.model=transformer",
        ("data=wikipedia",): "data=wikipedia: experiment=novograd_robustness needs images",
        ("scale=smoke_lm", "data=digits"): "data=digits: experiment=novograd_robustness needs a text",
        ("scale=smoke_lm", "task.width=5"): "task.width=5: must be even and a multiple of task.heads=2",
        ("scale=smoke_lm", "task.words=59"): "task.words=59: must be between 60 and the 74841 words",
        ("scale=smoke_lm", "task.words=80000"): "task.words=80000: must be between 60 and the 74841 words",
        (
            "scale=smoke_lm",
            "task.bptt=300000",
        ): "task.bptt=300000: must be less than 226419, the length of data=wikipedia",
    }
    for words, message in refused.items():
        with pytest.raises(SettingsError) as error:
            settings(*WORDS, *words)
        assert message in str(error.value), words
    with pytest.raises(SettingsError, match=r"training\.steps=4: must be at most 2, an epoch of data=wikipedia"):
        settings(*LM, "training.batch_size=30000")
    with pytest.raises(SettingsError, match=r"task\.model=transformer: must be perceptron in an analysis"):
        settings(
            *WORDS, "scale=smoke_state", "task.model=transformer", "+task.heads=2", "+task.bptt=5", "+task.words=99"
        )


# --- verdicts --------------------------------------------------------------------------------------------------------


def of_valleys(valleys: dict[str, dict[float, tuple[float, float, float]]]) -> Selection:
    """Three seeds whose median has, by optimizer and scale of the initial weights, this lowest loss, its place (log10)
    and the slope of its logarithm a decade."""
    rows = []
    for optimizer, by_scale in valleys.items():
        for scale, (best, place, slope) in by_scale.items():
            for x in np.arange(-4, 2.1, 0.5):
                for seed, factor in enumerate((0.5, 1.0, 4.0)):
                    loss = factor * best * math.exp(slope * abs(x - place))
                    rows.append({
                        "status": "finished", "seed": seed, "optimizer": optimizer, "arm": optimizer, "lr": 10.0**x,
                        "init_scale": scale, "valid_loss": loss, "train_loss": loss, "run": str(len(rows)),
                    })  # fmt: skip
    return select(pd.DataFrame(rows), verdicts.BY_LR, "quick")


def valleys(ours: tuple[float, float, float], others: tuple[float, float, float]) -> dict[str, Any]:
    scales = (0.3, 1.0, 3.0)
    return {
        "novograd": dict.fromkeys(scales, ours),
        "adamw": dict.fromkeys(scales, others),
        "sgd_momentum": dict.fromkeys(scales, others),
    }


def test_the_width_is_judged_at_every_scale_of_the_initial_weights() -> None:
    wide, narrow = (1.0, -1.0, 0.1), (1.0, -1.0, 1.0)
    assert verdicts.judge_width(of_valleys(valleys(wide, narrow)))[1] is YES
    assert verdicts.judge_width(of_valleys(valleys(narrow, wide)))[1] is NO
    mixed = valleys(wide, narrow)
    mixed["novograd"][3.0] = (1.0, -1.0, 2.0)
    text, verdict = verdicts.judge_width(of_valleys(mixed))
    assert verdict is PARTLY
    assert text.startswith("decades at initial weights x 0.3, 1, 3: NovoGrad 0.98, 0.98, 0.05; AdamW 0.10")
    assert text.endswith("(n=3 seeds)")


def test_a_width_is_not_at_least_one_that_goes_on_past_what_was_tried() -> None:
    table = valleys((1.0, -1.0, 0.01), (1.0, -1.0, 1.0))
    table["adamw"][3.0] = (1.0, -4.0, 0.1)  # the largest learning rates are still good
    text, verdict = verdicts.judge_width(of_valleys(table))
    assert "AdamW 0.10, 0.10, ≥" in text
    assert verdict is PARTLY


def test_being_on_par_is_judged_against_the_better_of_both() -> None:
    assert verdicts.judge_par(of_valleys(valleys((1.04, 0, 1), (1.0, -1, 1))))[1] is YES
    assert verdicts.judge_par(of_valleys(valleys((1.06, 0, 1), (1.0, -1, 1))))[1] is NO
    one_better = valleys((1.04, 0, 1), (1.0, -1, 1))
    one_better["adamw"][0.3] = (0.9, 0, 1)
    assert verdicts.judge_par(of_valleys(one_better))[1] is PARTLY


def test_what_an_initialisation_costs_is_judged_by_the_worst() -> None:
    table = valleys((1.0, -1, 1), (1.0, -1, 1))
    table["novograd"][3.0] = (2.0, -1.5, 1)  # lr 0.1 costs exp(.5) there
    table["adamw"][0.3] = (2.0, -2.0, 1)  # exp(1)
    table["sgd_momentum"][0.3] = (2.0, -2.0, 1)
    text, verdict = verdicts.judge_init(of_valleys(table))
    assert verdict is YES
    assert text == "costs NovoGrad x 1.65, AdamW x 2.72, SGD (momentum 0.9) x 2.72 (n=3 seeds)"
    table["adamw"][0.3] = (2.0, -1.0, 1)
    assert verdicts.judge_init(of_valleys(table))[1] is PARTLY
    table["sgd_momentum"][0.3] = (2.0, -1.0, 1)
    assert verdicts.judge_init(of_valleys(table))[1] is NO


def test_without_one_of_the_abstracts_optimizers_nothing_is_judged() -> None:
    alone = of_valleys({"novograd": {1.0: (1.0, -1.0, 1.0)}})
    for judge in (verdicts.judge_width, verdicts.judge_par, verdicts.judge_init):
        assert judge(alone) == ("-", Verdict.NOT_RUN)


@pytest.mark.parametrize(("ours", "verdict"), [(4.01, YES), (5.0, PARTLY), (8.0, NO)])
def test_state_is_judged_by_its_share_of_adamws(ours: float, verdict: Verdict) -> None:
    row = {f"state_{name}": 8.0 for name in verdicts.NAMES} | {"state_novograd": ours}
    row |= {"status": "finished", "seed": 0, "model": "perceptron", "width": 32, "lr": math.nan}  # type: ignore[dict-item]
    assert verdicts.judge_state(select(pd.DataFrame([row]), verdicts.BY_STATE, "quick_state"))[1] is verdict


# --- from runs to figures --------------------------------------------------------------------------------------------


def test_figures_are_drawn_from_records(settings: Resolve, tmp_path: Path) -> None:
    scales = {}
    for scale, some in (("smoke", ("novograd", "adamw", "sgd_momentum")), ("smoke_state", (None,))):
        for name in some:
            for lr in (0.1, 0.01, 0.001) if name else (None,):
                words = [f"optimizer={name}", f"optimizer.lr={lr}"] if name else []
                chosen = settings(*WORDS, f"scale={scale}", *words)
                assert run(chosen) is Status.FINISHED
        scales[comparison_id(chosen)] = scale
    results = tmp_path / "results"
    assert collect(results, "novograd_robustness", scales) is not None
    assert "novograd_robustness-smoke.png" in report.write(results, "novograd_robustness")
    assert {path.name for path in (results / "figures").glob("*.png")} == {
        "novograd_robustness-smoke.png", "novograd_robustness-smoke_state.png",
    }  # fmt: skip
    assert {claim.label for claim in figure.REPORT.claims_of("quick")} >= {"learning rate, batch 64"}
