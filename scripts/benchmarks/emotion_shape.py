"""Makes rows as long as those of the six-emotion data set, of the demo's words, for timing alone.

Time and memory depend on the lengths of rows, not on their words. So a benchmark needs no download.
"""

from __future__ import annotations

import random
from bisect import bisect
from itertools import accumulate

from lora_scratch.data import Example, Splits
from lora_scratch.demo.corpus import corpus_words
from lora_scratch.runtime.seeds import named_seed

NAME = "emotion-shape"
LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")
SIZES = {"train": 2048, "validation": 256, "test": 2000}
SHORTEST = 4
# How many of the 16,000 training rows of Saravia et al. 2018 have 4, 5, 6, ... tokens under BERT's
# lower-case WordPiece, special tokens included. Their mean is 22.26.
COUNTS = (
    *(7, 40, 230, 390, 471, 536, 611, 595, 595, 622, 623, 640, 562, 601, 583, 566, 594, 522, 562),
    *(514, 452, 454, 391, 402, 335, 368, 327, 312, 248, 265, 229, 196, 213, 184, 161, 165, 129),
    *(123, 122, 111, 98, 91, 103, 74, 65, 55, 59, 49, 36, 37, 35, 33, 26, 32, 28, 27, 18, 26, 16),
    *(8, 8, 7, 3, 2, 2, 3, 1, 1, 2, 0, 0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1),
)


def emotion_lengths(count: int) -> list[int]:
    """Return `count` lengths at even steps through the distribution, shortest first.

    So few rows have the mean of the distribution as well as many.
    """
    below = list(accumulate(COUNTS))
    return [SHORTEST + bisect(below, (row + 0.5) / count * below[-1]) for row in range(count)]


def emotion_shaped_splits(*, seed: int = 0) -> Splits:
    """Return rows of these lengths in random order, with random words and random labels."""
    rows = {
        name: _rows(count, random.Random(named_seed(seed, name)))  # noqa: S311
        for name, count in SIZES.items()
    }
    return Splits(rows["train"], rows["validation"], rows["test"], labels=LABELS, source=NAME)


def _rows(count: int, choice: random.Random) -> tuple[Example, ...]:
    # one token each for the demo's tokenizer
    words = [word for word in sorted(corpus_words()) if word.isalpha()]
    lengths = emotion_lengths(count)
    choice.shuffle(lengths)
    texts = (" ".join(choice.choices(words, k=length - 2)) for length in lengths)  # 2: [CLS], [SEP]
    return tuple(Example(text, choice.randrange(len(LABELS))) for text in texts)
