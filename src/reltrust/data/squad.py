"""Questions on paragraphs whose answers are spans of them: files in the format of SQuAD 1.1."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reltrust.errors import DataError, first_line

FILES = {"train": "train-v1.1.json", "dev": "dev-v1.1.json"}


@dataclass(frozen=True)
class Question:
    """A question, the paragraph that answers it, and its right answers with the characters at which they begin."""

    key: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


def load(folder: Path, part: str) -> list[Question]:
    """The questions of ``train`` or ``dev`` in a folder; nothing is downloaded.

    Raises:
        DataError: the file is not there, or is none of this format: the line names what is wrong and where.
    """
    path = folder / FILES[part]
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file: put {' and '.join(FILES.values())} of SQuAD 1.1, or your own of that format, into "
            f"{folder}"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {first_line(error)}") from None
    return parse(content, str(path))


def parse(content: Any, where: str) -> list[Question]:
    """The questions of such a file's content.

    Raises:
        DataError: as :func:`load`.
    """
    try:
        found = list(_questions(content))
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{where}: not in the format of SQuAD 1.1: {type(error).__name__}: {first_line(error)}"
        ) from None
    if not found:
        raise DataError(f"{where}: no questions")
    seen: set[str] = set()
    for one in found:
        if one.key in seen:
            raise DataError(f"{where}: two questions with the id {one.key!r}")
        seen.add(one.key)
        if not one.answers:
            raise DataError(
                f"{where}: the question {one.key!r} has no answer, as there are in SQuAD 2.0: it must have one"
            )
        for answer, start in zip(one.answers, one.starts, strict=True):
            if one.context[start : start + len(answer)] != answer or not answer:
                raise DataError(
                    f"{where}: the answer {answer!r} to {one.key!r} does not stand at {start} of its context"
                )
    return found


def _questions(content: Any) -> Iterator[Question]:
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for one in paragraph["qas"]:
                texts, starts = ([answer[key] for answer in one["answers"]] for key in ("text", "answer_start"))
                yield Question(str(one["id"]), one["question"], paragraph["context"], tuple(texts), tuple(starts))
