"""Hold out rows for a split that a data set does not have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import torch

from ..errors import DataError
from ..runtime.seeds import named_generator
from .cells import number_of
from .labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .rows import Row

BINS = 10  # of equally many rows, from the lowest to the highest number of a regression


def hold_out(rows: Sequence[Row], n: int, *, seed: int, name: str, task: str = SINGLE_LABEL) -> tuple[list[Row], list[Row]]:
    """Return (other rows, `n` rows held out), in their order, so that both are alike in their labels.

    Args:
        task: with one label a row, both parts have the same share of every label; with a number,
            of every tenth of the numbers; with several labels a row, the rows are drawn by chance.
            The last row of a label is never held out.

    Raises:
        DataError: every label has one row only.
    """
    generator = named_generator(seed, f"hold out {name}")
    shuffled = torch.randperm(len(rows), generator=generator).tolist()
    if task == MULTI_LABEL:
        held_out = set(_drawn(rows, shuffled, n))
    else:
        strata = _bins(rows) if task == REGRESSION else [row.label for row in rows]
        held_out = set(_same_shares(strata, shuffled, n))
    if not held_out:
        problem = f"{len(rows)} rows are too few to set some aside for {name}: no label has two rows"
        are_numbers = all(isinstance(row.label, str) and number_of(row.label) is not None for row in rows)
        other = " or, if the labels are numbers to predict, pass --task regression" if are_numbers else ""
        raise DataError(problem, remedy=f"give {name} a file of its own{other}")
    others = [row for i, row in enumerate(rows) if i not in held_out]
    return others, [rows[i] for i in sorted(held_out)]


def _same_shares(strata: Sequence[Hashable], shuffled: Sequence[int], n: int) -> list[int]:
    """Return the rows at the `n` lowest positions; the k-th of a stratum's m rows is at (k + 1/2) / m."""
    sizes, seen = Counter(strata), Counter[Hashable]()
    positions: list[tuple[float, int]] = []
    for index in shuffled:
        stratum = strata[index]
        seen[stratum] += 1
        if seen[stratum] < sizes[stratum]:
            positions.append(((seen[stratum] - 0.5) / sizes[stratum], index))
    return [index for _, index in sorted(positions, key=lambda entry: entry[0])[:n]]  # stable: ties stay shuffled


def _bins(rows: Sequence[Row]) -> list[int]:
    """Return the bin of every row by the rank of its number; a bin has two rows or more."""
    bins = max(1, min(BINS, len(rows) // 2))
    ordered = sorted(range(len(rows)), key=lambda index: number_of(str(rows[index].label)) or 0.0)
    bin_of = [0] * len(rows)
    for rank, index in enumerate(ordered):
        bin_of[index] = rank * bins // len(rows)
    return bin_of


def _drawn(rows: Sequence[Row], shuffled: Sequence[int], n: int) -> list[int]:
    """Return the first `n` shuffled rows without which every label still has a row, and some row stays."""
    left = Counter(label for row in rows for label in row.label)
    drawn: list[int] = []
    for index in shuffled:
        labels = rows[index].label
        if len(drawn) == min(n, len(rows) - 1):
            break
        if all(left[label] > 1 for label in labels):
            left.subtract(labels)
            drawn.append(index)
    return drawn
