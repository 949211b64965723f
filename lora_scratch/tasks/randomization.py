"""The randomization test of two models on the same rows, for scores that are no mean over rows, as F1.

If both models are equally good, it is chance which of them gave which answer to a row. So the two
answers of every row are swapped or not, at random, and the difference of the scores is computed
again. p is the share of these differences that are as large as the real one. Rows with the same
answer twice do not change under a swap: only the others are drawn.

A bootstrap has no such null hypothesis: with five rows fixed and none broken it says p = 0.01, where
the exact p is 2 / 2⁵ = 0.06.

Source: Noreen 1989, Computer-Intensive Methods for Testing Hypotheses; Yeh 2000, More accurate tests
    for the statistical significance of result differences, COLING, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .bootstrap import BATCH_NUMBERS, Array, f1_of

SWAPS = 20_000  # the smallest p is 1 in 20,001, so that Holm's correction over a hundred tests leaves room
TIE = 1e-12  # differences that are equal but for rounding


def macro_f1_p(truth: Array, before: Array, after: Array, *, swaps: int = SWAPS, seed: int = 0) -> float:
    """Return the two-sided p-value of no difference in macro-F1. Shape: (n, C) of 0 and 1 each."""
    hits, either = (truth * before).sum(0), (truth + before).sum(0)  # (C,)
    changed = (before != after).any(1)
    gained = (after - before)[changed]  # (k, C)
    gained_hits = truth[changed] * gained  # (k, C)
    total, total_hits = gained.sum(0), gained_hits.sum(0)  # (C,)

    def differences(swapped: Array) -> Array:
        """Return the difference in macro-F1 under every swap. Shape: (r, k) of 0 and 1 -> (r,)."""
        moved_hits, moved = swapped @ gained_hits, swapped @ gained  # (r, C)
        old = f1_of(hits + moved_hits, either + moved)
        new = f1_of(hits + total_hits - moved_hits, either + total - moved)
        return (new - old).mean(1)  # type: ignore[no-any-return]

    real = abs(float(differences(np.zeros((1, len(gained))))[0]))
    as_large = sum(int((abs(differences(swapped)) >= real - TIE).sum()) for swapped in _swaps(len(gained), swaps, seed))
    return (as_large + 1) / (swaps + 1)


def _swaps(rows: int, swaps: int, seed: int) -> Iterator[Array]:
    """Yield which rows are swapped, some draws at a time. Shape: (r, rows) of 0 and 1."""
    rng, left = np.random.default_rng(seed), swaps
    while left:
        size = min(left, max(1, BATCH_NUMBERS // max(1, rows)))
        yield rng.integers(2, size=(size, rows), dtype=np.int8).astype(np.float64)
        left -= size
