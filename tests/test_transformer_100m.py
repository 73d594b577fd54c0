"""The large language model: its size, its tokens, what it computes, less memory, and the verdicts."""

import hashlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from reltrust.experiments.transformer_100m import figure
from reltrust.experiments.transformer_100m.task import sequences
from torch import nn
from torch.nn import functional as F

from reltrust.data import subwords, text
from reltrust.errors import DataError, RecordError, SettingsError
from reltrust.models.decoder import Decoder, parameters
from reltrust.models.linear_cross_entropy import linear_cross_entropy
from reltrust.records.store import Status
from reltrust.reporting.claims import Verdict
from reltrust.reporting.report import evaluate, write
from reltrust.settings import Settings
from reltrust.training.sharing import recompute
from runs import metrics, program_of, record_of, run, settings_of, stopped

Resolve = Callable[..., Settings]
SMALL = ["experiment=transformer_100m", "task.width=8", "task.vocabulary=300", "training.batch_size=4"]
SMALL += ["task.length=8", "task.positions=16", "training.log_every=5"]


def some_lines(part: str) -> list[list[str]]:
    """Of numbers in words, and a word that was too rare to be kept."""
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    start = {"train": 1, "valid": 500, "test": 900}[part]
    numbers = range(start, start + (300 if part == "train" else 60))
    return [[digits[int(figure)] for figure in str(number * number)] + ["<unk>"] for number in numbers]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text is these few lines."""
    subwords._load.cache_clear()
    monkeypatch.setattr(text, "lines", lambda name, root: {part: some_lines(part) for part in text.PARTS})
    yield
    subwords._load.cache_clear()


@pytest.fixture
def small(settings: Resolve, few: None) -> Resolve:
    return lambda *words: settings(*SMALL, *words)


def decoder(**changes: Any) -> Decoder:
    torch.manual_seed(0)
    return Decoder(**({"vocabulary": 40, "width": 12, "layers": 2, "heads": 3, "positions": 9} | changes))


# --- the model -------------------------------------------------------------------------------------------------------


def test_the_large_model_has_more_than_1e8_parameters_and_the_formula_is_that_of_the_module() -> None:
    for scale, positions in (("gpu", 1024), ("quick", 512)):
        task: Any = settings_of("experiment=transformer_100m", f"scale={scale}").task
        sizes = {"width": task.width, "layers": task.layers, "positions": task.positions}
        assert (task.layers, task.width, task.heads, task.positions) == (12, 768, 12, positions)
        assert parameters(task.vocabulary, **sizes) == 12 * 12 * 768**2 + (25 + 2 * 16384 + positions) * 768 > 1e8
        with torch.device("meta"):
            model = Decoder(task.vocabulary, heads=task.heads, **sizes)
        assert sum(param.numel() for param in model.parameters()) == parameters(task.vocabulary, **sizes)


def test_nothing_starts_at_zero_where_madam_would_leave_it() -> None:
    for name, param in decoder().named_parameters():
        assert (param != 0).all(), name


def test_initial_weights_have_the_stated_deviation_and_branches_less() -> None:
    model = decoder(width=96, vocabulary=500, layers=8)
    assert float(model.readout.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert float(model.blocks[3].inner.weight.detach().std()) == pytest.approx(0.02, rel=0.02)  # type: ignore[union-attr]
    assert float(model.blocks[3].outer.weight.detach().std()) == pytest.approx(0.02 / 4, rel=0.02)  # type: ignore[union-attr]


def test_a_token_sees_those_before_it_alone_and_knows_its_place() -> None:
    model = decoder()
    tokens = torch.arange(9)[None]
    logits = model(tokens)
    later = model(torch.cat((tokens[:, :5], tokens[:, 5:] + 20), dim=1))
    torch.testing.assert_close(later[:, :5], logits[:, :5])
    assert not torch.allclose(later[:, 5:], logits[:, 5:])
    same = model(torch.zeros(1, 9, dtype=torch.int64))
    assert not torch.allclose(same[:, 0], same[:, 1])


def test_the_loss_is_the_mean_cross_entropy_of_the_logits() -> None:
    model = decoder().double()
    tokens = torch.randint(40, (3, 10), generator=torch.Generator().manual_seed(0))
    expected = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    loss = model(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(loss, expected)
    own = torch.autograd.grad(loss, list(model.parameters()))
    torch.testing.assert_close(own, torch.autograd.grad(expected, list(model.parameters())))


def test_a_block_is_its_equations() -> None:
    block: Any = decoder().double().blocks[0]
    x = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    query, key, value = block.attention_in(F.layer_norm(x, (12,))).chunk(3, dim=-1)
    heads = []
    for own in range(3):
        part = slice(4 * own, 4 * own + 4)
        scores = query[..., part] @ key[..., part].mT / math.sqrt(4)
        scores = scores.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -math.inf)
        heads.append(scores.softmax(-1) @ value[..., part])
    y = x + block.attention_out(torch.cat(heads, dim=-1))
    y = y + block.outer(F.gelu(block.inner(F.layer_norm(y, (12,))), approximate="tanh"))
    torch.testing.assert_close(block(x), y)


def test_a_readout_needs_no_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 6, generator=generator, requires_grad=True) for n in (7, 11))
    targets = torch.arange(7)
    without = linear_cross_entropy(x, weight, None, targets)
    beside = linear_cross_entropy(x, weight, torch.zeros(11), targets)
    torch.testing.assert_close(without, beside)
    torch.testing.assert_close(torch.autograd.grad(without, (x, weight)), torch.autograd.grad(beside, (x, weight)))


def test_a_sequence_longer_than_the_positions_is_refused(settings: Resolve) -> None:
    with pytest.raises(ValueError, match="a sequence of 10 tokens: must be at most 9"):
        decoder()(torch.zeros(1, 10, dtype=torch.int64))
    with pytest.raises(SettingsError, match=r"task.length=17: must be at most task.positions=16"):
        settings(*SMALL, "task.length=17")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task.heads=3"], "task.heads=3: must divide task.width=8"),
        (["training.batch_size=60000", "trainer.accumulate=1"], "training.batch_size=60000: must be at most 56604"),
        (["data=digits"], "data=digits: experiment=transformer_100m needs a text"),
        (["task.vocabulary=256"], "task.vocabulary=256"),
    ],
)
def test_a_wrong_setting_is_one_line(settings: Resolve, words: list[str], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(*SMALL, *words)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_tokens_are_learnt_from_the_training_text_and_decode_to_every_byte(few: None) -> None:
    from tokenizers import Tokenizer

    data = subwords.load("wikipedia", "nowhere", 300)
    tokenizer = Tokenizer.from_str(data.tokenizer.decode())
    assert data.vocabulary == tokenizer.get_vocab_size() == 300
    assert tokenizer.id_to_token(0) == "<unk>"
    for part in text.PARTS:
        tokens = getattr(data, part)
        lines = [" ".join(line) + "\n" for line in some_lines(part)]
        assert tokenizer.decode(tokens.tolist(), skip_special_tokens=False) == "".join(lines)
        assert int((tokens == 0).sum()) == len(lines)
        assert data.words[part] == sum(len(line) + 1 for line in some_lines(part))
    learnt = subwords.train([" ".join(line) + "\n" for line in some_lines("train")], 300)
    assert learnt.to_str() == tokenizer.to_str()  # always the same, and of the training text alone
    odd = "naïve 漢字 \x00 <unk>\n"
    assert tokenizer.decode(tokenizer.encode(odd).ids, skip_special_tokens=False) == odd


def test_a_text_with_too_few_pairs_is_refused(few: None) -> None:
    with pytest.raises(DataError, match=r"task.vocabulary=5000: data=wikipedia has \d+ tokens at most"):
        subwords.load("wikipedia", "nowhere", 5000)


def test_without_its_package_it_says_what_to_install(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match="subword tokens need the package tokenizers: pip install tokenizers"):
        subwords.load("wikipedia", "nowhere", 300)


def test_sequences_follow_each_other_and_share_the_token_between() -> None:
    assert sequences(torch.arange(10), 3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert len(sequences(torch.arange(9), 3)) == 2


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_tokenizer_and_goes_on_as_if_it_had_never_stopped(small: Resolve) -> None:
    whole = small("optimizer=madam")
    assert run(whole) is Status.FINISHED
    broken = small("optimizer=madam", f"machine.results={whole.machine.results}-broken")
    with stopped(at=13):
        assert run(broken) is Status.PREEMPTED
    assert run(broken) is Status.FINISHED
    assert metrics(broken) == metrics(whole)
    summary = record_of(whole).summary
    assert summary["parameters"] == parameters(300, width=8, layers=2, positions=16)
    assert summary["train_loss"] < metrics(whole)[0]["train_loss"] < math.log(300) + 0.1
    files = {path.name: path.read_bytes() for path in record_of(whole).files}
    assert sorted(files) == ["step10-tokenizer.json", "step10-tokenizer.json.sha256"]
    digest = hashlib.sha256(files["step10-tokenizer.json"]).hexdigest()
    assert files["step10-tokenizer.json.sha256"].decode() == f"{digest}\n"
    assert len(json.loads(files["step10-tokenizer.json"])["model"]["vocab"]) == 300


def test_the_evaluation_is_the_mean_over_every_token(small: Resolve) -> None:
    task: Any = program_of(small("task.evaluated=3")).task
    rows = sequences(task.data.valid, 8)[:3]
    with torch.no_grad():
        logits = task.model(rows[:, :-1])
    expected = float(F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))
    row = task.evaluate().row
    assert row["valid_loss"] == pytest.approx(expected, rel=1e-6)
    tokens_a_word = len(task.data.valid) / task.data.words["valid"]
    assert row["word_perplexity"] == pytest.approx(math.exp(expected * tokens_a_word), rel=1e-5)
    assert task.evaluate().files == {}  # the tokenizer once


def test_a_checkpoint_of_another_model_is_refused_in_one_line(small: Resolve) -> None:
    one, other = small("machine.keep=checkpoint"), small("task.width=16", "machine.keep=checkpoint")
    run(one)
    with stopped(at=13):
        run(other)
    record_of(other).checkpoint_path.write_bytes(record_of(one).checkpoint_path.read_bytes())
    (record_of(other).path / "metrics.jsonl").write_bytes((record_of(one).path / "metrics.jsonl").read_bytes())
    with pytest.raises(
        RecordError, match=r"checkpoint.pt: not of this model or its optimizer \(size mismatch"
    ) as refused:
        run(other)
    assert len(str(refused.value).splitlines()) == 1


# --- less memory -----------------------------------------------------------------------------------------------------


def gradients(again: bool, precision: str) -> tuple[list[torch.Tensor], int]:
    """Of a small decoder, and how many numbers are kept for the backward pass."""
    model = decoder(width=24, layers=4)
    task: Any = type("Task", (), {"blocks": list(model.blocks)})()
    if again:
        recompute(task)
    kept = 0

    def count(x: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += x.numel() if not isinstance(x, nn.Parameter) else 0
        return x

    tokens = torch.arange(18).view(2, 9)
    counting = torch.autograd.graph.saved_tensors_hooks(count, lambda x: x)
    with counting, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = model(tokens, tokens)
    return list(torch.autograd.grad(loss, list(model.parameters()))), kept


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_computed_again_is_the_same_to_the_bit_and_is_not_kept(precision: str) -> None:
    (usual, kept), (again, less) = (gradients(how, precision) for how in (False, True))
    assert all(torch.equal(x, y) for x, y in zip(usual, again, strict=True))
    assert less < kept / 4


def test_a_task_without_blocks_cannot_be_computed_again(settings: Resolve, small: Resolve) -> None:
    with pytest.raises(SettingsError, match=r"machine.recompute=true: this task names no blocks"):
        program_of(settings("machine.recompute=true"))
    with pytest.raises(SettingsError, match=r"machine.shard=true with machine.compile=true"):
        settings("machine.shard=true", "machine.compile=true")
    chosen = small("machine.recompute=true")
    assert run(chosen) is Status.FINISHED
    usual = small(f"machine.results={chosen.machine.results}-usual")
    assert record_of(usual).path.name == record_of(chosen).path.name  # the same run
    run(usual)
    assert metrics(chosen) == metrics(usual)


# --- figures and verdicts --------------------------------------------------------------------------------------------


def tables(folder: Path, scale: str, losses: dict[tuple[str, float], list[float]], **changes: Any) -> Path:
    """Runs of a scale, each with its training losses at steps 5, 10, ...; the last is the validation loss too."""
    rows, points = [], []
    for (arm, lr), curve in losses.items():
        place = {"comparison": "abcdef01", "run": f"{arm}/{lr}"}
        about = {"scale": scale, "optimizer": arm, "lr": lr, "seed": 0, "status": "finished", "hyperparameters": "{}"}
        about |= {"data": "wikipedia", "batch_size": 2, "length": 512, "precision": "bf16", "parameters": 110_512_896.0}
        about |= {"steps": 5 * len(curve), "train_loss": curve[-1], "best_valid_loss": curve[-1]}
        rows.append(place | about | changes)
        points += [place | {"step": 5 * k, "train_loss": loss} for k, loss in enumerate(curve, 1)]
    (folder / "summaries").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "summaries" / "transformer_100m.csv", index=False)
    pd.DataFrame(points).to_csv(folder / "summaries" / "transformer_100m-curves.csv", index=False)
    return folder


def verdicts(results: Path) -> dict[str, Verdict]:
    (found,) = evaluate(results, "transformer_100m", figure.REPORT)
    return {one.claim.split()[0]: one.verdict for one in found.judgements}


def test_a_loss_that_falls_is_partly_and_one_that_rises_is_not(tmp_path: Path) -> None:
    results = tables(tmp_path, "quick", {("fromage", 0.01): [9.7, 9.0], ("madam", 0.01): [9.0, 9.7]})
    assert verdicts(results) == {
        "Fromage": Verdict.PARTLY, "Madam": Verdict.NOT_REPRODUCED, "AdamW": Verdict.NOT_RUN
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"parameters": 9e7}, Verdict.NOT_RUN), ({"status": "diverged"}, Verdict.NOT_REPRODUCED)],
)
def test_a_small_model_is_no_run_and_a_diverged_one_is_not_reproduced(
    tmp_path: Path, changes: dict[str, Any], expected: Verdict
) -> None:
    assert verdicts(tables(tmp_path, "quick", {("fromage", 0.01): [9.7, 9.0]}, **changes))["Fromage"] is expected


@pytest.mark.parametrize(
    ("fromage", "expected"),
    [(4.3, Verdict.REPRODUCED), (4.5, Verdict.PARTLY), (7.7, Verdict.PARTLY), (7.8, Verdict.NOT_REPRODUCED)],
)
def test_to_scale_up_is_to_come_within_a_tenth_of_adamw(tmp_path: Path, fromage: float, expected: Verdict) -> None:
    losses = {("adamw", lr): [loss] for lr, loss in ((0.1, 6.0), (0.01, 4.0), (0.001, 5.0))}
    losses |= {("fromage", lr): [loss] for lr, loss in ((0.1, 9.0), (0.01, fromage), (0.001, 9.0))}
    results = tables(tmp_path, "gpu", losses)
    assert verdicts(results) == {"Fromage": expected}


def test_two_learning_rates_are_no_comparison(tmp_path: Path) -> None:
    losses = {(arm, lr): [4.0] for arm in ("adamw", "fromage") for lr in (0.1, 0.01)}
    assert verdicts(tables(tmp_path, "gpu", losses)) == {"Fromage": Verdict.NOT_RUN}


@pytest.mark.parametrize("scale", ["quick", "gpu"])
def test_the_figures_are_drawn(tmp_path: Path, scale: str) -> None:
    losses = {(arm, lr): [9.7, 9.0, 8.5] for arm in ("adamw", "fromage") for lr in (0.1, 0.01, 0.001)}
    told = write(tables(tmp_path, scale, losses), "transformer_100m")
    plt.close("all")
    assert f"transformer_100m, scale {scale}" in told
    assert (tmp_path / "figures" / f"transformer_100m-{scale}.png").exists()
