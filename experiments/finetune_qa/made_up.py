"""Questions that need no data set, and an encoder that needs no weights: they show that the code works."""

import random
from typing import Any

from reltrust.data.squad import Question, parse

NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Greta", "Hugo", "Ida", "Jon", "Kim", "Lea", "Max", "Nora", "Otto"]
TOWNS = ["Oslo", "Rome", "Cairo", "Lima", "New York", "Paris", "Quito", "San Jose", "Turin", "Vienna"]
WORK = ["a baker", "a clerk", "a farmer", "a head cook", "a judge", "a nurse", "a pilot", "a tailor"]
FACTS = {"Where does {} live?": "{} lives in {}.", "What is the work of {}?": "{} works as {}."}


def made_up(count: int, seed: int) -> list[Question]:
    """Each on a paragraph of three facts, about as many people, of which the question names one."""
    draw, paragraphs = random.Random(seed), []
    for number in range(count):
        people = draw.sample(NAMES, 3)
        kinds = [draw.choice(list(FACTS.items())) for _ in people]
        facts = [
            (question, fact, person, draw.choice(TOWNS if "lives" in fact else WORK))
            for person, (question, fact) in zip(people, kinds, strict=True)
        ]
        context = " ".join(fact.format(person, answer) for _, fact, person, answer in facts)
        question, fact, person, answer = draw.choice(facts)
        sentence = fact.format(person, answer)
        start = context.index(sentence) + sentence.index(answer)
        answers = [{"text": answer, "answer_start": start}]
        asked = {"id": f"{seed}-{number}", "question": question.format(person), "answers": answers}
        paragraphs.append({"context": context, "qas": [asked]})
    return parse({"data": [{"paragraphs": paragraphs}]}, "made-up questions")


def tokenizer(questions: list[Question]) -> Any:
    """A ``tokenizers.Tokenizer`` of the questions' words, with the marks of BERT's pairs."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    split = pre_tokenizers.BertPreTokenizer()
    texts = (text for one in questions for text in (one.question, one.context))
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    numbers = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    found = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    found.pre_tokenizer = split
    found.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return found


def model(vocabulary: int, positions: int) -> Any:
    """A BERT of width 64 with two layers, drawn from torch's global generator."""
    from transformers import BertConfig, BertForQuestionAnswering

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForQuestionAnswering(config)
