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
