"""Questions and answers: SQuAD's measures, files of its format, windows and spans, local encoders, verdicts."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from reltrust.experiments.finetune_qa import figure, made_up
from reltrust.experiments.finetune_qa.task import QuestionAnswering
from reltrust.experiments.finetune_qa.windows import best_spans, windows

from reltrust.data import squad
from reltrust.data.squad import Question
from reltrust.errors import DataError, SettingsError
from reltrust.metrics.squad import exact_match, f1, scores
from reltrust.records.store import Status
from reltrust.reporting.claims import Verdict
from reltrust.reporting.report import evaluate, write
from reltrust.settings import Settings
from runs import metrics, program_of, record_of, run, stopped

Resolve = Callable[..., Settings]
SMOKE = ["experiment=finetune_qa", "optimizer=adam"]


# --- F1 and exact match ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "right", "exact", "shared"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1, 1),
        ("Eiffel", "the Eiffel Tower", 0, 2 / 3),
        ("in Paris, France", "Paris", 0, 0.5),
        ("the the cat", "cat cat", 0, 2 / 3),  # each word as often as it occurs
        ("cat cat dog", "cat dog dog", 0, 2 / 3),
        ("Rome", "Paris", 0, 0),
        ("a", "the", 1, 0),  # no words are left of either
        ("theatre", "atre", 0, 0),  # an article is a whole word
        ("U.S.", "us", 1, 1),
        ("", "Paris", 0, 0),
    ],
)
def test_answers_are_compared_without_case_marks_and_articles(
    given: str, right: str, exact: float, shared: float
) -> None:
    assert exact_match(given, right) == exact
    assert f1(given, right) == pytest.approx(shared)
    assert f1(right, given) == pytest.approx(shared)


def test_the_best_right_answer_counts_and_a_question_without_an_answer_counts_nothing() -> None:
    right = {"1": ["Paris", "in Paris"], "2": ["four"], "3": ["the moon"], "4": ["x"]}
    found = scores({"1": "In Paris", "2": "four or five", "3": "sun"}, right)
    assert found == {"f1": pytest.approx(100 * (1 + 0.5 + 0 + 0) / 4), "exact_match": pytest.approx(100 / 4)}
    for wrong in ({}, {"1": []}):
        with pytest.raises(ValueError, match="has to"):
            scores({}, wrong)


# --- files -----------------------------------------------------------------------------------------------------------


def content(**changes: Any) -> dict[str, Any]:
    asked = {"id": "q", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 3}]} | changes
    return {"data": [{"title": "t", "paragraphs": [{"context": "So Ada came.", "qas": [asked]}]}]}


def test_a_question_has_its_paragraph_and_its_answers() -> None:
    assert squad.parse(content(), "file") == [Question("q", "Who?", "So Ada came.", ("Ada",), (3,))]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "not in the format of SQuAD 1.1: KeyError: 'data'"),
        ([], "not in the format of SQuAD 1.1: TypeError"),
        ({"data": []}, "no questions"),
        (content(answers=[]), "the question 'q' has no answer, as there are in SQuAD 2.0"),
        (content(answers=[{"text": "Ada", "answer_start": 4}]), "the answer 'Ada' to 'q' does not stand at 4"),
        (content(answers=[{"text": "", "answer_start": 4}]), "the answer '' to 'q' does not stand"),
        ({"data": content()["data"] * 2}, "two questions with the id 'q'"),
    ],
)
def test_a_file_of_another_format_is_refused_by_name(wrong: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "train-v1.1.json").write_text(json.dumps(wrong))
    with pytest.raises(DataError) as refused:
        squad.load(tmp_path, "train")
    assert str(refused.value).startswith(f"{tmp_path / 'train-v1.1.json'}: {said}")
    assert len(str(refused.value).splitlines()) == 1


def test_what_is_missing_or_no_json_is_told_and_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dev-v1.1.json: no such file: put train-v1.1.json and dev-v1.1.json"):
        squad.load(tmp_path, "dev")
    (tmp_path / "dev-v1.1.json").write_text("{")
    with pytest.raises(DataError, match=r"dev-v1.1.json: Expecting property name"):
        squad.load(tmp_path, "dev")


def test_made_up_questions_are_the_same_for_a_seed_and_others_for_another() -> None:
    assert made_up.made_up(20, 0) == made_up.made_up(20, 0)
    assert not set(made_up.made_up(20, 0)) & set(made_up.made_up(20, 1))
    one = made_up.made_up(1, 0)[0]
    assert one.context[one.starts[0] :].startswith(one.answers[0])
    assert one.question.split()[-2] in one.context or one.question.split()[-1][:-1] in one.context


# --- windows and spans -----------------------------------------------------------------------------------------------

LONG = "Ada lives in Oslo. Ben works as a clerk. Cleo lives in New York. Dan lives in Rome."
START = LONG.index("New York")
ASKED = Question("q", "Where does Cleo live?", LONG, ("New York",), (START,))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return made_up.tokenizer([ASKED, *made_up.made_up(50, 0)])


@pytest.mark.parametrize(("length", "stride", "count"), [(40, 4, 1), (17, 4, 4), (14, 3, 7)])
def test_windows_cover_the_paragraph_and_know_where_the_answer_stands(
    tokenizer: Any, length: int, stride: int, count: int
) -> None:
    """22 tokens of a paragraph, 5 of a question, 3 marks: a window but the first has length - 8 - stride new ones."""
    found = windows([ASKED], tokenizer, length=length, stride=stride, padding=0, first=7)
    assert found.question.tolist() == [7] * len(found)
    assert found.ids.shape == (len(found), length)
    covered, answered = set(), 0
    for row in range(len(found)):
        spans = found.offsets[row][found.context[row]].tolist()
        assert all(start < end for start, end in spans)
        covered |= {place for start, end in spans for place in range(start, end)}
        first, last = found.answers[row].tolist()
        inside = [START, START + 3] in spans and [START + 4, START + 8] in spans
        if inside:
            assert LONG[found.offsets[row, first, 0] : found.offsets[row, last, 1]] == "New York"
            answered += 1
        else:
            assert (first, last) == (0, 0)
        assert found.there[row].sum() == (found.ids[row] != 0).sum()
        assert not (found.context[row] & ~found.there[row]).any()
    assert covered == {place for place, mark in enumerate(LONG) if mark != " "}
    assert answered >= 1
    assert len(found) == count


def test_a_question_that_leaves_no_room_is_told(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="the question 'q' leaves no room in 8 tokens"):
        windows([ASKED], tokenizer, length=8, stride=4, padding=0)


def test_the_best_span_is_that_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    starts, ends = torch.randn(2, 6, 9, generator=generator)
    context = torch.rand(6, 9, generator=generator) < 0.7
    context[5] = False
    first, last, sums = best_spans(starts, ends, context, 3)
    for row in range(5):
        pairs = [
            (float(starts[row, i] + ends[row, j]), i, j)
            for i in range(9)
            for j in range(i, min(9, i + 3))
            if context[row, i] and context[row, j]
        ]
        assert max(pairs) == (pytest.approx(float(sums[row])), int(first[row]), int(last[row]))
    assert float(sums[5]) == -float("inf")


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_on_made_up_questions_goes_on_as_if_it_had_never_stopped(settings: Resolve) -> None:
    whole = settings(*SMOKE)
    assert run(whole) is Status.FINISHED
    broken = settings(*SMOKE, f"machine.results={whole.machine.results}-broken")
    with stopped(at=13):
        assert run(broken) is Status.PREEMPTED
    assert run(broken) is Status.FINISHED
    assert metrics(broken) == metrics(whole)
    (file,) = record_of(whole).files
    given = json.loads(file.read_text())["answers"]
    right = {one.key: one.answers for one in made_up.made_up(200, 1)}
    assert scores(given, right)["f1"] == record_of(whole).summary["f1"]


def local(root: Path) -> Path:
    """A tiny pre-trained encoder as the hub has it, and files of SQuAD's format."""
    questions = {part: made_up.made_up(count, seed) for part, count, seed in (("train", 40, 0), ("dev", 8, 1))}
    tokenizer = made_up.tokenizer(questions["train"])
    folder = root / "encoders" / "tiny-bert"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made_up.model(tokenizer.get_vocab_size(), 40).bert.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (root / "tiny-squad").mkdir()
    for part, own in questions.items():
        paragraphs = [
            {"context": one.context, "qas": [{"id": one.key, "question": one.question, "answers": [
                {"text": one.answers[0], "answer_start": one.starts[0]}]}]}
            for one in own
        ]  # fmt: skip
        (root / "tiny-squad" / squad.FILES[part]).write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return folder


LOCAL = [*SMOKE, "task.encoder=tiny-bert", "task.questions=tiny-squad", "training.steps=20"]


def test_weights_and_questions_of_this_machine_are_fine_tuned_by_any_optimizer(
    settings: Resolve, tmp_path: Path
) -> None:
    folder = local(tmp_path)
    chosen = settings(*LOCAL, f"machine.data={tmp_path}")
    task: Any = program_of(chosen).task
    saved = torch.load(folder / "model.bin") if (folder / "model.bin").exists() else None
    assert saved is None  # safetensors
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    own = task.model.state_dict()
    assert torch.equal(own["bert.embeddings.word_embeddings.weight"], weights["embeddings.word_embeddings.weight"])
    again = program_of(settings(*LOCAL, f"machine.data={tmp_path}", "seed=1")).task
    heads = [one.model.qa_outputs.weight for one in (task, again)]  # type: ignore[attr-defined]
    assert not torch.equal(*heads)  # the read-out is the seed's
    for optimizer in ("fromage", "madam"):
        one = settings(*LOCAL, f"optimizer={optimizer}", f"machine.data={tmp_path}")
        assert run(one) is Status.FINISHED
        assert 0 <= record_of(one).summary["exact_match"] <= record_of(one).summary["f1"] <= 100
    assert len(json.loads(record_of(one).files[0].read_text())["weights_sha256"]) == 64
    assert [type(block).__name__ for block in task.blocks] == ["BertLayer"] * 2


def test_what_is_missing_of_an_encoder_is_one_line(settings: Resolve, tmp_path: Path) -> None:
    chosen = settings(*LOCAL, f"machine.data={tmp_path}")

    def refused(kind: type[Exception] = DataError, words: tuple[str, ...] = ()) -> str:
        with pytest.raises(kind) as raised:
            program_of(settings(*LOCAL, f"machine.data={tmp_path}", *words))
        assert len(str(raised.value).splitlines()) == 1
        return str(raised.value)

    assert "train-v1.1.json: no such file" in refused()
    folder = local(tmp_path)
    assert "task.length=41: must be at most 40, the encoder's positions" in refused(SettingsError, ("task.length=41",))
    assert "training.batch_size=999: must be at most 40 windows" in refused(
        SettingsError, ("training.batch_size=999", "trainer.accumulate=1")
    )
    assert "leaves no room in 12 tokens" in refused(SettingsError, ("task.length=12",))
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer.json: " in refused()
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json: no such file: the encoder's tokenizer in its fast form is needed" in refused()
    (folder / "model.safetensors").unlink()
    assert str(folder) in refused()
    (folder / "config.json").unlink()
    assert "no encoder: put config.json, tokenizer.json and the weights there" in refused()
    assert "nothing is downloaded" in refused()
    assert not record_of(chosen).path.exists()


def test_without_its_packages_it_says_what_to_install(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DataError, match="experiment=finetune_qa needs the package transformers: pip install"):
        program_of(settings(*SMOKE))
    with pytest.raises(SettingsError, match=r"task.stride=40: must be less than task.length=40"):
        settings(*SMOKE, "task.stride=40")


def test_the_answer_is_that_of_the_surest_window(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = program_of(settings(*SMOKE, "task.length=20", "task.stride=4")).task
    assert isinstance(task, QuestionAnswering)
    assert len(task.dev) > 1.5 * len(task.questions)

    def right(of: Any, chosen: Any) -> torch.Tensor:
        """Sure of the right answer where the window has it, and else of nothing."""
        logits = torch.zeros(len(of.answers[chosen]), 2, of.ids.shape[1])
        for row, (first, last) in enumerate(of.answers[chosen].tolist()):
            if last:
                logits[row, 0, first] = logits[row, 1, last] = 5
        return logits

    monkeypatch.setattr(task, "logits", right)
    assert task.evaluate().row == {"f1": 100.0, "exact_match": 100.0}


# --- verdicts --------------------------------------------------------------------------------------------------------


def tables(folder: Path, values: dict[str, float]) -> Path:
    rows = [
        {"comparison": "abcdef01", "scale": "paper", "run": f"{row.arm}/0", "optimizer": row.arm, "lr": row.lr,
         "seed": 0, "status": "finished", "hyperparameters": "{}", "encoder": "bert-base-uncased", "questions": "squad",
         "steps": 14_000, "batch_size": 12, "train_loss": 0.8, "f1": values[row.arm], "exact_match": 79.0}
        for row in figure.PUBLISHED.itertuples()
        if row.arm in values
    ]  # fmt: skip
    (folder / "summaries").mkdir()
    pd.DataFrame(rows).to_csv(folder / "summaries" / "finetune_qa.csv", index=False)
    return folder


def verdicts(results: Path) -> list[Verdict]:
    (found,) = evaluate(results, "finetune_qa", figure.REPORT)
    return [one.verdict for one in found.judgements]


def test_the_published_numbers_fed_as_ours_reproduce_every_claim_and_the_figure_is_drawn(tmp_path: Path) -> None:
    results = tables(tmp_path, dict(zip(figure.PUBLISHED["arm"], figure.PUBLISHED["f1"], strict=True)))
    assert verdicts(results) == [Verdict.REPRODUCED] * 4
    write(results, "finetune_qa")
    plt.close("all")
    assert (tmp_path / "figures" / "finetune_qa-paper.png").exists()


def test_half_a_point_is_close_two_are_near_and_worse_than_adam_is_not_as_well(tmp_path: Path) -> None:
    found = verdicts(tables(tmp_path, {"fromage": 85.9, "sgd": 86.4, "adam": 84.0}))
    assert found == [Verdict.PARTLY, Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.REPRODUCED]


def test_until_it_is_run_the_claim_is_not_run(tmp_path: Path) -> None:
    assert {one.verdict for one in figure.REPORT.not_run("paper")} == {Verdict.NOT_RUN}
    found = verdicts(tables(tmp_path, {"fromage": 80.0, "sgd": 86.4}))
    assert found == [Verdict.NOT_REPRODUCED, Verdict.REPRODUCED, Verdict.NOT_RUN, Verdict.NOT_RUN]
