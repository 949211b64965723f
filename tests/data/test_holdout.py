"""Laws of lora_scratch/data/holdout.py."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_scratch.data.holdout import hold_out
from lora_scratch.data.rows import Row
from lora_scratch.errors import DataError


def rows_of(labels: list[str]) -> list[Row]:
    return [Row(f"p:{number}", f"text {number}", label) for number, label in enumerate(labels)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 3))
def test_hold_out_keeps_every_row_and_every_label(labels: list[str], n: int, seed: int) -> None:
    """Both parts together are the rows in their old order, and the part that stays has every label."""
    rows = rows_of(labels)
    if len(set(labels)) == len(labels):
        with pytest.raises(DataError, match="too few to set some aside for test"):
            hold_out(rows, n, seed=seed, name="test")
        return
    stay, aside = hold_out(rows, n, seed=seed, name="test")
    assert sorted(stay + aside, key=rows.index) == rows
    assert stay == sorted(stay, key=rows.index)
    assert aside == sorted(aside, key=rows.index)
    assert {row.label for row in stay} == set(labels)
    assert len(aside) == min(n, len(labels) - len(set(labels)))


def test_hold_out_takes_the_same_share_of_every_label() -> None:
    """A tenth of 300 + 100 rows is 30 + 10 rows."""
    _, aside = hold_out(rows_of(["a", "b", "a", "a"] * 100), 40, seed=0, name="test")
    assert [sum(row.label == label for row in aside) for label in "ab"] == [30, 10]


def test_hold_out_depends_on_seed_and_name() -> None:
    """The draw is repeated for the same (seed, name), and another one for any other."""
    rows = rows_of(["a", "b"] * 50)
    draws = [
        tuple(hold_out(rows, 10, seed=seed, name=name)[1])
        for seed, name in [(0, "test"), (0, "test"), (1, "test"), (0, "val")]
    ]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5).map(str), min_size=2, max_size=60), st.integers(1, 20))
def test_hold_out_of_numbers_takes_a_share_of_high_and_low_ones(labels: list[str], n: int) -> None:
    """No number needs a second row like it, and every tenth keeps a row."""
    rows = rows_of(labels)
    stay, aside = hold_out(rows, n, seed=0, name="test", task="regression")
    assert sorted(stay + aside, key=rows.index) == rows
    assert len(aside) == min(n, len(rows) - min(10, max(1, len(rows) // 2)))


def test_held_out_numbers_are_spread_as_all_are() -> None:
    """Ten of a hundred: one of every tenth of the numbers."""
    _, aside = hold_out(rows_of([f"{i / 100}" for i in range(100)]), 10, seed=3, name="test", task="regression")
    assert [int(float(row.label) * 10) for row in sorted(aside, key=lambda row: float(row.label))] == list(range(10))


sets_of_labels = st.lists(st.lists(st.sampled_from("abcd"), unique=True).map(tuple), min_size=2, max_size=40)


@settings(max_examples=60, deadline=None)
@given(sets_of_labels, st.integers(1, 20))
def test_hold_out_of_several_labels_loses_no_label(labels: list[tuple[str, ...]], n: int) -> None:
    """The last row of a label is never held out; rows without labels can be."""
    rows = [Row(f"p:{number}", f"text {number}", names) for number, names in enumerate(labels)]
    try:
        stay, aside = hold_out(rows, n, seed=0, name="test", task="multi_label")
    except DataError:
        counts = [sum(name in names for names in labels) for name in "abcd"]
        assert all(any(counts["abcd".index(name)] == 1 for name in names) for names in labels)
        return
    assert stay
    assert sorted(stay + aside, key=rows.index) == rows
    assert {name for row in stay for name in row.label} == {name for names in labels for name in names}
