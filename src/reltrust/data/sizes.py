"""The data sets of this project by name: what is known of them without loading them."""

from typing import Literal

ImageSet = Literal["mnist", "digits", "mnist5k"]
RgbSet = Literal["cifar10", "cifar100", "photographs", "svhn"]
TextSet = Literal["wikitext2", "wikipedia"]

TRAINING_EXAMPLES: dict[str, int] = {"mnist": 60_000, "digits": 1_500, "mnist5k": 4_500}
RGB_EXAMPLES: dict[str, tuple[int, int]] = {  # 32x32 in colour, to train and to test on
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "photographs": (5_000, 3_000),
    "svhn": (73_257, 26_032),
}
CLASSES: dict[str, int] = {**dict.fromkeys((*TRAINING_EXAMPLES, *RGB_EXAMPLES), 10), "cifar100": 100}
TOKENS: dict[str, tuple[int, int, int]] = {  # to train, validate, test on
    "wikitext2": (2_088_628, 217_646, 245_569),
    "wikipedia": (452_839, 74_841, 54_451),
}
