"""Is the difference between two classifiers more than luck? A test on the rows where exactly one of them is right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError


@dataclass(frozen=True)
class McNemar:
    """Rows that were wrong and became right, rows that were right and became wrong, and the two-sided p-value."""

    fixed: int
    broken: int
    p_value: float


def mcnemar(before: Tensor, after: Tensor) -> McNemar:
    """McNemar's test, exact: under the null hypothesis `fixed` is Binomial(fixed + broken, 1/2).

    The rows must be the same in both, in the same order. Rows that both have right, or both wrong, say nothing about the
    difference and do not enter. Without any discordant row p = 1.

    Shape: before, after (n,) bool, which rows are classified rightly.

    Raises:
        DataError: not two boolean vectors of one length.

    Source: McNemar 1947, Note on the sampling error of the difference between correlated proportions or percentages,
        Psychometrika 12(2), 153-157; the exact binomial form instead of its chi-squared approximation.
    """
    if before.dim() != 1 or before.shape != after.shape or {before.dtype, after.dtype} != {torch.bool}:
        raise DataError(
            f"{_described(before)} against {_described(after)}",
            where="McNemar",
            expected="right or wrong for the same rows twice: two torch.bool vectors of one length",
        )
    from scipy.stats import binomtest  # a second, for those alone who ask

    fixed, broken = int((after & ~before).sum()), int((before & ~after).sum())
    discordant = fixed + broken
    p_value = float(binomtest(fixed, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(fixed, broken, p_value)


def _described(rows: Tensor) -> str:
    return f"{rows.dtype} {tuple(rows.shape)}"
