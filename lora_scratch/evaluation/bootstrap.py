"""Bootstrap confidence intervals of the difference between two models on the same rows.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .metrics import measure

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


@dataclass(frozen=True)
class Differences:
    """The intervals of accuracy, macro-F1 and mean cross entropy."""

    accuracy: Interval
    macro_f1: Interval
    loss: Interval


def paired_intervals(
    before: Tensor, after: Tensor, labels: Tensor, *, resamples: int = RESAMPLES, seed: int = 0
) -> Differences:
    """Return the 95 % percentile intervals of after − before.

    A resample draws n rows with replacement and takes both models' predictions for them, so what makes
    a row hard for both models cancels. Accuracy and macro-F1 depend on a row only through the triple
    (label, prediction before, prediction after). So the counts of the triples are drawn instead, from the
    multinomial distribution: the same law without n · resamples draws. One row, or rows that all differ by
    the same amount, give an interval of no width. That shows no spread; it does not show certainty.

    Shape: before, after (n, C) logits, labels (n,). Errors as `measure`.
    """
    first, second = measure(before, labels), measure(after, labels)
    rng = np.random.default_rng(seed)
    accuracy, macro_f1 = _redrawn(before, after, labels, resamples=resamples, rng=rng)
    losses = [F.cross_entropy(logits.double(), labels, reduction="none").numpy() for logits in (before, after)]
    loss = _redrawn_means(losses[1] - losses[0], resamples=resamples, rng=rng)
    return Differences(
        _interval(second.accuracy - first.accuracy, accuracy),
        _interval(second.macro_f1 - first.macro_f1, macro_f1),
        _interval(second.loss - first.loss, loss),
    )


def _redrawn(
    before: Tensor, after: Tensor, labels: Tensor, *, resamples: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return the change in accuracy and in macro-F1 of every resample. Shape: (R,) each."""
    classes = before.shape[1]
    answers = np.stack([labels.numpy(), before.argmax(-1).numpy(), after.argmax(-1).numpy()], 1)  # (n, 3)
    triples, counts = np.unique(answers, axis=0, return_counts=True)
    truth, first, second = triples.T  # (K,) each, K different triples
    drawn = rng.multinomial(len(labels), counts / len(labels), size=resamples).astype(np.float64)  # (resamples, K)
    accuracy = drawn @ ((second == truth).astype(float) - (first == truth)) / len(labels)
    return accuracy, _macro_f1(drawn, truth, second, classes) - _macro_f1(drawn, truth, first, classes)


def _macro_f1(drawn: Array, truth: NDArray[np.int64], answers: NDArray[np.int64], classes: int) -> Array:
    """Mean over classes of 2·TP / (support + predictions), with 0/0 = 0. Shape: (R, K) -> (R,)."""
    one_hot = np.eye(classes)
    hits = drawn @ (one_hot[truth] * one_hot[answers])  # (R, C)
    either = drawn @ (one_hot[truth] + one_hot[answers])  # (R, C)
    f1: Array = 2 * hits / np.maximum(either, 1)  # hits is 0 where either is
    return f1.mean(1)  # type: ignore[no-any-return]


def _redrawn_means(values: Array, *, resamples: int, rng: np.random.Generator) -> Array:
    """Return the mean of every resample. Shape: (n,) -> (resamples,)."""
    if len(values) == 1:
        return values  # SciPy needs two
    from scipy.stats import bootstrap  # slow to import

    batch = max(1, BATCH_NUMBERS // len(values))
    result = bootstrap((values,), np.mean, n_resamples=resamples, batch=batch, method="percentile", rng=rng)
    return np.asarray(result.bootstrap_distribution, dtype=np.float64)


def _interval(value: float, redrawn: Array) -> Interval:
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(redrawn, [outside, 1 - outside])
    return Interval(value, float(low), float(high))
