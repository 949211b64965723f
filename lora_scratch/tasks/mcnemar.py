"""McNemar's exact test of two classifiers on the same rows, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ..errors import DataError


@dataclass(frozen=True)
class McNemar:
    """Rows that became right, rows that became wrong, and the two-sided p-value."""

    fixed: int
    broken: int
    p_value: float


def mcnemar(before: Tensor, after: Tensor) -> McNemar:
    """McNemar's exact test: under the null hypothesis `fixed` is Binomial(fixed + broken, 1/2).

    Rows that both models have right, or both wrong, do not enter. Without any other row p = 1.

    Shape: before, after (n,) bool, which rows are classified correctly; the same rows in the same order.

    Raises:
        DataError: not two boolean vectors of one length.

    Source: McNemar 1947, Note on the sampling error of the difference between correlated proportions or
        percentages, Psychometrika 12(2), 153-157; exact binomial form, no chi-squared approximation.
    """
    if before.dim() != 1 or before.shape != after.shape or {before.dtype, after.dtype} != {torch.bool}:
        raise DataError(
            f"{before.dtype} {tuple(before.shape)} against {after.dtype} {tuple(after.shape)}",
            where="McNemar",
            expected="right or wrong for the same rows twice: two torch.bool vectors of one length",
        )
    from scipy.stats import binomtest  # slow to import

    fixed, broken = int((after & ~before).sum()), int((before & ~after).sum())
    discordant = fixed + broken
    p_value = float(binomtest(fixed, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(fixed, broken, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: for the i-th smallest of m, max over j <= i of (m − j) · p₍ⱼ₎.

    With probability 1 − α no rejection below α is false, however the tests depend on each other.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
        Statistics 6(2), 65-70.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    multiplied = (min(1.0, (len(order) - place) * p_values[i]) for place, i in enumerate(order))
    adjusted = dict(zip(order, accumulate(multiplied, max), strict=True))
    return [adjusted[i] for i in range(len(p_values))]
