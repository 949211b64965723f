"""Bootstrap confidence intervals of the difference between two models on the same rows.

A resample draws n rows with replacement and takes both models' predictions for them, so what makes a row hard
for both models cancels. One row, or rows that all differ by the same amount, give an interval of no width. That
shows no spread; it does not show certainty.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

RESAMPLES = 2000
CONFIDENCE = 0.95
BATCH_NUMBERS = 2**22  # resampled numbers in memory at a time

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A difference, adapted minus baseline, and its confidence bounds."""

    value: float
    low: float
    high: float


def interval(value: float, redrawn: Array) -> Interval:
    """Return the percentile interval of `value`. Shape: redrawn (R,), its value in every resample."""
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(redrawn, [outside, 1 - outside])
    return Interval(value, float(low), float(high))


def row_counts(n: int, *, resamples: int | None = None, seed: int = 0) -> Iterator[Array]:
    """Yield how often every row is drawn, some resamples at a time. Shape: (r, n), in all R resamples."""
    rng, left = np.random.default_rng(seed), resamples or RESAMPLES
    while left:
        size = min(left, max(1, BATCH_NUMBERS // n))
        yield rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
        left -= size


def redrawn_means(values: Array, *, resamples: int | None = None, rng: np.random.Generator) -> Array:
    """Return the mean of every resample. Shape: (n,) -> (R,)."""
    if len(values) == 1:
        return values  # SciPy needs two
    from scipy.stats import bootstrap  # slow to import

    batch = max(1, BATCH_NUMBERS // len(values))
    settings = {"n_resamples": resamples or RESAMPLES, "batch": batch, "method": "percentile", "rng": rng}
    result = bootstrap((values,), np.mean, **settings)
    return np.asarray(result.bootstrap_distribution, dtype=np.float64)


@dataclass(frozen=True)
class Triples:
    """Resamples of (label, answer before, answer after), counted: K different triples, R resamples.

    The counts are drawn from the multinomial distribution: the same law as n · R draws of rows.

    Shape: drawn (R, K); truth, first, second (K,).
    """

    drawn: Array
    truth: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    rng: np.random.Generator

    def accuracy(self) -> Array:
        """Return the change in accuracy. Shape: (R,)."""
        gained = (self.second == self.truth).astype(float) - (self.first == self.truth)
        return self.drawn @ gained / self.drawn[0].sum()  # type: ignore[no-any-return]

    def macro_f1(self, classes: int) -> Array:
        """Return the change in macro-F1. Shape: (R,)."""
        return self._macro_f1(self.second, classes) - self._macro_f1(self.first, classes)

    def _macro_f1(self, answers: NDArray[np.int64], classes: int) -> Array:
        one_hot = np.eye(classes)
        hits = self.drawn @ (one_hot[self.truth] * one_hot[answers])  # (R, C)
        either = self.drawn @ (one_hot[self.truth] + one_hot[answers])  # (R, C)
        return f1_of(hits, either).mean(1)  # type: ignore[no-any-return]


def f1_of(hits: Array, either: Array) -> Array:
    """Return 2·TP / (support + predictions), with 0/0 = 0."""
    return 2 * hits / np.maximum(either, 1)  # hits is 0 where either is


def resampled_triples(
    labels: Tensor, before: Tensor, after: Tensor, *, resamples: int | None = None, seed: int = 0
) -> Triples:
    """Resample the rows of two classifiers. Shape: (n,) class numbers each."""
    rng = np.random.default_rng(seed)
    answers = np.stack([labels.numpy(), before.numpy(), after.numpy()], 1)  # (n, 3)
    triples, counts = np.unique(answers, axis=0, return_counts=True)
    drawn = rng.multinomial(len(labels), counts / len(labels), size=resamples or RESAMPLES).astype(np.float64)
    truth, first, second = triples.T
    return Triples(drawn, truth, first, second, rng)
