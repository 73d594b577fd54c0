"""The labelled images of this project by name: what is known of them without loading them."""

from typing import Literal

ImageSet = Literal["mnist", "digits", "mnist5k"]

TRAINING_EXAMPLES: dict[ImageSet, int] = {"mnist": 60_000, "digits": 1_500, "mnist5k": 4_500}
