"""Laws of lora_scratch/data/examples.py."""

from dataclasses import replace

from lora_scratch.data import Example, Splits
from lora_scratch.data.examples import rows_digest

ROWS = (Example("a", 0), Example("b", 1))


def test_digest_follows_every_text_label_and_order() -> None:
    """Two different lists of rows have different digests."""
    variants = [ROWS, ROWS[::-1], ROWS[:1], (), (Example("a", 1), Example("b", 1)), (Example("a", 0), Example("c", 1))]
    assert len({rows_digest(rows, ("x", "y")) for rows in variants}) == len(variants)


def test_digest_does_not_depend_on_label_numbering() -> None:
    """The digest is over label names: renumbering the labels leaves it."""
    assert rows_digest(ROWS, ("x", "y")) == rows_digest([Example("a", 1), Example("b", 0)], ("y", "x"))


def test_digests_follow_the_rows_when_a_split_is_cut() -> None:
    """A `Splits` with fewer rows does not keep the digests of the longer one."""
    splits = Splits(ROWS, ROWS, ROWS, labels=("x", "y"), source="s")
    cut = replace(splits, train=ROWS[:1])
    assert cut.digests["train"] != splits.digests["train"]
    assert cut.digests["test"] == splits.digests["test"]
