"""How far the difference between two models could be off: bootstrap intervals over rows drawn again, both models together.

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
BATCH_NUMBERS = 2**22  # of rows in memory at a time

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A difference, adapted minus baseline, and the bounds between which it lies with the stated confidence."""

    value: float
    low: float
    high: float


def paired_intervals(
    before: Tensor, after: Tensor, labels: Tensor, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """95 % percentile intervals of after − before for accuracy, macro-F1 and mean cross entropy, under those names.

    A resample draws n rows with replacement and takes both models' answers to them: what makes a row hard for both cancels.
    Accuracy and macro-F1 depend on a row only through (label, answer before, answer after), so the number of times that
    each such triple is drawn is drawn instead, from the multinomial distribution: the same law without n·resamples draws.
    A single row, or rows that all differ alike, give an interval of no width: they show no spread, not certainty.

    Shape: before, after (n, C) logits, labels (n,).

    Raises:
        DataError: no rows, logits that are not finite, or labels that do not fit.
    """
    first, second = measure(before, labels), measure(after, labels)
    rng = np.random.default_rng(seed)
    accuracy, macro_f1 = _redrawn(before, after, labels, resamples=resamples, rng=rng)
    losses = [F.cross_entropy(logits.double(), labels, reduction="none").numpy() for logits in (before, after)]
    return {
        "accuracy": _interval(second.accuracy - first.accuracy, accuracy),
        "macro_f1": _interval(second.macro_f1 - first.macro_f1, macro_f1),
        "loss": _interval(second.loss - first.loss, _redrawn_means(losses[1] - losses[0], resamples=resamples, rng=rng)),
    }


def _redrawn(
    before: Tensor, after: Tensor, labels: Tensor, *, resamples: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """The differences in accuracy and macro-F1 of every resample. Shape: (resamples,) twice."""
    classes = before.shape[1]
    answers = np.stack([labels.numpy(), before.argmax(-1).numpy(), after.argmax(-1).numpy()], 1)  # (n, 3)
    triples, counts = np.unique(answers, axis=0, return_counts=True)
    truth, first, second = triples.T  # (K,) each, K different triples
    drawn = rng.multinomial(len(labels), counts / len(labels), size=resamples).astype(np.float64)  # (resamples, K)
    accuracy = drawn @ ((second == truth).astype(float) - (first == truth)) / len(labels)
    return accuracy, _macro_f1(drawn, truth, second, classes) - _macro_f1(drawn, truth, first, classes)


def _macro_f1(drawn: Array, truth: NDArray[np.int64], answers: NDArray[np.int64], classes: int) -> Array:
    """Mean over classes of 2·TP / (truly there + answered), 0 for a class of neither. Shape: drawn (R, K) -> (R,)."""
    one_hot = np.eye(classes)
    hits = drawn @ (one_hot[truth] * one_hot[answers])  # (R, C)
    either = drawn @ (one_hot[truth] + one_hot[answers])  # (R, C)
    f1: Array = 2 * hits / np.maximum(either, 1)  # hits is 0 where either is
    return f1.mean(1)  # type: ignore[no-any-return]


def _redrawn_means(values: Array, *, resamples: int, rng: np.random.Generator) -> Array:
    """The mean of every resample. Shape: (n,) -> (resamples,)."""
    if len(values) == 1:
        return values  # SciPy wants two
    from scipy.stats import bootstrap  # a second, for those alone who ask

    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, BATCH_NUMBERS // len(values)),
        method="percentile",
        rng=rng,
    )
    return np.asarray(found.bootstrap_distribution, dtype=np.float64)


def _interval(value: float, redrawn: Array) -> Interval:
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(redrawn, [outside, 1 - outside])
    return Interval(value, float(low), float(high))
