"""A decoder of more than 1e8 parameters learns to predict the next subword of running text."""

import math

import torch
from torch import Tensor, nn

from reltrust.data.order import BatchOrder
from reltrust.data.subwords import SubwordData
from reltrust.experiment import Measured, Player
from reltrust.models.decoder import Decoder

from .settings import Subject


class LargeLanguageModel:
    """Cross entropy of a :class:`~reltrust.models.decoder.Decoder` on sequences of running text, in nats a token.

    The training text is cut into sequences of ``subject.length`` tokens, each token's target the one after it; their
    order is drawn anew for each epoch, and what is left at the text's end is not used. All text is on the device: a
    batch is one gather.

    Args:
        data: tokens, on the device to train on.
        parts: of a batch, see :class:`~reltrust.experiment.Player`.
        seed: draws the initial weights and the order of sequences.

    Source: the abstract of arXiv 2002.03432, version 1: "a language transformer with over 10^8 parameters".
    """

    def __init__(self, subject: Subject, data: SubwordData, *, batch_size: int, seed: int, parts: int = 1) -> None:
        self.subject, self.data, self.parts = subject, data, parts
        device = data.train.device
        self.train = sequences(data.train, subject.length)
        self.order = BatchOrder(len(self.train), batch_size, seed, device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = Decoder(
                data.vocabulary,
                width=subject.width,
                layers=subject.layers,
                heads=subject.heads,
                positions=subject.positions,
            ).to(device)
        self.module = nn.Module()
        self.module.add_module("model", self.model)
        self.module.register_buffer("best_valid_loss", torch.tensor(math.inf, dtype=torch.float64, device=device))
        self.blocks = list(self.model.blocks)
        self.players = (Player("model", list(self.model.parameters()), self.loss, ("train_loss",)),)
        self.parameters = sum(param.numel() for param in self.model.parameters())
        self.files = {"tokenizer.json": data.tokenizer, "tokenizer.json.sha256": f"{data.sha256}\n".encode()}

    def loss(self, step: int, part: int = 0) -> tuple[Tensor, ...]:
        """Cross entropy in nats a token of the batch before it is learnt from."""
        rows = self.train[self.order.batch(step, part, self.parts)]
        return (self.model(rows[:, :-1], rows[:, 1:]),)

    @torch.no_grad()
    def evaluate(self) -> Measured:
        """Losses in nats a token on the held-out texts, and the lowest ``valid_loss`` so far; a perplexity a word, by
        which vocabularies can be compared; the number of parameters.

        The tokenizer, without which weights mean nothing, is kept with its SHA-256 at the first evaluation.
        """
        losses = {part: self.mean_loss(getattr(self.data, part)) for part in ("valid", "test")}
        best = self.module.best_valid_loss
        assert isinstance(best, Tensor)
        best.fill_(min(float(best), losses["valid"]))
        tokens_a_word = len(self.data.valid) / self.data.words["valid"]
        row = {f"{part}_loss": loss for part, loss in losses.items()}
        row |= {
            "best_valid_loss": float(best),
            "word_perplexity": math.exp(min(700.0, losses["valid"] * tokens_a_word)),
            "parameters": float(self.parameters),
        }
        files, self.files = self.files, {}
        return Measured(row, files)

    def mean_loss(self, tokens: Tensor) -> float:
        """Of every token of its sequences, ``subject.evaluated`` of them from the start, one at a time."""
        rows = sequences(tokens, self.subject.length)[: self.subject.evaluated]
        return float(torch.stack([self.model(row[None, :-1], row[None, 1:]) for row in rows]).mean())


def sequences(tokens: Tensor, length: int) -> Tensor:
    """(n, length + 1): all whole sequences of the text, one after another; the last token of each begins the next."""
    return tokens.unfold(0, length + 1, length)
