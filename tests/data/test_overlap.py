"""data/overlap.py: copies of a text, in one split or across splits, and the one line about them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scratch.data import overlap
from lora_scratch.data.examples import Example, Splits
from lora_scratch.data.overlap import Place, find_copies, normalized, overlap_line, without_leaked

LABELS = ("anger", "joy", "love")


def splits_of(train=(), validation=(), test=(), **settings):
    """Splits of (text, label) or (text, label, pair)."""
    rows = [tuple(Example(*row) for row in split) for split in (train, validation, test)]
    return Splits(*rows, labels=LABELS, source="made up", **settings)


def test_texts_that_differ_in_case_and_white_space_are_copies():
    """Punctuation and letters count; tabs, line breaks and double spaces do not."""
    splits = splits_of([("I am  glad", 0), ("i am\nglad ", 0), ("i am glad!", 0), ("iam glad", 0)])
    [text] = find_copies(splits).texts
    assert text.places == (Place("train", 0), Place("train", 1))
    assert not text.conflict


def test_copies_are_found_across_splits_with_their_conflicts():
    """A text counts once, however many rows it has; a conflict is two labels of one text, in any splits."""
    splits = splits_of(
        [("a", 0), ("b", 1), ("c", 2), ("a", 1)],
        [("b", 1), ("d", 0)],
        [("a", 0), ("e", 1), ("d", 0), ("d", 2)],
    )
    copies = find_copies(splits)
    assert [(len(text.places), text.conflict) for text in copies.texts] == [(3, True), (2, False), (3, True)]
    assert len(copies.conflicts) == 2
    assert copies.shared("test") == [0]
    assert copies.shared("validation") == [0]
    assert copies.shared("test", "validation") == [2, 3]
    assert copies.shared("train", "test") == [0, 3]


def test_rows_without_the_leaked_ones_keep_their_numbers():
    """The numbers index the rows of the split, so that they index its logits too."""
    splits = splits_of([("a", 0), ("b", 1)], [("x", 0)], [("q", 0), ("B", 0), ("r", 1), ("a ", 1), ("q", 1)])
    assert without_leaked(splits) == [0, 2, 4]
    assert without_leaked(splits, "validation") == [0]


def test_pairs_are_copies_only_if_both_texts_are():
    """In the same order; a text of its own is no copy of a pair."""
    splits = splits_of([("a", 0, "b"), ("a", 0, "c"), ("b", 0, "a"), ("a", 0), ("A", 1, " b"), ("a b", 0)])
    [text] = find_copies(splits).texts
    assert [place.row for place in text.places] == [0, 4]
    assert text.conflict


def test_the_order_of_several_labels_is_no_conflict():
    """The same labels in another order are the same."""
    splits = splits_of([("a", (0, 2)), ("a", (2, 0)), ("b", (1,)), ("b", (1, 2)), ("c", ()), ("c", (0,))])
    assert [text.conflict for text in find_copies(splits).texts] == [False, True, True]


def test_scores_conflict_if_they_are_more_than_a_tenth_of_the_range_apart():
    """Of all scores: here the range is 4, so 0.4 is still no conflict."""
    splits = splits_of([("a", 1.0), ("a", 1.375), ("b", 5.0), ("b", 4.5), ("c", 2.0)], task="regression")
    assert [text.conflict for text in find_copies(splits).texts] == [False, True]


def test_equal_hashes_are_no_copies(monkeypatch):
    """Texts with equal hashes are compared in full."""
    monkeypatch.setattr(overlap, "hash", lambda key: 7, raising=False)
    splits = splits_of([("a", 0), ("b", 0), ("c", 0), ("b", 1)])
    assert [text.places for text in find_copies(splits).texts] == [(Place("train", 1), Place("train", 3))]


text = st.text("aB \n", max_size=3)


@given(st.lists(text), st.lists(text), st.lists(text))
def test_copies_are_those_of_a_plain_search(train, validation, test):
    """Against all pairs, on short texts of few letters."""
    splits = splits_of(*([(text, 0) for text in split] for split in (train, validation, test)))
    by_name = {"train": train, "validation": validation, "test": test}
    flat = [(name, number, normalized(text)) for name, texts in by_name.items() for number, text in enumerate(texts)]
    expected = {(a, b) for a, b, one in flat if sum(one == other for *_, other in flat) > 1}
    found = [(place.split, place.row) for text in find_copies(splits).texts for place in text.places]
    assert sorted(found) == sorted(expected)
    in_train = {normalized(text) for text in train}
    assert without_leaked(splits) == [n for n, text in enumerate(test) if normalized(text) not in in_train]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (([("a", 0)], [("b", 0)], [("c", 0)]), None),
        (
            ([("a", 0), ("b", 0)], [("c", 0)], [("b", 0)]),
            "1 test row stands in train too; 1 text is repeated (check_data lists them)",
        ),
        (
            ([("a", 0), ("b", 0)], [("a", 1)], [("b", 0), ("b", 0)]),
            "2 test and 1 validation rows stand in train too; 2 texts are repeated, 1 of them with different labels "
            "(check_data lists them)",
        ),
        (
            ([("a", 0), ("a", 0)], [("b", 0)], [("b", 1)]),
            "2 texts are repeated, 1 of them with different labels (check_data lists them)",
        ),
    ],
)
def test_one_line_says_what_is_repeated(rows, line):
    """With the words for one and for many; nothing if no text is repeated."""
    assert overlap_line(splits_of(*rows)) == line


def test_the_line_of_a_training_run_is_cheap():
    """20,000 rows of 25 words take 0.05 s; the bound leaves room for a busy machine."""
    words = [f"word{number}" for number in range(997)]
    rows = [
        (" ".join(words[(7 * row + 31 * place) % 997] for place in range(25)) + str(row), row % 3) for row in range(20000)
    ]
    splits = splits_of(rows[:16000], rows[16000:18000], [*rows[18000:], rows[5]])
    start = time.process_time()
    assert overlap_line(splits) == "1 test row stands in train too; 1 text is repeated (check_data lists them)"
    assert time.process_time() - start < 0.5
