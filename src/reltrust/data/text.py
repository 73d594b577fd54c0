"""Running text as word tokens: three one-dimensional tensors on the device, and the words that the tokens mean."""

import bz2
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from reltrust.errors import DataError, first_line

PARTS = ("train", "valid", "test")
UNKNOWN, END = "<unk>", "<eos>"
CPU = torch.device("cpu")
RARE_ARE_UNKNOWN = ("wikipedia",)  # WikiText-2 comes with its <unk>
Parts = Mapping[str, list[list[str]]]  # of each part the words of its lines

# Of the tokens of train, valid and test as int32, then of the words, one a line.
SHA256: dict[str, str] = {
    "wikitext2": "d52a3658f37d2f022b558dc55c52c78f66e9048d965434c22ac11b112ae0069a",
    "wikipedia": "e8c649432b4e7b777591205e81f4390528bfb17bebbc7fb8b08edb44bd3d524e",
}


@dataclass(frozen=True)
class TextData:
    """Tokens int64 (n,) in 0..len(vocabulary)-1 of each part; the end of a line is a token too."""

    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: tuple[str, ...]

    def to(self, device: torch.device) -> "TextData":
        return TextData(self.train.to(device), self.valid.to(device), self.test.to(device), self.vocabulary)

    @property
    def sha256(self) -> str:
        tokens = b"".join(part.cpu().int().numpy().tobytes() for part in (self.train, self.valid, self.test))
        return hashlib.sha256(tokens + "\n".join(self.vocabulary).encode()).hexdigest()


def encode(parts: Mapping[str, Iterable[Sequence[str]]]) -> TextData:
    """Tokens of the lines (sequences of words) of ``train``, ``valid`` and ``test``.

    A word's number is its place in the order of first occurrence, through all three parts; each line ends with
    ``<eos>``.

    Raises:
        DataError: a part has fewer than two lines.
    """
    numbers: dict[str, int] = {}
    tokens = {}
    for part in PARTS:
        lines = [[*line, END] for line in parts[part]]
        if len(lines) < 2:
            raise DataError(f"the text to {part} on has {len(lines)} lines: must have 2 at least")
        tokens[part] = torch.tensor([numbers.setdefault(word, len(numbers)) for line in lines for word in line])
    return TextData(tokens["train"], tokens["valid"], tokens["test"], tuple(numbers))


def load(name: str, root: str | Path, device: torch.device = CPU) -> TextData:
    """The text ``name`` (a name of configs/data) on the device; downloads are kept below ``root``.

    Read once in a process and copied once to a device, however many runs use it.

    Raises:
        DataError: it is neither there nor to be had, or does not match its checksum.
    """
    return _load(name, str(root), device)


@lru_cache(maxsize=4)
def _load(name: str, root: str, device: torch.device) -> TextData:
    if device != CPU:
        return _load(name, root, CPU).to(device)
    return _checked(name, root)[1]


def _checked(name: str, root: str) -> tuple[Parts, TextData]:
    """The text as words and as tokens, which have its checksum."""
    where, parts = _LOADERS[name](root)
    data = encode(with_unknown(parts) if name in RARE_ARE_UNKNOWN else parts)
    if data.sha256 != SHA256[name]:
        raise DataError(f"{where}: not the text that data={name} means (its tokens or its vocabulary are others)")
    return parts, data


def lines(name: str, root: str | Path) -> Parts:
    """The words of each line of ``train``, ``valid`` and ``test``, rare ones as they are, where the source has them.

    Raises:
        DataError: as :func:`load`.
    """
    return _checked(name, str(root))[0]


# --- WikiText-2 ------------------------------------------------------------------------------------------------------


def _wikitext2(root: str) -> tuple[str, Parts]:
    """Words as they stand between spaces, <unk> for the rare ones included."""
    folder = Path(root, "wikitext-2")
    if not all((folder / f"{part}.txt").exists() for part in PARTS):
        _download_wikitext2(folder)
    return str(folder), {part: read_lines(folder / f"{part}.txt") for part in PARTS}


def read_lines(path: Path) -> list[list[str]]:
    """The words of each line.

    Raises:
        DataError: the file is empty, is no UTF-8 or cannot be read.
    """
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {first_line(error)}") from None
    if not text.strip():
        raise DataError(f"{path}: empty")
    return [line.split() for line in text.removesuffix("\n").split("\n")]


def _download_wikitext2(folder: Path) -> None:
    advice = f"put train.txt, valid.txt and test.txt of WikiText-2 (word level, with <unk>) into {folder}"
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise DataError(f"data=wikitext2: pip install datasets to download it, or {advice}") from None
    try:
        found = load_dataset("Salesforce/wikitext", "wikitext-2-v1")
        texts = {part: found["validation" if part == "valid" else part]["text"] for part in PARTS}
    except Exception as error:  # whatever the network or the hub raises
        raise DataError(
            f"WikiText-2 could not be downloaded ({type(error).__name__}: {first_line(error)}): {advice}, or run "
            f"`python scripts/prefetch_data.py wikitext2 --data {folder.parent}` where there is a network"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in texts.items():
        scrap = folder / f".{part}.txt"
        scrap.write_text("".join(row.rstrip("\n") + "\n" for row in rows), encoding="utf-8")
        scrap.replace(folder / f"{part}.txt")


# --- a sample of Wikipedia -------------------------------------------------------------------------------------------

_SAMPLE = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_WORD = re.compile(r"\w+(?:[-'\u2019.,]\w+)*|[^\w\s]")
_MARKUP = re.compile(r"'{2,}|\[\[|\]\]|\{\{|\}\}|<[^>]*>|^[*#:;|!]+")
SEEN_AT_LEAST = 3  # as in WikiText: rarer words are <unk>


def _wikipedia(root: str) -> tuple[str, Parts]:
    """The articles in gensim's sample, of each ten one to validate and one to test on."""
    try:
        from gensim.corpora.wikicorpus import extract_pages, filter_wiki
        from gensim.test.utils import datapath
    except ModuleNotFoundError:
        raise DataError("data=wikipedia needs the package gensim: pip install gensim") from None
    path = datapath(_SAMPLE)
    with bz2.open(path) as file:
        pages = [(title, text) for title, text, _ in extract_pages(file, filter_namespaces=("0",))]
    articles = [
        [words(f"= {title} ="), *lines]
        for title, text in pages
        if len(lines := [line for raw in filter_wiki(text).splitlines() if (line := words(raw))]) > 1
    ]
    parts: dict[str, list[list[str]]] = {part: [] for part in PARTS}
    for i, lines in enumerate(articles):
        parts[{8: "valid", 9: "test"}.get(i % 10, "train")] += lines
    return path, parts


def words(line: str) -> list[str]:
    """The words and marks of a line of Wikipedia; none where it has no letter or digit."""
    found = _WORD.findall(_MARKUP.sub(" ", line.strip()))
    return found if any(word[0].isalnum() for word in found) else []


def with_unknown(parts: Parts) -> Parts:
    """``<unk>`` in place of words that occur in ``train`` fewer than ``SEEN_AT_LEAST`` times."""
    counts = Counter(word for line in parts["train"] for word in line)
    return {
        part: [[word if counts[word] >= SEEN_AT_LEAST else UNKNOWN for word in line] for line in lines]
        for part, lines in parts.items()
    }


_LOADERS: dict[str, Callable[[str], tuple[str, Parts]]] = {"wikitext2": _wikitext2, "wikipedia": _wikipedia}
