"""Questions and paragraphs as windows of tokens: what an encoder reads, and where in it the answer stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reltrust.data.squad import Question


@dataclass(frozen=True)
class Windows:
    """n windows of ``length`` tokens: question, mark, part of the paragraph, mark, padding."""

    ids: Tensor
    """int64 (n, length)"""
    kinds: Tensor
    """int64 (n, length): which of the two texts a token is of"""
    there: Tensor
    """bool (n, length): no padding"""
    answers: Tensor
    """int64 (n, 2): the first and the last token of the first right answer; 0, 0 where the window does not have it"""
    context: Tensor
    """bool (n, length): tokens of the paragraph"""
    offsets: Tensor
    """int64 (n, length, 2): the characters of the paragraph that a token stands for"""
    question: Tensor
    """int64 (n,): the number of the question"""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> "Windows":
        return Windows(**{name: value.to(device) for name, value in vars(self).items()})


def windows(
    questions: Sequence[Question], tokenizer: Any, *, length: int, stride: int, padding: int, first: int = 0
) -> Windows:
    """Of each question as many as its paragraph needs; two that follow share ``stride`` tokens of it.

    Args:
        tokenizer: a ``tokenizers.Tokenizer`` that puts its marks around pairs; its truncation is set here.
        padding: the id of the token that fills a window up.
        first: the number of the first question.

    Raises:
        ValueError: a question leaves its paragraph no more tokens than two windows share.

    Source: Devlin et al. 2019, arXiv 1810.04805, section 4.2, and the sliding windows of its authors' code.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    marks = tokenizer.num_special_tokens_to_add(True)
    for one in questions:  # the tokenizer itself would panic
        if (room := length - marks - len(tokenizer.encode(one.question, add_special_tokens=False).ids)) <= stride:
            raise ValueError(f"the question {one.key!r} leaves no room in {length} tokens: {room} for its paragraph")
    tokenizer.enable_truncation(length, stride=stride, strategy="only_second")
    rows: dict[str, list[Any]] = {name: [] for name in Windows.__dataclass_fields__}
    for number, one in enumerate(questions, first):
        encoded = tokenizer.encode(one.question, one.context)
        answer = (one.starts[0], one.starts[0] + len(one.answers[0]))
        for window in (encoded, *encoded.overflowing):
            filled = length - len(window.ids)
            in_context = [which == 1 for which in window.sequence_ids] + [False] * filled
            offsets = [*window.offsets, *[(0, 0)] * filled]
            rows["ids"].append(window.ids + [padding] * filled)
            rows["kinds"].append(window.type_ids + [0] * filled)
            rows["there"].append([True] * len(window.ids) + [False] * filled)
            rows["answers"].append(_span(answer, offsets, in_context))
            rows["context"].append(in_context)
            rows["offsets"].append(offsets)
            rows["question"].append(number)
    return Windows(**{name: torch.tensor(values) for name, values in rows.items()})


def _span(answer: tuple[int, int], offsets: Sequence[tuple[int, int]], in_context: Sequence[bool]) -> tuple[int, int]:
    """The tokens of the characters ``answer``; 0, 0 if not all of them are in the window."""
    tokens = [
        place
        for place, ((start, end), inside) in enumerate(zip(offsets, in_context, strict=True))
        if inside and start < answer[1] and end > answer[0]
    ]
    if not tokens or offsets[tokens[0]][0] > answer[0] or offsets[tokens[-1]][1] < answer[1]:
        return 0, 0
    return tokens[0], tokens[-1]


def best_spans(starts: Tensor, ends: Tensor, context: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each window the span within the context with the largest sum of its two logits.

    Args:
        starts, ends: logits (n, length).
        context: bool (n, length).
        longest: tokens of a span at most.

    Returns:
        Its first token, its last token and the sum, (n,) each; the sum is -inf where there is no context.
    """
    outside = torch.zeros_like(starts).masked_fill(~context, -torch.inf)
    sums = (starts + outside)[:, :, None] + (ends + outside)[:, None, :]  # (n, first, last)
    allowed = torch.ones(sums.shape[1:], dtype=torch.bool, device=sums.device).triu().tril(longest - 1)
    best, place = sums.masked_fill(~allowed, -torch.inf).flatten(1).max(1)
    return place // sums.shape[2], place % sums.shape[2], best
