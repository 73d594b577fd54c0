"""The language model: a loss equal to its literal form, batches and evaluations as published, text that it writes."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reltrust.experiments.transformer_lm.settings import EVALUATION_BATCH
from reltrust.experiments.transformer_lm.task import LanguageModel, columns, perplexity
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.data import text
from reltrust.data.text import TextData
from reltrust.errors import RecordError, SettingsError
from reltrust.models.linear_cross_entropy import linear_cross_entropy
from reltrust.models.transformer import TransformerLM, generate
from reltrust.optim import lns
from reltrust.records.store import Status
from reltrust.settings import Settings
from runs import metrics, program_of, record_of, run, stopped

Resolve = Callable[..., Settings]
WORDS = 60
SMALL = ["experiment=transformer_lm", "task.width=12", "task.hidden=16", "task.layers=2", "task.bptt=7"]
SMALL += ["training.batch_size=4", "training.steps=24", "training.log_every=6", "training.evaluate_every=12"]


def a_text(seed: int = 0) -> TextData:
    """Words each of which mostly decides the next."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for length in (400, 150, 160):
        tokens = [2]
        for jump in torch.randint(0, 3, (length - 1,), generator=generator).tolist():
            tokens.append((3 * tokens[-1] + 1 + jump) % WORDS)
        parts.append(torch.tensor(tokens))
    return TextData(*parts, ("<unk>", "<eos>", *(f"w{i}" for i in range(2, WORDS))))


@pytest.fixture
def small(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Settings of a small model on a small text."""
    monkeypatch.setattr(text, "load", lambda name, root, device=text.CPU: a_text().to(device))
    return lambda *words: settings(*SMALL, *words)


def model_of(**changes: Any) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(
        **{
            "vocabulary": WORDS,
            "width": 12,
            "layers": 2,
            "heads": 3,
            "hidden": 16,
            "dropout": 0.0,
            "context": 7,
            **changes,
        }
    )


# --- the loss --------------------------------------------------------------------------------------------------------


def literal_loss(model: TransformerLM, tokens: Tensor, targets: Tensor) -> Tensor:
    """From the equations: every product written out, log-softmax of all logits, the mean negative likelihood."""
    time, batch = tokens.shape
    width = model.embedding.embedding_dim
    positions = torch.zeros(time, width, dtype=model.embedding.weight.dtype)
    for t in range(time):
        for k in range(width // 2):
            angle = t / 10_000 ** (2 * k / width)
            positions[t, 2 * k], positions[t, 2 * k + 1] = math.sin(angle), math.cos(angle)
    x = model.embedding.weight[tokens] * math.sqrt(width) + positions[:, None]
    for layer in model.layers:
        assert isinstance(layer, nn.TransformerEncoderLayer)
        attention = layer.self_attn
        q, k, v = (x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=-1)
        heads, size = attention.num_heads, width // attention.num_heads
        q, k, v = (one.reshape(time, batch, heads, size).permute(1, 2, 0, 3) for one in (q, k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(size)
        scores = scores.masked_fill(torch.ones(time, time).triu(1).bool(), -math.inf)
        mixed = (scores.softmax(-1) @ v).permute(2, 0, 1, 3).reshape(time, batch, width)
        mixed = mixed @ attention.out_proj.weight.T + attention.out_proj.bias
        x = F.layer_norm(x + mixed, (width,), layer.norm1.weight, layer.norm1.bias)
        inner = torch.relu(x @ layer.linear1.weight.T + layer.linear1.bias)
        x = F.layer_norm(
            x + inner @ layer.linear2.weight.T + layer.linear2.bias, (width,), layer.norm2.weight, layer.norm2.bias
        )
    logits = x @ model.readout.weight.T + model.readout.bias
    shares = logits.flatten(0, 1).log_softmax(-1)
    return -shares[torch.arange(time * batch), targets.flatten()].mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_and_its_gradients_are_those_of_the_literal_form(dtype: torch.dtype) -> None:
    model = model_of().to(dtype)
    for param in model.parameters():  # nothing at its initial zero or one
        nn.init.normal_(param, std=0.3)
    tokens, targets = torch.randint(WORDS, (2, 7, 5)).unbind()
    found, expected = model(tokens, targets), literal_loss(model, tokens, targets)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-9}[dtype]  # positions are rounded to float32
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)
    params = list(model.parameters())
    for one, other in zip(torch.autograd.grad(found, params), torch.autograd.grad(expected, params), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("rows", [1, 3, 7, 64])
@pytest.mark.parametrize("chunk", [1, 90, 2**22])
def test_a_loss_in_chunks_is_the_loss_of_all_logits(rows: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reltrust.models.linear_cross_entropy.CHUNK_LOGITS", chunk)
    generator = torch.Generator().manual_seed(rows)
    x, weight, bias = (
        torch.randn(shape, generator=generator).requires_grad_() for shape in ((rows, 5), (30, 5), (30,))
    )
    targets = torch.randint(30, (rows,), generator=generator)
    expected = F.cross_entropy(F.linear(x, weight, bias), targets)
    for scale in (1.0, 3.0):
        found = linear_cross_entropy(x, weight, bias, targets)
        torch.testing.assert_close(found, expected)
        grads = torch.autograd.grad(scale * found, (x, weight, bias), retain_graph=True)
        with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
            torch.autograd.grad(found, x)
        others = torch.autograd.grad(scale * expected, (x, weight, bias), retain_graph=True)
        torch.testing.assert_close(grads, others)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(x, weight, bias, targets), expected)


def test_second_derivatives_are_refused_and_not_zero() -> None:
    # Regression: a Hessian of a loss of this kind was 0, as if it were linear.
    weight = torch.randn(30, 5, requires_grad=True)
    loss = linear_cross_entropy(torch.randn(4, 5), weight, None, torch.randint(30, (4,)))
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(loss, weight, create_graph=True)


def test_no_gradient_is_computed_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    # Regression: an evaluation computed all gradients too, three times the work.
    x, weight, bias = (torch.randn(shape).requires_grad_() for shape in ((9, 5), (30, 5), (30,)))
    targets = torch.randint(30, (9,))
    monkeypatch.setattr(torch, "mm", None)  # the product that a gradient needs
    with torch.no_grad():
        linear_cross_entropy(x, weight, bias, targets)
    linear_cross_entropy(x.detach(), weight.detach(), bias.detach(), targets)
    with pytest.raises(TypeError):
        linear_cross_entropy(x, weight, bias, targets)


def test_large_logits_give_a_large_loss_and_no_overflow() -> None:
    x, weight = torch.full((2, 1), 1e4), torch.tensor([[1.0], [-1.0]])
    found = linear_cross_entropy(x, weight, torch.zeros(2), torch.tensor([0, 1]))
    assert float(found) == pytest.approx(1e4)


def test_under_autocast_products_are_rounded_and_the_loss_is_close() -> None:
    x, weight, bias = torch.randn(40, 16), torch.randn(50, 16), torch.randn(50)
    params = [one.requires_grad_() for one in (x, weight, bias)]
    targets = torch.randint(50, (40,))
    expected = F.cross_entropy(F.linear(x, weight, bias), targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_cross_entropy(x, weight, bias, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=0)
    for grad, other in zip(torch.autograd.grad(found, params), torch.autograd.grad(expected, params), strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad, other, rtol=0, atol=2e-2)


# --- the model -------------------------------------------------------------------------------------------------------


def test_no_word_depends_on_those_after_it() -> None:
    model = model_of().eval()
    tokens = torch.randint(WORDS, (7, 3))
    changed = tokens.clone()
    changed[4:] = (changed[4:] + 1) % WORDS
    torch.testing.assert_close(model(tokens)[:4], model(changed)[:4])
    assert not torch.allclose(model(tokens)[4:], model(changed)[4:])


def test_initial_weights_are_the_published_ones() -> None:
    model = model_of(vocabulary=500, width=40, heads=2, layers=3)
    for table in (model.embedding.weight, model.readout.weight):
        assert -0.1 <= table.min().item() < -0.095
        assert 0.095 < table.max().item() <= 0.1
    assert not model.readout.bias.any()
    first, *others = ([*layer.parameters()] for layer in model.layers)
    for other in others:  # copies of one layer, and no shared tensors
        assert all(torch.equal(p, q) and p is not q for p, q in zip(first, other, strict=True))


def test_dropout_acts_in_training_where_the_papers_have_it() -> None:
    model = model_of(dropout=0.5)
    assert {name for name, module in model.named_modules() if isinstance(module, nn.Dropout)} == {
        "dropout",
        *(f"layers.{i}.{name}" for i in range(2) for name in ("dropout", "dropout1", "dropout2")),
    }
    assert [layer.self_attn.dropout for layer in model.layers] == [0.5, 0.5]  # type: ignore[union-attr]
    tokens = torch.randint(WORDS, (7, 3))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


# --- batches and evaluations -----------------------------------------------------------------------------------------


def test_the_columns_are_read_as_published() -> None:
    tokens = torch.arange(26)
    assert columns(tokens, 4).tolist() == [[0, 6, 12, 18], [1, 7, 13, 19], [2, 8, 14, 20], [3, 9, 15, 21],
                                           [4, 10, 16, 22], [5, 11, 17, 23]]  # fmt: skip


def task_of(settings: Settings) -> LanguageModel:
    task = settings.task.build(settings, torch.device("cpu"))
    assert isinstance(task, LanguageModel)
    return task


def test_an_epoch_ends_with_what_is_left_and_the_next_begins_at_the_top(
    small: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, seen = task_of(small("task.dropout=0.0")), []
    monkeypatch.setattr(task.model, "forward", lambda tokens, targets: seen.append((tokens, targets)))
    assert task.steps_per_epoch == 15  # 100 rows, of which 99 are followed by another
    for step in range(16):
        task.loss(step)
    assert [len(tokens) for tokens, _ in seen] == [7] * 14 + [1, 7]
    assert torch.equal(torch.cat([tokens for tokens, _ in seen[:15]]), task.train[:-1])
    assert torch.equal(torch.cat([targets for _, targets in seen[:15]]), task.train[1:])
    assert torch.equal(seen[15][0], seen[0][0])


def test_the_parts_of_a_batch_are_its_columns(small: Resolve) -> None:
    whole, parts = task_of(small("task.dropout=0.0")), task_of(small("task.dropout=0.0", "trainer.accumulate=2"))
    (loss,) = whole.loss(3)
    mean = (parts.loss(3, 0)[0] + parts.loss(3, 1)[0]) / 2
    torch.testing.assert_close(mean, loss)


def test_wikitext_2_has_as_many_steps_an_epoch_as_the_published_protocol_says(settings: Resolve) -> None:
    chosen = settings("experiment=transformer_lm", "scale=paper")
    _, _, training = chosen.trained
    rows = 2_088_628 // training.batch_size
    assert math.ceil((rows - 1) / chosen.task.bptt) == training.log_every == 2_984  # type: ignore[attr-defined]
    assert training.steps == 20 * training.log_every


def test_an_evaluation_is_the_mean_over_words_without_dropout(small: Resolve) -> None:
    task = task_of(small("task.dropout=0.5"))
    task.module.eval()
    rows = columns(task.data.valid, EVALUATION_BATCH)
    losses = [  # of each sequence, times its rows
        F.cross_entropy(task.model(rows[i : i + 7][: len(rows) - 1 - i]).flatten(0, 1), rows[i + 1 : i + 8].flatten())
        * len(rows[i + 1 : i + 8])
        for i in range(0, len(rows) - 1, 7)
    ]
    row = task.evaluate().row
    assert row["valid_loss"] == pytest.approx(sum(loss.item() for loss in losses) / (len(rows) - 1), rel=1e-5)
    assert row["valid_perplexity"] == pytest.approx(math.exp(row["valid_loss"]))


def test_the_test_text_is_measured_where_validation_is_best(small: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(small())
    losses = {"valid": iter([3.0, 2.0, 2.5, 1.0]), "test": iter([3.5, 2.25, 1.5])}

    def mean_loss(tokens: Tensor) -> float:
        return next(losses["valid" if tokens is task.data.valid else "test"])

    monkeypatch.setattr(task, "mean_loss", mean_loss)
    assert [task.evaluate().row["test_loss"] for _ in range(4)] == [3.5, 2.25, 2.25, 1.5]


def test_a_perplexity_that_overflows_is_infinite_and_the_run_goes_on(
    small: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (perplexity(1.0), perplexity(1e4)) == (math.e, math.inf)
    monkeypatch.setattr(LanguageModel, "mean_loss", lambda self, tokens: 1e4)
    assert run(small()) is Status.FINISHED
    assert record_of(small()).summary["valid_perplexity"] == math.inf


def test_weights_that_are_not_finite_are_evaluated_without_a_sample(small: Resolve) -> None:
    """The loss that the trainer ends a run by is one of the step before."""
    task = task_of(small())
    with torch.no_grad():
        next(task.model.parameters()).fill_(math.nan)
    measured = task.evaluate()
    assert math.isnan(measured.row["valid_loss"])
    assert measured.files == {}


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_learns_and_writes_a_sample_at_each_evaluation(small: Resolve) -> None:
    chosen = small("training.steps=300", "training.evaluate_every=150", "task.dropout=0.1", "schedule.at=[250]")
    assert run(chosen) is Status.FINISHED
    record = record_of(chosen)
    assert record.summary["valid_perplexity"] < 0.5 * WORDS
    assert [path.name for path in record.files] == ["step150-sample.txt", "step300-sample.txt"]
    written = record.files[-1].read_text()
    assert len(written.split()) > 50
    assert "<unk>" not in written


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_the_losses_are_those_of_the_cpu(small: Resolve, compiled: bool) -> None:
    """Also with the model replayed as CUDA graphs, as benchmarks/transformer_lm.py --device cuda --compile times it."""
    words, found = ["task.dropout=0", "training.log_every=12", "optimizer=sgd", f"machine.compile={compiled}"], []
    for device in ("cpu", "cuda"):
        program = program_of(small(*words), device)
        for step in range(12):
            program.training_step(step, [1.0])
        found.append(program.measured.cpu())
    torch.testing.assert_close(*found, rtol=1e-3, atol=0)


@pytest.mark.parametrize("optimizer", ["fromage", "madam", "integer_madam"])
def test_a_run_that_is_stopped_goes_on_to_the_bit(small: Resolve, tmp_path: Path, optimizer: str) -> None:
    """With dropout, between two evaluations, and with what was best before."""
    whole, broken = (small(f"optimizer={optimizer}", f"machine.results={tmp_path / name}") for name in ("a", "b"))
    assert run(whole) is Status.FINISHED
    with stopped(15):
        assert run(broken) is Status.PREEMPTED
    assert run(broken) is Status.FINISHED
    assert metrics(whole) == metrics(broken)


def test_a_checkpoint_of_another_vocabulary_is_refused_by_name(small: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = small()
    with stopped(15):
        assert run(chosen) is Status.PREEMPTED
    larger = replace(a_text(), vocabulary=(*a_text().vocabulary, "x"))
    monkeypatch.setattr(text, "load", lambda *_: larger)
    with pytest.raises(RecordError, match=r"checkpoint\.pt: not of this model .*\[60, 12\].*\[61, 12\]"):
        run(chosen)
    record = record_of(chosen)
    assert record.status is Status.FAILED
    assert len(record.metrics) == 2, "nothing was lost"


@pytest.mark.parametrize(("bits", "levels"), [(12, 4096), (10, 1024), (8, 256)])
def test_integer_madam_leaves_a_file_of_few_bits_a_weight_with_the_same_perplexity(
    small: Resolve, bits: int, levels: int
) -> None:
    wide = ["task.width=48", "task.hidden=96", "task.heads=4"]
    words = ["optimizer=integer_madam", f"optimizer.levels={levels}", "machine.keep=weights", *wide]
    chosen = small(*words, f"optimizer.base_lr={0.01 if bits == 8 else 0.005 if bits == 10 else 0.001}")
    assert run(chosen) is Status.FINISHED
    record, task = record_of(chosen), task_of(chosen)
    weights = lns.load(record.levels_path)
    assert all(torch.equal(weights[name], kept) for name, kept in load_file(record.weights_path).items())
    task.module.load_state_dict(weights)
    task.module.eval()
    for name in ("best_valid_loss", "best_test_loss"):
        getattr(task.module, name).fill_(math.inf)
    found = task.evaluate().row
    assert found["valid_perplexity"] == pytest.approx(record.summary["valid_perplexity"], rel=1e-6)
    zeros = sum(int((p == 0).sum()) for p in task.model.parameters())  # biases and gains that Madam never moves
    numel = sum(p.numel() for p in task.model.parameters())
    assert record.levels_path.stat().st_size < (bits + 1) / 32 * 4 * numel + zeros + 30_000
    assert run(small("optimizer=madam", "machine.keep=weights")) is Status.FINISHED
    assert not record_of(small("optimizer=madam", "machine.keep=weights")).levels_path.exists()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("task.dropout=1.0", "task.dropout=1.0: "),
        ("task.dropout=-0.1", "task.dropout=-0.1: "),
        ("task.heads=5", "task.heads=5: must divide task.width=12"),
        ("task.width=13", "task.width=13: "),
        ("task.bptt=7500", "task.bptt=7500: must be at most 5444, the length of data=wikipedia in 4 columns"),
        (
            "training.batch_size=300000",
            "training.batch_size=300000: must be at most half of the 452839 training tokens",
        ),
        ("data=digits", "data=digits: experiment=transformer_lm needs a text: wikitext2, wikipedia"),
        ("experiment=mlp_depth data=wikitext2", "data=wikitext2: experiment=mlp_depth needs images: mnist, digits"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: Resolve, words: str, said: str) -> None:
    own = [] if words.startswith("experiment") else SMALL
    with pytest.raises(SettingsError) as refused:
        settings(*own, *words.split())
    assert str(refused.value).startswith(said)


# --- text that it writes ---------------------------------------------------------------------------------------------


def test_with_one_candidate_the_most_probable_word_is_written() -> None:
    model = model_of().eval()
    nn.init.normal_(model.readout.weight)
    tokens = torch.tensor([1, 2, 3])
    found = generate(model, tokens, 12, top_k=1, generator=torch.Generator().manual_seed(0))
    expected = tokens
    for _ in range(12):  # of the last words that the model can look at
        expected = torch.cat([expected, model(expected[-7:, None])[-1, 0].argmax()[None]])
    assert torch.equal(found, expected)


def test_words_are_drawn_by_their_probabilities_and_the_seed_alone() -> None:
    model = model_of(vocabulary=6).eval()
    nn.init.zeros_(model.readout.weight)
    with torch.no_grad():
        model.readout.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0, 9.0]))

    def shares(**changes: Any) -> Tensor:
        drawn = generate(model, torch.tensor([0]), 500, generator=torch.Generator().manual_seed(1), banned=5, **changes)
        return torch.bincount(drawn[1:], minlength=6) / 500

    logits = torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0, -math.inf])
    torch.testing.assert_close(shares(), logits.softmax(0), rtol=0, atol=0.08)
    torch.testing.assert_close(shares(temperature=0.5), (logits / 0.5).softmax(0), rtol=0, atol=0.08)
    assert (shares(temperature=1e-40) > 0).tolist() == [False, False, False, True, False, False]
    assert (shares(top_k=2) > 0).tolist() == [False, False, True, True, False, False]
    assert torch.equal(shares(), shares())


Script = Callable[..., Any]


def test_the_script_writes_text_of_a_finished_run(small: Resolve, script: Script) -> None:
    chosen = small("machine.keep=weights", "training.steps=120")
    assert run(chosen) is Status.FINISHED
    record = record_of(chosen)
    called = ["generate", f"run={record.provenance['id'][:8]}", "--results", chosen.machine.results, "--words", "30"]
    first, again, other = script(*called), script(*called), script(*called, "--seed", "1")
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout != other.stdout
    greedy = [script(*called, "--top-k", "1", "--seed", str(seed), "--prompt", "w5 w6").stdout for seed in range(2)]
    assert greedy[0] == greedy[1]
    assert greedy[0].startswith("w5 w6 ")


def test_the_script_refuses_in_one_line(small: Resolve, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = small("training.steps=12")
    assert run(chosen) is Status.FINISHED
    kept = small("machine.keep=weights", "training.steps=12", "seed=1")
    assert run(kept) is Status.FINISHED
    own, kept_id = (str(record_of(one).provenance["id"]) for one in (chosen, kept))

    def said(*words: str) -> str:
        answer = script("generate", *words, "--results", chosen.machine.results)
        assert answer.returncode in (1, 2)
        (line,) = answer.stderr.splitlines()
        return str(line)

    assert "run=ffff: no such run" in said("run=ffff")
    assert "has no weights: make the run with machine.keep=weights" in said(f"run={own}")
    assert "'nowhere' is no word of the vocabulary" in said(f"run={kept_id}", "--prompt", "w5 nowhere")
    assert "must be a finite number above 0" in said(f"run={kept_id}", "--temperature", "0")
    assert "must be at least 1" in said(f"run={kept_id}", "--top-k", "0")
    assert "must be from 0 to 2^63 - 1" in said(f"run={kept_id}", "--seed", "9" * 31)
    larger = a_text()
    monkeypatch.setattr(
        text, "load", lambda *_: TextData(larger.train, larger.valid, larger.test, (*larger.vocabulary, "x"))
    )
    assert "a vocabulary of 60 words, data=wikipedia has 61" in said(f"run={kept_id}")
    record_of(kept).weights_path.write_bytes(b"torn")
    assert "cannot be read" in said(f"run={kept_id}")
