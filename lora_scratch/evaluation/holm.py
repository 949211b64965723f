"""Many tests at once: p-values made larger so that the chance of any false claim among all of them stays what it was."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: of the i-th smallest of m the largest of (m − j) · p₍ⱼ₎ over j <= i.

    Those below α are claims of which, with probability 1 − α, none is false, however the tests depend on each other.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6(2),
        65-70.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    multiplied = (min(1.0, (len(order) - place) * p_values[i]) for place, i in enumerate(order))
    adjusted = dict(zip(order, accumulate(multiplied, max), strict=True))
    return [adjusted[i] for i in range(len(p_values))]
