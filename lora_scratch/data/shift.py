"""How the splits differ: the share of every class, the scores, and the lengths of the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .examples import Example, Splits
from .overlap import NAMES

SIGNIFICANCE = 0.001  # below it the difference of two splits is called a shift


@dataclass(frozen=True)
class Spread:
    """Some numbers in short: their mean, median, 95 % quantile, least and largest."""

    mean: float
    median: float
    high: float
    least: float
    largest: float


@dataclass(frozen=True)
class Shift:
    """A split that differs from the training rows by more than chance gives.

    Args:
        subject: `class shares`, `scores` or `lengths`.
        p_value: of a chi-square test for classes, else of the Kolmogorov-Smirnov test.
    """

    split: str
    subject: str
    p_value: float


def class_counts(splits: Splits) -> dict[str, list[int]]:
    """Return for every split how many rows have each of the labels; a row with several counts for each. Not for scores."""
    return {name: _counts(getattr(splits, name), len(splits.labels)) for name in NAMES}


def scores(splits: Splits) -> dict[str, list[float]]:
    """Return the scores of every split; nothing for classes."""
    return {name: [row.label for row in getattr(splits, name) if isinstance(row.label, float)] for name in NAMES}


def word_counts(splits: Splits) -> dict[str, list[int]]:
    """Return for every split the number of words of each row, of both texts of a pair together."""
    return {name: [len(f"{row.text} {row.pair or ''}".split()) for row in getattr(splits, name)] for name in NAMES}


def spread_of(values: Sequence[float]) -> Spread:
    """Return the numbers in short. There must be at least one."""
    median, high = np.quantile(values, [0.5, 0.95])
    return Spread(float(np.mean(values)), float(median), float(high), float(min(values)), float(max(values)))


def class_shifts(counts: Mapping[str, Sequence[int]]) -> list[Shift]:
    """Return the splits whose class shares differ from those of the training rows."""
    from scipy.stats import chi2_contingency  # slow to import

    shifts = []
    for name in NAMES[1:]:
        table = np.array([counts["train"], counts[name]])
        table = table[:, table.sum(0) > 0]
        if table.shape[1] > 1 and table.sum(1).all():
            shifts.append(Shift(name, "class shares", float(chi2_contingency(table).pvalue)))
    return [shift for shift in shifts if shift.p_value < SIGNIFICANCE]


def number_shifts(values: Mapping[str, Sequence[float]], subject: str) -> list[Shift]:
    """Return the splits whose numbers (lengths or scores) are distributed otherwise than those of the training rows."""
    from scipy.stats import ks_2samp  # slow to import

    tested = [name for name in NAMES[1:] if values["train"] and values[name]]
    shifts = [Shift(name, subject, float(ks_2samp(values["train"], values[name]).pvalue)) for name in tested]
    return [shift for shift in shifts if shift.p_value < SIGNIFICANCE]


def _counts(rows: Sequence[Example], classes: int) -> list[int]:
    labels = [label for row in rows for label in (row.label if isinstance(row.label, tuple) else (row.label,))]
    counts: list[int] = np.bincount(np.array(labels, dtype=np.int64), minlength=classes).tolist()
    return counts
