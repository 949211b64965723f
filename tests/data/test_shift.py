"""data/shift.py: shares, lengths and scores of the splits, and which differ from the training rows."""

import random

from lora_scratch.data.examples import Example, Splits
from lora_scratch.data.shift import class_counts, class_shifts, number_shifts, scores, spread_of, word_counts


def splits_of(*rows, labels=("a", "b", "c")):
    """Splits of (text, label) or (text, label, pair)."""
    return Splits(*(tuple(Example(*row) for row in split) for split in rows), labels=labels, source="made up")


def test_every_label_of_a_row_counts_and_labels_without_rows_are_zero():
    """One label or several."""
    splits = splits_of([("x", 0), ("x", 0), ("x", 1)], [("x", (0, 1))], [("x", ()), ("x", (1,))])
    assert class_counts(splits) == {"train": [2, 1, 0], "validation": [1, 1, 0], "test": [0, 1, 0]}


def test_words_of_both_texts_count():
    """Separated by white space."""
    splits = splits_of([("a b  c", 0)], [("a", 0, "b\nc")], [("a", 0, None)])
    assert word_counts(splits) == {"train": [3], "validation": [3], "test": [1]}


def test_scores_are_the_labels_that_are_numbers():
    """Classes are none."""
    assert scores(splits_of([("x", 1.5)], [("x", 2.0)], [("x", 0.5)])) == {
        "train": [1.5],
        "validation": [2.0],
        "test": [0.5],
    }
    assert scores(splits_of([("x", 1)], [], []))["train"] == []


def test_numbers_in_short():
    """Mean, median, 95 % quantile, least and largest."""
    spread = spread_of([1, 2, 3, 4, 10])
    assert (spread.mean, spread.median, spread.least, spread.largest) == (4, 3, 1, 10)
    assert 4 < spread.high < 10


def test_a_split_drawn_otherwise_is_named_and_one_drawn_alike_is_not():
    """At p below 0.001."""
    counts = {"train": [700, 200, 100, 0], "validation": [72, 18, 10, 0], "test": [40, 40, 20, 0]}
    [shift] = class_shifts(counts)
    assert (shift.split, shift.subject) == ("test", "class shares")
    draw = random.Random(0)  # noqa: S311
    lengths = {
        "train": [draw.randint(5, 30) for _ in range(800)],
        "validation": [draw.randint(5, 30) for _ in range(200)],
        "test": [draw.randint(10, 40) for _ in range(200)],
    }
    [shift] = number_shifts(lengths, "lengths")
    assert (shift.split, shift.subject) == ("test", "lengths")
    assert shift.p_value < 1e-6


def test_an_empty_split_is_no_shift():
    """Nothing to compare."""
    assert class_shifts({"train": [5, 5], "validation": [0, 0], "test": [5, 5]}) == []
    assert number_shifts({"train": [1, 2], "validation": [], "test": [1]}, "lengths") == []
