"""Running text: which token a word is, what is read, downloaded and checked, and what is refused."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from reltrust.data import text
from reltrust.data.sizes import TOKENS
from reltrust.errors import DataError

LINES = {
    "train": "\n = A title = \n\n one two <unk> one\n",
    "valid": " two three\n\n",
    "test": " one <unk>\n four\n",
}


@pytest.fixture(autouse=True)
def _nothing_read_yet() -> Iterator[None]:
    text._load.cache_clear()
    yield
    text._load.cache_clear()


def write(root: Path, **changes: bytes) -> Path:
    folder = root / "wikitext-2"
    folder.mkdir(parents=True)
    for part, lines in LINES.items():
        (folder / f"{part}.txt").write_bytes(changes.get(part, lines.encode()))
    return folder


@pytest.fixture
def like_wikitext2(monkeypatch: pytest.MonkeyPatch) -> None:
    """These few lines have the checksum."""
    lines = {part: [line.split() for line in own.removesuffix("\n").split("\n")] for part, own in LINES.items()}
    monkeypatch.setitem(text.SHA256, "wikitext2", text.encode(lines).sha256)


def test_words_are_numbered_in_the_order_in_which_they_come(like_wikitext2: None, tmp_path: Path) -> None:
    write(tmp_path)
    data = text.load("wikitext2", tmp_path)
    assert data.vocabulary == ("<eos>", "=", "A", "title", "one", "two", "<unk>", "three", "four")
    assert data.train.tolist() == [0, 1, 2, 3, 1, 0, 0, 4, 5, 6, 4, 0]  # each line has its end, an empty one too
    assert data.valid.tolist() == [5, 7, 0, 0]
    assert data.test.tolist() == [4, 6, 0, 8, 0]
    assert data.train.dtype == torch.int64
    assert text.load("wikitext2", tmp_path) is data


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": b""}, "train.txt: empty"),
        ({"valid": b"\n\n"}, "valid.txt: empty"),
        ({"test": b"only one line\n"}, "the text to test on has 1 lines: must have 2 at least"),
        ({"train": "caf\u00e9\nx\n".encode("latin-1")}, "train.txt: 'utf-8' codec can't decode byte 0xe9"),
        ({"train": b"other\nwords\n"}, "not the text that data=wikitext2 means"),
    ],
)
def test_a_damaged_text_is_refused_by_name(
    like_wikitext2: None, tmp_path: Path, changes: dict[str, bytes], said: str
) -> None:
    write(tmp_path, **changes)
    with pytest.raises(DataError) as refused:
        text.load("wikitext2", tmp_path)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


# --- the hub ---------------------------------------------------------------------------------------------------------


def hub(load_dataset: Any) -> ModuleType:
    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    return module


def test_what_is_missing_is_downloaded_and_kept(
    like_wikitext2: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's rows are lines with their ends, and empty ones without."""
    calls = []

    def load_dataset(name: str, config: str) -> dict[str, dict[str, list[str]]]:
        calls.append((name, config))
        rows = {part: [line if line.strip() else "" for line in own.splitlines(True)] for part, own in LINES.items()}
        return {{"valid": "validation"}.get(part, part): {"text": own} for part, own in rows.items()}

    monkeypatch.setitem(sys.modules, "datasets", hub(load_dataset))
    first = text.load("wikitext2", tmp_path)
    assert sorted(path.name for path in (tmp_path / "wikitext-2").iterdir()) == ["test.txt", "train.txt", "valid.txt"]
    text._load.cache_clear()
    assert text.load("wikitext2", tmp_path).vocabulary == first.vocabulary
    assert calls == [("Salesforce/wikitext", "wikitext-2-v1")]


def test_without_a_network_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, config: str) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setitem(sys.modules, "datasets", hub(load_dataset))
    with pytest.raises(DataError) as refused:
        text.load("wikitext2", tmp_path)
    (line,) = str(refused.value).splitlines()
    assert "could not be downloaded (ConnectionError: no route" in line
    assert f"put train.txt, valid.txt and test.txt of WikiText-2 (word level, with <unk>) into {tmp_path}" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "package"), [("wikitext2", "datasets"), ("wikipedia", "gensim")])
def test_without_its_package_it_says_what_to_install(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("datasets", "gensim", "gensim.corpora.wikicorpus"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=f"pip install {package}"):
        text.load(name, tmp_path)


# --- Wikipedia -------------------------------------------------------------------------------------------------------


def test_the_sample_of_wikipedia_is_split_by_article_and_rare_words_are_unknown(tmp_path: Path) -> None:
    data = text.load("wikipedia", tmp_path)
    parts = (data.train, data.valid, data.test)
    assert tuple(map(len, parts)) == TOKENS["wikipedia"]
    assert len(data.vocabulary) == 12_769
    counts = torch.bincount(data.train, minlength=len(data.vocabulary))
    assert counts.min() >= 3
    text_of = [" ".join(data.vocabulary[token] for token in part[:200].tolist()) for part in parts]
    assert text_of[0].startswith(
        "= Anarchism = <eos> Anarchism is a political philosophy that advocates <unk> societies"
    )
    assert not set(text_of[1].split(" <eos> ")) & set(text_of[2].split(" <eos> "))


def test_a_line_without_a_word_is_left_out_and_marks_stand_apart() -> None:
    assert text.words("* '''Anarchism''', as they said in 1,539 (e.g.), isn't [[it]]?") == [
        "Anarchism", ",", "as", "they", "said", "in", "1,539", "(", "e.g", ".", ")", ",", "isn't", "it", "?",
    ]  # fmt: skip
    assert text.words("** -- !") == []
    assert text.words("== History ==") == ["=", "=", "History", "=", "="]
