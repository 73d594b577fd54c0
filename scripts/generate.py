"""Prints text that the language model of a finished run writes; the run was made with machine.keep=weights."""

import argparse
import math
import sys

import torch
from arguments import Parser
from reltrust.experiments.transformer_lm.task import as_text
from safetensors import SafetensorError
from safetensors.torch import load_file

from reltrust import experiment
from reltrust.data import text
from reltrust.errors import DataError, RecordError
from reltrust.models.transformer import generate
from reltrust.records.store import RunRecord, Store


def positive(word: str) -> float:
    value = float(word)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{word}: must be a finite number above 0")
    return value


def count(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word}: must be at least 1")
    return value


def seed(word: str) -> int:
    value = int(word)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{word}: must be from 0 to 2^63 - 1")
    return value


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("run", help="run=<id>: the first digits of the run's id, which end its directory's name")
    parser.add_argument("--prompt", default="", help="what it goes on from: words of the vocabulary")
    parser.add_argument("--words", type=count, default=100, help="how many to write (default: 100)")
    parser.add_argument("--temperature", type=positive, default=1.0, help="below 1 the probable becomes more so")
    parser.add_argument("--top-k", type=count, default=None, help="only the k most probable words at each place")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--data", default="data", help="machine.data of the run (default: data)")
    parser.add_results("runs")
    arguments = parser.parse_args()

    wanted = arguments.run.removeprefix("run=")
    found = [record for record in Store(arguments.results).records("transformer_lm") if is_called(record, wanted)]
    if len(found) != 1:
        which = "no such run" if not found else f"{len(found)} runs: {', '.join(record.path.name for record in found)}"
        parser.error(f"run={wanted}: {which} in {arguments.results}/runs/transformer_lm")
    (record,) = found
    if not record.weights_path.exists():
        parser.error(f"run={wanted}: {record.path} has no weights: make the run with machine.keep=weights")
    try:
        config = record.config
        data = text.load(config["data"]["name"], arguments.data)
        kept = load_file(record.weights_path)
    except (RecordError, DataError) as error:
        sys.exit(f"error: {error}")
    except SafetensorError as error:
        sys.exit(f"error: {record.weights_path}: cannot be read: {error}")
    weights = {key.removeprefix("model."): value for key, value in kept.items() if "model." in key}
    if (size := len(weights["embedding.weight"])) != len(data.vocabulary):
        sys.exit(f"error: {record.weights_path}: a vocabulary of {size} words, data={config['data']['name']} has "
                 f"{len(data.vocabulary)}")  # fmt: skip
    subject: type = experiment.load("transformer_lm")
    model = subject(**{key: value for key, value in config["task"].items() if key != "name"}).model(size).eval()
    model.load_state_dict(weights)

    numbers = {word: number for number, word in enumerate(data.vocabulary)}
    prompt = arguments.prompt.split() or [data.vocabulary[data.test[0]]]
    if unknown := [word for word in prompt if word not in numbers]:
        parser.error(f"--prompt: {unknown[0]!r} is no word of the vocabulary")
    tokens = generate(
        model,
        torch.tensor([numbers[word] for word in prompt]),
        arguments.words,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        generator=torch.Generator().manual_seed(arguments.seed),
        banned=numbers.get(text.UNKNOWN),
    )
    print(as_text([data.vocabulary[token] for token in tokens.tolist()]), end="")


def is_called(record: RunRecord, wanted: str) -> bool:
    try:
        return bool(wanted) and str(record.provenance["id"]).startswith(wanted)
    except RecordError:
        return False


if __name__ == "__main__":
    main()
