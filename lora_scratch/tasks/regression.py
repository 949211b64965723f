"""A number for every text: squared error, correlations, the signed-rank test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.examples import Label
from ..errors import ConfigError, DataError
from .bootstrap import Array, Interval, interval, row_counts
from .linear import Linear, fit_ridge
from .metrics import Metrics, check_rows
from .task import Task

CONSTANT = 1e-24  # a variance of less, relative to the squares, is rounding: the values are equal


@dataclass(frozen=True, kw_only=True)
class RegressionMetrics(Metrics):
    """Pearson's and Spearman's correlation, mean absolute error. `loss` is the mean squared error.

    A constant prediction correlates with nothing: its correlations are 0.
    """

    headline_name: ClassVar[str] = "pearson"
    loss_title: ClassVar[str] = "mean error²"

    pearson: float
    spearman: float
    mae: float
    mse: float

    @property
    def shown(self) -> dict[str, float]:
        """The scores of a table: the loss is `mse`, which is there already."""
        return {name: value for name, value in self.scores.items() if name != "loss"}


@dataclass(frozen=True, eq=False)
class Regression(Task):
    """One number. `labels` holds its name alone."""

    name: ClassVar[str] = "regression"
    problem_type: ClassVar[str] = "regression"
    metrics_type: ClassVar[type[Metrics]] = RegressionMetrics
    test_title: ClassVar[str] = "Wilcoxon's signed-rank test of squared errors"
    row_words: ClassVar[tuple[str, str]] = ("nearer", "farther")
    row_meanings: ClassVar[tuple[str, str]] = ("a smaller error after", "a larger error after")
    no_confidence: ClassVar[str] = "a number has no probability"

    def tensor(self, labels: Sequence[Label]) -> Tensor:
        """Return the numbers. Shape: (n,) float32."""
        return torch.tensor(labels, dtype=torch.float32)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of squared errors. Shape: (B, 1), (B,) -> ()."""
        real = ~labels.isnan()
        return ((logits[:, 0] - labels.nan_to_num()).square() * real).sum()

    def errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the squared error of every row. Shape: (n,)."""
        return (logits[:, 0].double() - labels.double()).square()

    def margins(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return -|y - z|. Shape: (B, 1), (B,) -> (B,)."""
        return -(labels - logits[:, 0]).abs()

    def measure(self, logits: Tensor, labels: Tensor) -> RegressionMetrics:
        """Return the scores. Shape: logits (n, 1), labels (n,)."""
        self._check(logits, labels)
        answers, truth = logits[:, 0].double(), labels.double()
        mse = F.mse_loss(answers, truth).item()
        return RegressionMetrics(
            pearson=_correlation(answers, truth),
            spearman=_correlation(_ranks(answers), _ranks(truth)),
            mae=F.l1_loss(answers, truth).item(),
            mse=mse,
            loss=mse,
            n=len(labels),
        )

    def p_value(self, before: Tensor, after: Tensor, labels: Tensor) -> float:
        """Return the signed-rank test's p: the change of the squared error is symmetric about 0."""
        return signed_rank(self.errors(before, labels) - self.errors(after, labels))[1]

    def direction(self, before: Tensor, after: Tensor, labels: Tensor) -> float:
        """Return the signed-rank sum: positive if the errors became smaller."""
        return signed_rank(self.errors(before, labels) - self.errors(after, labels))[0]

    def intervals(self, before: Tensor, after: Tensor, labels: Tensor) -> dict[str, Interval]:
        """Return the intervals of both correlations and both errors."""
        first, second = self.measure(before, labels), self.measure(after, labels)
        redrawn = _redrawn([before[:, 0].double(), after[:, 0].double()], labels.double())
        return {name: interval(getattr(second, name) - getattr(first, name), redrawn[name]) for name in redrawn}

    def constant(self, labels: Tensor) -> tuple[str, Tensor]:
        """Return the mean of the labels for every row."""
        mean = labels.double().mean()
        return f"always {mean.item():.4g}", mean.expand(len(labels), 1)

    def answers(self, logits: Tensor) -> list[dict[str, Any]]:
        """Return the number."""
        return [{"score": round(score, 6)} for score in logits[:, 0].double().tolist()]

    def points(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return label and answer of every row. Shape: (n, 2)."""
        return torch.stack([labels.double(), logits[:, 0].double()], 1)

    def chosen(self, answer: Mapping[str, Any]) -> None:
        """Return None: a number is no choice among labels."""
        return

    def scored(self, answer: Mapping[str, Any]) -> dict[str, float]:
        """Return the number under its name."""
        return {self.labels[0]: answer["score"]}

    def sentence(self, subject: str) -> str:
        """Return what the model does."""
        return f"Gives {subject} a number, {self.labels[0]}."

    def named(self, answer: dict[str, Any]) -> str:
        """Return the number as text."""
        return f"{answer['score']:.4g}"

    def truth(self, label: Tensor) -> str:
        """Return the label as text."""
        return f"{label.item():.4g}"

    def fit_linear(self, features: Sequence[Tensor], labels: Tensor) -> tuple[int, Linear]:
        """Fit a ridge regression."""
        return fit_ridge(features, labels)

    def head_start(self, features: Tensor, labels: Tensor, weight: Tensor) -> Linear:
        """Return the random weight, and the mean of the labels as the bias.

        A ridge regression is a worse start: Pearson 0.843 on SICK's scores with MiniLM, and 0.867 from the mean.
        """
        return Linear(weight, labels.mean()[None])

    def balanced_weights(self, labels: Tensor) -> Tensor:
        """Refuse: a number has no class."""
        raise _no_classes("--class_weights")

    def weighted(self, weights: str | Mapping[str, float] | None, labels: Tensor) -> Self:
        """Return the task; refuse any weights."""
        if weights:
            raise _no_classes("--class_weights")
        return self

    def smoothed(self, smoothing: float) -> Self:
        """Return the task; refuse any smoothing."""
        if smoothing:
            raise _no_classes("--label_smoothing")
        return self

    def _check(self, logits: Tensor, labels: Tensor) -> None:
        fits = labels.dim() == 1 and logits.shape == (len(labels), 1)
        check_rows(logits, labels, expected="(n, 1) and (n,)", fits=fits)
        if not labels.isfinite().all():
            raise DataError("labels that are not finite", where="evaluation", expected="finite numbers")


def _no_classes(where: str) -> ConfigError:
    return ConfigError("numbers have no classes", where=where, expected="a task with classes")


def signed_rank(changes: Tensor) -> tuple[float, float]:
    """Return the sum of signed ranks of |change|, and Wilcoxon's two-sided p. Shape: (n,).

    Zeros are left out; without another change the sum is 0 and p is 1.

    Source: Wilcoxon 1945, Individual comparisons by ranking methods, Biometrics Bulletin 1(6), 80-83.
    """
    changes = changes[changes != 0]
    if not len(changes):
        return 0.0, 1.0
    from scipy.stats import wilcoxon  # slow to import

    ranks = _ranks(changes.abs())
    p_value = float(wilcoxon(changes.double().numpy()).pvalue)
    return float((ranks * changes.sign()).sum()), p_value


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of every value; equal values share the mean of theirs."""
    from scipy.stats import rankdata  # slow to import

    return torch.as_tensor(rankdata(values.numpy()))


def _correlation(x: Tensor, y: Tensor) -> float:
    counts = np.ones((1, len(x)))
    return float(_weighted_correlation(counts, x.numpy(), y.numpy())[0])


def _redrawn(answers: Sequence[Tensor], truth: Tensor) -> dict[str, Array]:
    """Return the change of every score in every resample. Shape: (n,) each -> (R,) each."""
    first, second = (_scores_of_resamples(answer.numpy(), truth.numpy()) for answer in answers)
    return {name: second[name] - first[name] for name in first}


def _scores_of_resamples(answers: Array, truth: Array) -> dict[str, Array]:
    parts: dict[str, list[Array]] = {"pearson": [], "spearman": [], "mse": [], "mae": []}
    error = answers - truth
    for counts in row_counts(len(truth)):
        ranks = [_resampled_ranks(counts, values) for values in (answers, truth)]
        parts["pearson"].append(_weighted_correlation(counts, answers, truth))
        parts["spearman"].append(_weighted_correlation(counts, *ranks))
        parts["mse"].append(counts @ error**2 / len(truth))
        parts["mae"].append(counts @ np.abs(error) / len(truth))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _weighted_correlation(counts: Array, x: Array, y: Array) -> Array:
    """Return Pearson's correlation of every resample; 0 where one side is constant.

    Shape: counts (r, n); x, y (n,) or (r, n).
    """
    n = counts.sum(1, keepdims=True)
    smallest = [CONSTANT * (counts * z**2).sum(1) for z in (x, y)]  # (r,) each
    x, y = (z - (counts * z).sum(1, keepdims=True) / n for z in (x, y))  # (r, n)
    xy, xx, yy = ((counts * a * b).sum(1) for a, b in ((x, y), (x, x), (y, y)))
    varied = (xx > smallest[0]) & (yy > smallest[1])
    return np.where(varied, xy / np.sqrt(np.where(varied, xx * yy, 1)), 0.0)


def _resampled_ranks(counts: Array, values: Array) -> Array:
    """Return the rank that every row's value has in every resample. Shape: (r, n), (n,) -> (r, n).

    A value's rank is the number of smaller values, and half of one more than its equals.
    """
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(counts[:, order], starts, axis=1)  # (r, groups), in ascending order
    ranks = np.cumsum(sizes, axis=1) - sizes + (sizes + 1) / 2
    return ranks[:, group]
