"""Rows set aside at random where a data set does not come in three splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from ..errors import DataError
from ..runtime.seeds import named_generator
from .rows import Row


def hold_out(rows: Sequence[Row], n: int, *, seed: int, name: str) -> tuple[list[Row], list[Row]]:
    """(rows that stay, `n` rows set aside), both in their old order, every label in its old proportion.

    The k-th of a label's m shuffled rows stands at (k + 1/2) / m, and the n rows that stand lowest are set aside: from
    every label the same share. The last row of a label always stays, so no label is lost from the rows that stay.

    Raises:
        DataError: every label has one row only.
    """
    shuffled = torch.randperm(len(rows), generator=named_generator(seed, f"hold out {name}")).tolist()
    sizes, seen = Counter(row.label for row in rows), Counter[str]()
    standing: list[tuple[float, int]] = []
    for index in shuffled:
        label = rows[index].label
        seen[label] += 1
        if seen[label] < sizes[label]:
            standing.append(((seen[label] - 0.5) / sizes[label], index))
    aside = {index for _, index in sorted(standing, key=lambda entry: entry[0])[:n]}  # stable: ties stay shuffled
    if not aside:
        raise DataError(
            f"{len(rows)} rows are too few to set some aside for {name}", remedy=f"give {name} a file of its own"
        )
    return [row for i, row in enumerate(rows) if i not in aside], [row for i, row in enumerate(rows) if i in aside]
