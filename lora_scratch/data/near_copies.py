r"""Find rows with nearly the same text: an exact search that needs memory in proportion to the rows.

    similarity(a, b) = |A ∩ B| / |A ∪ B|        A: the words of a and its pairs of neighboring words

Case and punctuation do not count. Two sets of a similarity of t or more share one of the
|A| - ⌈t |A|⌉ + 1 rarest members of A and of B alike. So only rows that share a rare member are
compared, and none is missed. Where a rare member stands in more than MOST_ROWS rows, as in rows made
from a template, only the first of them are compared, so that the time grows with the rows and not
with their square.

Source: Chaudhuri et al. 2006, A Primitive Operator for Similarity Joins in Data Cleaning, section 4
(prefix filter).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .examples import Example, Splits
from .overlap import AllRows, Place, same_rows

THRESHOLD = 0.8
MOST_ROWS = 500  # with one rare member that are compared: 16,000 rows of one template take 20 s
CANDIDATES = 2_000_000  # pairs that are compared at once: about 100 MB
IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff"  # written without spaces: every letter counts as a word
WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\W{IDEOGRAPHS}]+")


@dataclass(frozen=True)
class NearCopy:
    """A row and an earlier one with nearly the same text, in the order train, validation, test.

    `conflict`: their labels differ.
    """

    place: Place
    other: Place
    similarity: float
    conflict: bool


def find_near_copies(splits: Splits, *, threshold: float = THRESHOLD) -> list[NearCopy]:
    """Return, for every row that has one, the most similar earlier row. Training rows come before more similar others.

    Rows whose very text stands in an earlier row are left out (see `find_copies`).

    Args:
        threshold: the least similarity, above 0 and at most 1.
    """
    data = AllRows(splits)
    repeated = {number for group in same_rows(data.rows) for number in group[1:]}
    first = [number for number in range(len(data.rows)) if number not in repeated]
    training = sum(number < len(splits.train) for number in first)
    pairs = _closest([data.rows[number] for number in first], training, threshold)
    return [
        NearCopy(data.places[first[row]], data.places[first[other]], value, data.conflict([first[row], first[other]]))
        for row, other, value in pairs
    ]


def shingles(row: Example) -> set[str]:
    """Return the words of a row and its pairs of neighboring words, those of a second text marked as such."""
    members: set[str] = set()
    for side, text in enumerate([row.text] if row.pair is None else [row.text, row.pair]):
        words = WORD.findall(text.casefold())
        members.update(f"{side} {word}" for word in words)
        members.update(f"{side} {first} {second}" for first, second in pairwise(words))
    return members


def _closest(rows: Sequence[Example], training: int, threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield (row, closest earlier row, similarity) for every row with an earlier one that is similar enough."""
    if not any(map(shingles, rows)):
        return
    sets = _by_rarity(rows)
    rare = _rarest(sets, threshold)
    by_member = _first_of_each(rare.T.tocsr(), MOST_ROWS)
    for start, end in _chunks(rare, np.diff(by_member.indptr)):
        found = (rare[start:end] @ by_member).tocoo()
        row, other = found.row + start, found.col
        earlier = other < row
        row, other = row[earlier], other[earlier]
        value = _similarity(sets, row, other)
        similar = value >= threshold - 1e-9
        yield from _best(row[similar], other[similar], value[similar], training)


def _by_rarity(rows: Sequence[Example]) -> Any:
    """Return the sets as a sparse matrix of ones, rarest members first. Shape: (rows, members)."""
    from sklearn.feature_extraction.text import CountVectorizer  # slow to import

    sets = CountVectorizer(analyzer=shingles, dtype=np.int32).fit_transform(rows)
    counts = np.bincount(sets.indices, minlength=sets.shape[1])
    rank = np.empty_like(counts)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    sets.indices = rank[sets.indices].astype(sets.indices.dtype)
    sets.has_sorted_indices = False
    sets.sort_indices()
    return sets


def _rarest(sets: Any, threshold: float) -> Any:
    """Return the same matrix with the rarest members of every row alone, as many as the prefix filter needs."""
    sizes = np.diff(sets.indptr)
    return _first_of_each(sets, sizes - np.ceil(threshold * sizes - 1e-9).astype(sizes.dtype) + (sizes > 0))


def _first_of_each(matrix: Any, number: Any) -> Any:
    """Return the sparse matrix with the first entries of every row alone, `number` of them at most."""
    from scipy.sparse import csr_array

    sizes = np.diff(matrix.indptr)
    kept = np.minimum(sizes, number)
    position = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], sizes)
    mask = position < np.repeat(kept, sizes)
    starts = np.concatenate([[0], np.cumsum(kept)])
    return csr_array((matrix.data[mask], matrix.indices[mask], starts), shape=matrix.shape)


def _chunks(rare: Any, counts: Any) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows that are compared with CANDIDATES rows at most, or one row.

    Shape: counts (members,), the rows that are compared for each.
    """
    costs = np.add.reduceat(np.append(counts[rare.indices], 0), np.minimum(rare.indptr[:-1], rare.nnz))
    start, total = 0, 0
    for row, cost in enumerate(costs.tolist()):
        if total + cost > CANDIDATES and row > start:
            yield start, row
            start, total = row, 0
        total += cost
    yield start, rare.shape[0]


def _similarity(sets: Any, row: Any, other: Any) -> Any:
    """|A ∩ B| / |A ∪ B| of pairs of rows. Shape: row, other (pairs,) -> (pairs,)."""
    sizes = np.diff(sets.indptr)
    both = np.zeros(len(row))
    step = max(1, CANDIDATES // max(1, int(sizes.mean())))
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        both[part] = np.asarray(sets[row[part]].multiply(sets[other[part]]).sum(axis=1)).ravel()
    return both / (sizes[row] + sizes[other] - both)


def _best(row: Any, other: Any, value: Any, training: int) -> Iterator[tuple[int, int, float]]:
    """Yield the best pair of every row: with a training row if there is one, then the most similar, then the first."""
    order = np.lexsort((other, -value, other >= training, row))
    rows, first = np.unique(row[order], return_index=True)
    best = order[first]
    yield from zip(rows.tolist(), other[best].tolist(), value[best].tolist(), strict=True)
