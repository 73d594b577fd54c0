"""The data sets of this project by name: what is known of them without loading them."""

from typing import Literal

ImageSet = Literal["mnist", "digits", "mnist5k"]
TextSet = Literal["wikitext2", "wikipedia"]

TRAINING_EXAMPLES: dict[str, int] = {"mnist": 60_000, "digits": 1_500, "mnist5k": 4_500}
TOKENS: dict[str, tuple[int, int, int]] = {  # to train, validate, test on
    "wikitext2": (2_088_628, 217_646, 245_569),
    "wikipedia": (452_839, 74_841, 54_451),
}
