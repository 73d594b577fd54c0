"""The language model benchmark: a transformer learns to predict the next word of running text."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from reltrust.data.text import UNKNOWN, TextData
from reltrust.experiment import Measured, Player
from reltrust.models.transformer import TransformerLM, generate

from .settings import EVALUATION_BATCH

SAMPLE_WORDS = 100


class LanguageModel:
    """Cross entropy of a :class:`~reltrust.models.transformer.TransformerLM` on running text.

    The text stands in ``batch_size`` columns, which are read from top to bottom, as many rows a step as the model's
    context; an epoch ends with what is left of them. The model knows nothing of the rows before.

    Args:
        data: tokens, on the device to train on.
        make_model: draws a model for a vocabulary of this size from torch's global generator.
        parts: of the columns, see :class:`~reltrust.experiment.Player`.
        seed: draws the initial weights and the samples.

    Source: section 5 of arXiv 2002.03432 (the WikiText-2 transformer).
    """

    def __init__(
        self, data: TextData, make_model: Callable[[int], TransformerLM], *, batch_size: int, seed: int, parts: int = 1
    ) -> None:
        self.data, self.parts, self.seed = data, parts, seed
        with torch.random.fork_rng():  # what dropout draws does not depend on the model's size
            torch.manual_seed(seed)
            self.model = make_model(len(data.vocabulary)).to(data.train.device)
        self.bptt = len(self.model.positions)
        self.train = columns(data.train, batch_size)
        self.steps_per_epoch = math.ceil((len(self.train) - 1) / self.bptt)
        self.module = nn.Module()
        self.module.add_module("model", self.model)
        # Of the evaluation with the lowest validation loss so far: what early stopping would end with.
        for name in ("best_valid_loss", "best_test_loss"):
            self.module.register_buffer(name, torch.tensor(math.inf, dtype=torch.float64))
        self.players = (Player("model", list(self.model.parameters()), self.loss, ("train_loss",)),)

    def loss(self, step: int, part: int = 0) -> tuple[Tensor, ...]:
        """Cross entropy in nats of the batch before it is learnt from, with dropout."""
        start = step % self.steps_per_epoch * self.bptt
        rows = self.train[start : start + self.bptt + 1].chunk(self.parts, dim=1)[part]
        return (self.model(rows[:-1], rows[1:]),)

    @torch.no_grad()
    def evaluate(self) -> Measured:
        """Losses (nats a word) and perplexities (their exponentials) on the held-out texts, and a text of the model's,
        none where it has diverged.

        ``test_loss`` is that of the evaluation with the lowest ``valid_loss`` so far.
        """
        valid_loss = self.mean_loss(self.data.valid)
        best_valid, best_test = self.module.best_valid_loss, self.module.best_test_loss
        assert isinstance(best_valid, Tensor)
        assert isinstance(best_test, Tensor)
        if valid_loss < float(best_valid):
            best_valid.fill_(valid_loss)
            best_test.fill_(self.mean_loss(self.data.test))
        losses = {"valid": valid_loss, "test": float(best_test)}
        row = {f"{part}_loss": loss for part, loss in losses.items()}
        row |= {f"{part}_perplexity": perplexity(loss) for part, loss in losses.items()}
        try:
            return Measured(row, {"sample.txt": self.sample().encode()})
        except FloatingPointError:
            return Measured(row)

    def mean_loss(self, tokens: Tensor) -> float:
        """Of every word but each column's first, as the words before it in its sequence predict it; nats."""
        text = columns(tokens, EVALUATION_BATCH)
        sequences = [text[start : start + self.bptt + 1] for start in range(0, len(text) - 1, self.bptt)]
        losses: list[float] = torch.stack([self.model(rows[:-1], rows[1:]) for rows in sequences]).tolist()
        return sum(loss * (len(rows) - 1) for loss, rows in zip(losses, sequences, strict=True)) / (len(text) - 1)

    def sample(self) -> str:
        """What the model writes after the test text's first word."""
        generator = torch.Generator().manual_seed(self.seed)
        words = self.data.vocabulary
        unknown = words.index(UNKNOWN) if UNKNOWN in words else None
        start = self.data.test[:1]
        tokens = generate(self.model, start, SAMPLE_WORDS, generator=generator, banned=unknown)
        return as_text([words[token] for token in tokens.tolist()])


def columns(tokens: Tensor, count: int) -> Tensor:
    """(rows, count): the tokens from the top of each column to its end, then the next; a remainder is left out."""
    rows = len(tokens) // count
    return tokens[: rows * count].view(count, rows).t().contiguous()


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that is too large for a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def as_text(words: list[str]) -> str:
    """The words with spaces between them, and a new line for ``<eos>``."""
    return " ".join("\n" if word == "<eos>" else word for word in words).replace(" \n ", "\n").strip() + "\n"
