"""data/near_copies.py: an exact search for similar texts, against all pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scratch.data import near_copies
from lora_scratch.data.examples import Example, Splits
from lora_scratch.data.near_copies import find_near_copies, shingles
from lora_scratch.data.overlap import NAMES, Place, normalized

LONG = "the quick brown fox jumps over the lazy dog and runs away into the dark green wood"


def splits_of(train=(), validation=(), test=()):
    """Splits of texts, or of (text, label), or of (text, label, pair)."""
    splits = ([row if isinstance(row, tuple) else (row, 0) for row in split] for split in (train, validation, test))
    return Splits(*(tuple(Example(*row) for row in split) for split in splits), labels=("a", "b"), source="made up")


def similarity(a, b):
    """The definition."""
    one, other = shingles(a), shingles(b)
    return len(one & other) / len(one | other) if one | other else 0


def test_a_changed_word_is_found_and_an_exact_copy_left_to_the_exact_search():
    """The similarity is the share of words and neighboring pairs in both."""
    splits = splits_of([LONG, LONG.upper(), "something else"], [], [LONG.replace("lazy", "sleepy")])
    [near] = find_near_copies(splits)
    assert (near.place, near.other, near.conflict) == (Place("test", 0), Place("train", 0), False)
    assert near.similarity == similarity(splits.test[0], splits.train[0])


def test_punctuation_and_case_do_not_count():
    """Such a text is no exact copy, and its similarity is 1."""
    [near] = find_near_copies(splits_of(["Thanks, my friend!"], [], [("thanks my friend", 1)]))
    assert (near.similarity, near.conflict) == (1, True)


def test_texts_without_spaces_are_compared_letter_by_letter():
    """As Chinese and Japanese are written."""
    splits = splits_of(["今天天气很好我们去公园散步吧"], [], ["今天天气很好我们去公园散步"])
    assert [near.place for near in find_near_copies(splits)] == [Place("test", 0)]


def test_a_training_row_comes_before_a_more_similar_other():
    """What leaks from train matters more than a copy within a split."""
    text = LONG + " where an old owl sleeps by day"
    train, first = text.replace("lazy", "sleepy"), text + " again"
    near = find_near_copies(splits_of([train], [], [text, first]))
    assert [row.other.split for row in near] == ["train", "train"]
    second = Example(first, 0)
    assert similarity(second, Example(text, 0)) > similarity(second, Example(train, 0))


def test_both_texts_of_a_pair_count():
    """The same first text with another second one is not near, nor are swapped texts."""
    other = "a bird sings in a tall tree near the old house by the river"
    splits = splits_of([(LONG, 0, other)], [], [(LONG, 0, "no"), (other, 0, LONG), (LONG + " too", 1, other)])
    [near] = find_near_copies(splits)
    assert (near.place, near.conflict) == (Place("test", 2), True)


def test_texts_without_words_are_passed_over():
    """Punctuation alone has no words to compare."""
    assert find_near_copies(splits_of(["!!!", "..."], [], ["?!", "!!!!"])) == []
    assert len(find_near_copies(splits_of(["!!!", LONG], [], ["?!", LONG + " too"]))) == 1


def test_rows_of_one_template_take_time_in_proportion(monkeypatch):
    """Each is compared with the first rows of the template alone, and is found to be near one of them."""
    monkeypatch.setattr(near_copies, "MOST_ROWS", 3)
    compared, similarity_of = [], near_copies._similarity
    monkeypatch.setattr(
        near_copies, "_similarity", lambda sets, *rows: (compared.append(len(rows[0])), similarity_of(sets, *rows))[1]
    )
    splits = splits_of([f"{LONG} number {number}" for number in range(200)])
    assert len(find_near_copies(splits)) == 199
    assert sum(compared) <= 3 * 200


words = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=7).map(" ".join)


@pytest.mark.parametrize("candidates", [1, near_copies.CANDIDATES])
@given(st.lists(words, max_size=12), st.lists(words, max_size=6), st.sampled_from([0.3, 0.5, 0.75, 0.8, 1.0]))
def test_the_search_is_exact(candidates, train, test, threshold):
    """It finds just the rows that a comparison of all pairs finds, also with one row at a time."""
    before, near_copies.CANDIDATES = near_copies.CANDIDATES, candidates
    try:
        splits = splits_of(train, [], test)
        found = {(near.place, near.similarity) for near in find_near_copies(splits, threshold=threshold)}
    finally:
        near_copies.CANDIDATES = before
    rows = [(Place(name, number), row) for name in NAMES for number, row in enumerate(getattr(splits, name))]
    expected, seen = set(), []
    for place, row in rows:
        if normalized(row.text) in [normalized(earlier.text) for _, earlier in seen]:
            continue
        near = [(other.split == "train", similarity(row, earlier)) for other, earlier in seen]
        near = [pair for pair in near if pair[1] >= threshold]
        expected |= {(place, max(near)[1])} if near else set()
        seen.append((place, row))
    assert found == expected
