"""Running text as subword tokens: byte-level byte-pair encoding, learnt from the text's training split alone."""

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reltrust.data import text
from reltrust.data.text import CPU, PARTS, UNKNOWN
from reltrust.errors import DataError

BYTES = 256  # tokens that every vocabulary starts with, beside <unk>
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubwordData:
    """Tokens int64 (n,) in 0..vocabulary-1 of each part, and the tokenizer that made them, as its own JSON."""

    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: int
    words: dict[str, int]  # of each part, ends of lines included: what a loss a word is a mean over
    tokenizer: bytes

    def to(self, device: torch.device) -> "SubwordData":
        parts = (self.train.to(device), self.valid.to(device), self.test.to(device))
        return SubwordData(*parts, self.vocabulary, self.words, self.tokenizer)

    @property
    def sha256(self) -> str:
        """Of the tokenizer."""
        return hashlib.sha256(self.tokenizer).hexdigest()


def load(name: str, root: str | Path, vocabulary: int, device: torch.device = CPU) -> SubwordData:
    """The text ``name`` (a name of configs/data) in a vocabulary of this size, on the device.

    Merges are learnt from the training split in a second or a few, always the same ones; once in a process.

    Raises:
        DataError: the text cannot be had, the package tokenizers is missing, or the text has too few different pairs
            for as many tokens.
    """
    return _load(name, str(root), vocabulary, device)


@lru_cache(maxsize=4)
def _load(name: str, root: str, vocabulary: int, device: torch.device) -> SubwordData:
    if device != CPU:
        return _load(name, root, vocabulary, CPU).to(device)
    lines = text.lines(name, root)
    texts = {part: [" ".join(line) + "\n" for line in lines[part]] for part in PARTS}
    tokenizer = train(texts["train"], vocabulary)
    if (found := tokenizer.get_vocab_size()) < vocabulary:
        raise DataError(f"task.vocabulary={vocabulary}: data={name} has {found} tokens at most")
    tokens = {}
    for part, own in texts.items():
        encoded = tokenizer.encode_batch_fast(own, add_special_tokens=False)
        tokens[part] = torch.tensor([token for line in encoded for token in line.ids])
    words = {part: sum(len(line) + 1 for line in lines[part]) for part in PARTS}
    return SubwordData(**tokens, vocabulary=vocabulary, words=words, tokenizer=tokenizer.to_str(pretty=False).encode())


def train(lines: list[str], vocabulary: int) -> Any:
    """A ``tokenizers.Tokenizer`` of this size, or a smaller one where the lines have no more pairs to merge.

    Token 0 is ``<unk>``, as which some texts come, then come the 256 bytes, then merges of neighbours in the order of
    how often they occur, none across words. What it decodes is what was encoded, to the byte.

    Raises:
        DataError: the package tokenizers is missing.

    Source: Sennrich, Haddow and Birch 2016, arXiv 1508.07909; of bytes: Radford et al. 2019, section 2.2.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would be lost in a process that is forked
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ModuleNotFoundError:
        raise DataError("subword tokens need the package tokenizers: pip install tokenizers") from None
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[UNKNOWN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )

    def batches(size: int = 1000) -> Iterator[list[str]]:
        yield from (lines[start : start + size] for start in range(0, len(lines), size))

    tokenizer.train_from_iterator(batches(), trainer, length=len(lines))
    return tokenizer
