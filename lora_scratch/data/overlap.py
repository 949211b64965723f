"""Find rows with the same text, and rows of one split that stand in another too.

Two texts are the same if they differ only in case and white space. Two pairs are the same if both
of their texts are, in the same order. All three splits are searched together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .examples import Example, Label, Splits

NAMES = ("train", "validation", "test")
SPREAD = 0.1  # of the range of all scores: two scores of one text that are further apart are a conflict


@dataclass(frozen=True, order=True)
class Place:
    """A row: its split, and its number there, counted from 0."""

    split: str
    row: int


@dataclass(frozen=True)
class SameText:
    """The places of one text, in the order train, validation, test. `conflict`: their labels differ."""

    places: tuple[Place, ...]
    conflict: bool


@dataclass(frozen=True)
class Copies:
    """Every text that stands in two rows or more, in the order of its first row."""

    texts: tuple[SameText, ...]

    @property
    def conflicts(self) -> tuple[SameText, ...]:
        """The texts with different labels."""
        return tuple(text for text in self.texts if text.conflict)

    def shared(self, split: str, other: str = "train") -> list[int]:
        """Return the numbers of the rows of `split` whose text stands in `other` too, ascending."""
        with_other = (text.places for text in self.texts if any(place.split == other for place in text.places))
        return sorted(place.row for places in with_other for place in places if place.split == split)


@dataclass(frozen=True)
class AllRows:
    """The rows of all splits in one sequence: train, validation, test."""

    splits: Splits

    @cached_property
    def rows(self) -> list[Example]:
        """The examples."""
        return [row for name in NAMES for row in getattr(self.splits, name)]

    @cached_property
    def places(self) -> list[Place]:
        """Where each of them stands."""
        return [Place(name, number) for name in NAMES for number in range(len(getattr(self.splits, name)))]

    @cached_property
    def spread(self) -> float:
        """How far apart two scores are at most without a conflict. 0 unless the labels are scores."""
        scores = [row.label for row in self.rows if isinstance(row.label, float)]
        return SPREAD * (max(scores) - min(scores)) if scores else 0.0

    def conflict(self, numbers: Sequence[int]) -> bool:
        """Return whether these rows have different labels; for scores, labels further apart than `spread`."""
        return differing([self.rows[number].label for number in numbers], spread=self.spread)


def differing(labels: Sequence[Label], *, spread: float) -> bool:
    """Return whether the labels differ; for scores, by more than `spread`. The order of several labels is no difference."""
    scores = [label for label in labels if isinstance(label, float)]
    if scores:
        return max(scores) - min(scores) > spread
    return len({tuple(sorted(label)) if isinstance(label, tuple) else label for label in labels}) > 1


def normalized(text: str) -> str:
    """Return the text in lower case with single spaces, for comparison."""
    return " ".join(text.casefold().split())


def find_copies(splits: Splits) -> Copies:
    """Return the texts that stand in two rows or more.

    Texts are compared by 64-bit hashes first, and in full where two hashes are equal. So the search
    needs 8 bytes a row, and about 2 µs.
    """
    data = AllRows(splits)
    numbers = [copies for copies in same_rows(data.rows) if len(copies) > 1]
    return Copies(tuple(SameText(tuple(data.places[n] for n in group), data.conflict(group)) for group in numbers))


def same_rows(rows: Sequence[Example]) -> list[list[int]]:
    """Return the numbers of rows with the same text, a list for each text that stands in two rows or more."""
    hashes = np.fromiter((hash(_key(row)) for row in rows), np.int64, len(rows))
    _, text, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    groups: dict[tuple[str, ...], list[int]] = {}
    for number in np.flatnonzero(counts[text] > 1).tolist():
        groups.setdefault(_key(rows[number]), []).append(number)
    return [group for group in groups.values() if len(group) > 1]


def _key(row: Example) -> tuple[str, ...]:
    return (normalized(row.text),) if row.pair is None else (normalized(row.text), normalized(row.pair))


def without_leaked(splits: Splits, split: str = "test") -> list[int]:
    """Return the numbers of the rows of `split` whose text does not stand in the training rows, ascending."""
    leaked = set(find_copies(splits).shared(split))
    return [number for number in range(len(getattr(splits, split))) if number not in leaked]


def overlap_line(splits: Splits) -> str | None:
    """Return one line about rows with the same text; None if there are none. Only exact copies are looked for."""
    copies = find_copies(splits)
    if not copies.texts:
        return None
    return f"{'; '.join(_clauses(copies))} (check_data lists them)"


def _clauses(copies: Copies) -> Iterator[str]:
    counts = {name: len(copies.shared(name)) for name in ("test", "validation")}
    leaked = " and ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    one = sum(counts.values()) == 1
    if leaked:
        yield f"{leaked} {'row stands' if one else 'rows stand'} in train too"
    texts, conflicts = len(copies.texts), len(copies.conflicts)
    conflict = f", {conflicts:,} of them with different labels" if conflicts else ""
    yield f"{texts:,} {'text is' if texts == 1 else 'texts are'} repeated{conflict}"
