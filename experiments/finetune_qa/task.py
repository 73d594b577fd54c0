"""An encoder learns to find answers in paragraphs, from pre-trained weights that lie on this machine."""

import hashlib
import inspect
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.data import squad
from reltrust.data.order import BatchOrder
from reltrust.data.squad import Question
from reltrust.errors import DataError, SettingsError, first_line
from reltrust.experiment import Measured, Player
from reltrust.metrics.squad import scores

from . import made_up
from .settings import Subject
from .windows import Windows, best_spans, windows

MADE_UP = {"train": 2_000, "dev": 200}  # questions
EVALUATED = 32  # windows at a time


class QuestionAnswering:
    """Mean cross entropy of the first and of the last token of the answer, over all tokens of a window.

    A window of a longer paragraph that does not have the answer is taught to point to its first token.

    Args:
        root: machine.data, below which weights and questions lie.
        parts: of a batch, see :class:`~reltrust.experiment.Player`.
        seed: draws the read-out, the order of windows, and dropout.

    Raises:
        DataError: weights, tokenizer or questions are not there, or cannot be read; nothing is downloaded.
        SettingsError: a window is longer than the encoder's positions, or a batch is larger than the training set.

    Source: the SQuAD fine-tuning of arXiv 2002.03432, version 1; Devlin et al. 2019, arXiv 1810.04805, section 4.2.
    """

    def __init__(
        self, subject: Subject, *, root: str, batch_size: int, seed: int, device: torch.device, parts: int = 1
    ) -> None:
        try:
            import tokenizers
            import transformers
        except ModuleNotFoundError as error:
            raise DataError(
                f"experiment=finetune_qa needs the package {error.name}: pip install transformers"
            ) from None
        quiet: Any = transformers.logging
        quiet.set_verbosity_error()
        self.subject, self.parts, self.device = subject, parts, device
        questions = {part: _questions(root, subject.questions, part) for part in ("train", "dev")}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if subject.encoder is None:
                tokenizer = made_up.tokenizer(questions["train"])
                self.model = made_up.model(tokenizer.get_vocab_size(), max(64, subject.length))
                self.weights_sha256 = ""
            else:
                folder = Path(root, "encoders", subject.encoder)
                self.model, self.weights_sha256 = _encoder(folder)
                tokenizer = _tokenizer(folder, tokenizers.Tokenizer)
        self.model.to(device).train()
        positions = getattr(self.model.config, "max_position_embeddings", None)
        if positions is not None and subject.length > positions:
            raise SettingsError(f"task.length={subject.length}: must be at most {positions}, the encoder's positions")
        shape = {"length": subject.length, "stride": subject.stride, "padding": self.model.config.pad_token_id or 0}
        try:
            self.train, self.dev = (
                windows(questions[part], tokenizer, **shape).to(device) for part in ("train", "dev")
            )
        except ValueError as error:
            raise SettingsError(f"task.length={subject.length}, task.stride={subject.stride}: {error}") from None
        self.questions = questions["dev"]
        if batch_size > len(self.train):
            raise SettingsError(f"training.batch_size={batch_size}: must be at most {len(self.train)} windows")
        self.order = BatchOrder(len(self.train), batch_size, seed, device)
        self.has_kinds = "token_type_ids" in inspect.signature(self.model.forward).parameters
        self.module: nn.Module = self.model
        lists = [list(module) for module in self.model.modules() if isinstance(module, nn.ModuleList)]
        self.blocks = max(lists, key=len, default=[])
        self.players = (Player("model", list(self.model.parameters()), self.loss, ("train_loss",)),)

    def loss(self, step: int, part: int = 0) -> tuple[Tensor, ...]:
        """Nats, of the batch before it is learnt from, with the encoder's dropout."""
        chosen = self.order.batch(step, part, self.parts)
        logits = self.logits(self.train, chosen)
        return (F.cross_entropy(logits.flatten(0, 1), self.train.answers[chosen].flatten()),)

    def logits(self, of: Windows, chosen: Tensor | slice) -> Tensor:
        """(n, 2, length): that a token is the first, and the last, of the answer."""
        inputs = {"input_ids": of.ids[chosen], "attention_mask": of.there[chosen].long()}
        if self.has_kinds:
            inputs["token_type_ids"] = of.kinds[chosen]
        found = self.model(**inputs)
        return torch.stack((found.start_logits, found.end_logits), dim=1).float()

    @torch.no_grad()
    def evaluate(self) -> Measured:
        """``f1`` and ``exact_match`` in 0..100 on the held-out questions, and what was answered.

        Of the windows of a question that answers which is surest of its span.
        """
        best: dict[int, tuple[float, str]] = {}
        for start in range(0, len(self.dev), EVALUATED):
            chosen = slice(start, start + EVALUATED)
            starts, ends = self.logits(self.dev, chosen).unbind(1)
            first, last, sure = best_spans(starts, ends, self.dev.context[chosen], self.subject.answer_tokens)
            rows = torch.arange(len(first), device=first.device)
            begin, end = (self.dev.offsets[chosen][rows, token, side] for token, side in ((first, 0), (last, 1)))
            spans = zip(*(x.tolist() for x in (self.dev.question[chosen], sure, begin, end)), strict=True)
            for number, score, begins, ends_at in spans:
                if score > best.get(number, (-float("inf"), ""))[0]:
                    best[number] = score, self.questions[number].context[begins:ends_at]
        given = {self.questions[number].key: text for number, (_, text) in best.items()}
        right = {one.key: one.answers for one in self.questions}
        about = {"weights_sha256": self.weights_sha256, "answers": given}
        return Measured(scores(given, right), {"answers.json": json.dumps(about, indent=1).encode()})


def _questions(root: str, name: str | None, part: str) -> list[Question]:
    if name is None:
        return made_up.made_up(MADE_UP[part], seed=0 if part == "train" else 1)
    return squad.load(Path(root, name), part)


def _encoder(folder: Path) -> tuple[Any, str]:
    """The model with a new read-out, and the SHA-256 of its weights' files."""
    from transformers import AutoModelForQuestionAnswering

    if not (folder / "config.json").exists():
        raise DataError(
            f"{folder}: no encoder: put config.json, tokenizer.json and the weights there, as the Hugging Face hub has "
            "them; nothing is downloaded"
        )
    try:
        model = AutoModelForQuestionAnswering.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever transformers raises of files that are missing or of another kind
        raise DataError(f"{folder}: {type(error).__name__}: {first_line(error)}") from None
    return model, _sha256(folder)


@lru_cache(maxsize=4)
def _sha256(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def _tokenizer(folder: Path, kind: Any) -> Any:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise DataError(f"{path}: no such file: the encoder's tokenizer in its fast form is needed")
    try:
        return kind.from_file(str(path))
    except Exception as error:  # of the tokenizer's own kind
        raise DataError(f"{path}: {first_line(error)}") from None
