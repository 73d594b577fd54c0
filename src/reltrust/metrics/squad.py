"""Exact match and F1 of answers in words, as SQuAD 1.1 defines them."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_MARKS = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> list[str]:
    """The words of an answer, in lower case, without ASCII punctuation and English articles."""
    return _ARTICLES.sub(" ", answer.lower().translate(_WITHOUT_MARKS)).split()


def exact_match(given: str, right: str) -> float:
    """1 if both are the same once they are normalised, else 0."""
    return float(normalised(given) == normalised(right))


def f1(given: str, right: str) -> float:
    """The harmonic mean of precision and recall of the words, each counted as often as it occurs; in 0..1.

    Of answers that have no words left it is 0, also for two of them.
    """
    ours, theirs = Counter(normalised(given)), Counter(normalised(right))
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0


def scores(given: Mapping[str, str], right: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """``f1`` and ``exact_match`` in 0..100: of each question the best over its right answers, the mean over questions.

    A question that was not answered counts 0.

    Args:
        given: by question, the answer.
        right: by question, the right answers, one at least.

    Raises:
        ValueError: there is no question, or one without a right answer.

    Source: Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1.
    """
    if not right or not all(right.values()):
        raise ValueError("each question has to have a right answer, and there has to be a question")
    totals = {
        name: sum(
            max(measure(given[key], answer) for answer in answers) for key, answers in right.items() if key in given
        )
        for name, measure in (("f1", f1), ("exact_match", exact_match))
    }
    return {name: 100 * total / len(right) for name, total in totals.items()}
