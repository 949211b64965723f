"""Hold out rows for a split that a data set does not have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from ..errors import DataError
from ..runtime.seeds import named_generator
from .rows import Row


def hold_out(rows: Sequence[Row], n: int, *, seed: int, name: str) -> tuple[list[Row], list[Row]]:
    """Return (other rows, `n` rows held out), in their order, with the same share of every label.

    The k-th of a label's m shuffled rows is at position (k + 1/2) / m, and the n lowest positions
    are held out. The last row of a label is never held out.

    Raises:
        DataError: every label has one row only.
    """
    generator = named_generator(seed, f"hold out {name}")
    shuffled = torch.randperm(len(rows), generator=generator).tolist()
    sizes, seen = Counter(row.label for row in rows), Counter[str]()
    positions: list[tuple[float, int]] = []
    for index in shuffled:
        label = rows[index].label
        seen[label] += 1
        if seen[label] < sizes[label]:
            positions.append(((seen[label] - 0.5) / sizes[label], index))
    lowest = sorted(positions, key=lambda entry: entry[0])[:n]  # stable: ties stay shuffled
    held_out = {index for _, index in lowest}
    if not held_out:
        problem = f"{len(rows)} rows are too few to set some aside for {name}"
        raise DataError(problem, remedy=f"give {name} a file of its own")
    others = [row for i, row in enumerate(rows) if i not in held_out]
    return others, [rows[i] for i in sorted(held_out)]
