"""The interface of a task: the one place that knows what is predicted. No other code asks which task it is.

Each task is one class in a file of its own: single_label.py, multi_label.py, regression.py. Their paired tests
are in mcnemar.py, randomization.py and regression.py, the intervals in bootstrap.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..data.examples import Label
from ..errors import ConfigError
from .bootstrap import Interval
from .linear import Linear
from .mcnemar import McNemar
from .metrics import LabelRow, Metrics

SIGNIFICANCE = 0.05
BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown"


@dataclass(frozen=True)
class Paired:
    """A changed model against the unchanged one, on the same rows.

    Args:
        score: the changed model's headline score; `change` is its difference.
        fixed, broken: rows whose answer became better, and worse.
        p_value: of the task's paired test; `direction` is positive if the changed model is better in it.
        word: better, worse, or not shown.
    """

    score: float
    change: float
    fixed: int
    broken: int
    p_value: float
    direction: float
    word: str


def word_of(direction: float, p_value: float) -> str:
    """Return `better` or `worse` if p is below 0.05, else `not shown`."""
    if p_value >= SIGNIFICANCE or direction == 0:
        return NOT_SHOWN
    return BETTER if direction > 0 else WORSE


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """What is predicted.

    Args:
        labels: the names of the outputs, in the order of the logits.
        weights: of every label in the loss. Shape: (C,).
        smoothing: how far the loss moves its targets from 0 and 1, in [0, 1).
    """

    name: ClassVar[str]  # as --task has it
    problem_type: ClassVar[str]  # as transformers' config.json has it
    metrics_type: ClassVar[type[Metrics]]
    test_title: ClassVar[str]  # the name of the paired test
    row_words: ClassVar[tuple[str, str]] = ("fixed", "broken")  # rows whose answer became better, and worse
    row_meanings: ClassVar[tuple[str, str]] = ("wrong before, right after", "right before, wrong after")
    has_confidence: ClassVar[bool] = False  # whether the answer has a probability: the largest of softmax
    no_confidence: ClassVar[str] = ""  # why it has none

    labels: tuple[str, ...]
    weights: Tensor | None = None
    smoothing: float = 0.0

    @abstractmethod
    def tensor(self, labels: Sequence[Label]) -> Tensor:
        """Return the labels of rows as a tensor. Shape: n labels -> (n,) or (n, C)."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the rows' losses. Rows labelled `ignored` count nothing. Shape: (n, C) -> ()."""

    @abstractmethod
    def errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how wrong the answer to each row is; 0 is right. Shape: (n, C) -> (n,)."""

    @abstractmethod
    def margins(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how surely every row is right: 1 surely right, -1 surely wrong; of a number minus |error|.

        Shape: (B, C) -> (B,).
        """

    @abstractmethod
    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        """Return the scores. Shape: logits (n, C) on the CPU. Raises DataError, as `check_rows`."""

    @abstractmethod
    def p_value(self, before: Tensor, after: Tensor, labels: Tensor) -> float:
        """Return the p-value of the paired test: two models, the same rows. Shape: (n, C), (n, C)."""

    @abstractmethod
    def intervals(self, before: Tensor, after: Tensor, labels: Tensor) -> dict[str, Interval]:
        """Return the 95 % bootstrap intervals of after - before, by the name of the score."""

    @abstractmethod
    def constant(self, labels: Tensor) -> tuple[str, Tensor]:
        """Return the best answer that looks at no text, in words, and as logits of every row.

        Shape: labels (n,) or (n, C) -> (n, C).
        """

    @abstractmethod
    def answers(self, logits: Tensor) -> list[dict[str, Any]]:
        """Return what is said of every row, as JSON: a label or labels, and a score. Shape: (n, C) -> n."""

    @abstractmethod
    def chosen(self, answer: Mapping[str, Any]) -> list[str] | None:
        """Return the labels that an answer chooses; None where it chooses none, but is a number."""

    @abstractmethod
    def sentence(self, subject: str) -> str:
        """Return what the model does, for its card; `subject` is `texts` or `pairs of texts`."""

    @abstractmethod
    def fit_linear(self, features: Sequence[Tensor], labels: Tensor) -> tuple[int, Linear]:
        """Fit a linear model to the best of several kinds of features (linear.py)."""

    def head_start(self, features: Tensor, labels: Tensor, weight: Tensor) -> Linear:
        """Return the output layer that a new head starts with: a linear model of its inputs.

        Shape: features (n, d), weight (C, d), its random start.
        """
        return self.fit_linear([features], labels)[1]

    @abstractmethod
    def balanced_weights(self, labels: Tensor) -> Tensor:
        """Return weights under which every label counts equally. Raises ConfigError if it can't be."""

    def label_rows(self, logits: Tensor, labels: Tensor) -> list[LabelRow] | None:
        """Return the scores of every label; None for a task without labels."""
        return None

    def label_tests(self, before: Tensor, after: Tensor, labels: Tensor) -> list[McNemar] | None:
        """Return a paired test of every label; None for a task without labels."""
        return None

    def confusion(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Return the confusion matrix (C, C); None unless a row has one label."""
        return None

    def points(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Return label and answer of every row (n, 2), for a drawing; None unless both are numbers."""
        return None

    def scored(self, answer: Mapping[str, Any]) -> dict[str, float]:
        """Return the number of an answer by the name of its output: probabilities, if it has labels."""
        return dict(answer["scores"])

    def direction(self, before: Tensor, after: Tensor, labels: Tensor) -> float:
        """Return whether `after` is better (positive) or worse (negative), in what the paired test tests."""
        return float(self.errors(before, labels).mean() - self.errors(after, labels).mean())

    def named(self, answer: dict[str, Any]) -> str:
        """Return an answer as text, for a table."""
        return str(answer["label"])

    def truth(self, label: Tensor) -> str:
        """Return the label of one row as text, for a table."""
        return self.labels[int(label)]

    def fitted(self, logits: Tensor, labels: Tensor) -> Self:
        """Return the task with what its decision fits on validation rows; here nothing is fitted."""
        return self

    def settings(self) -> dict[str, Any]:
        """Return what `fitted` found, for provenance.json."""
        return {}

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """Return the task with what `settings` returned."""
        return self

    def with_calibration(self) -> Self:
        """Return the task with calibrated probabilities.

        Raises:
            ConfigError: no temperature was fitted, or the task has none.
        """
        problem = f"no temperature is stored for this {self.name.replace('_', ' ')} adapter"
        raise ConfigError(problem, where="--calibrated", remedy="leave it out, or train with this version")

    def weighted(self, weights: str | Mapping[str, float] | None, labels: Tensor) -> Self:
        """Return the task with class weights: `balanced`, by label name, or none.

        Raises:
            ConfigError: an unknown label, a weight that is not above 0, or a task without classes.
        """
        if not weights:
            return self
        if weights == "balanced":
            return replace(self, weights=self.balanced_weights(labels).float())
        return replace(self, weights=self._named_weights(weights))

    def smoothed(self, smoothing: float) -> Self:
        """Return the task with label smoothing. Raises ConfigError for a task without classes."""
        return replace(self, smoothing=smoothing)

    def to(self, device: torch.device | str) -> Self:
        """Return the task with its tensors on `device`."""
        return self if self.weights is None else replace(self, weights=self.weights.to(device))

    def paired(self, before: Tensor, after: Tensor, labels: Tensor) -> Paired:
        """Compare two models on the same rows. Shape: before, after (n, C) logits."""
        old, new = self.measure(before, labels).headline, self.measure(after, labels).headline
        fixed, broken = self.changes(before, after, labels)
        p_value, direction = self.p_value(before, after, labels), self.direction(before, after, labels)
        counts = (int(fixed.sum()), int(broken.sum()))
        return Paired(new, new - old, *counts, p_value, direction, word_of(direction, p_value))

    def changes(self, before: Tensor, after: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows whose answer became better, and worse. Shape: (n,) bool each."""
        old, new = self.errors(before, labels), self.errors(after, labels)
        return new < old, new > old

    def _named_weights(self, weights: str | Mapping[str, float]) -> Tensor:
        where, known = "--class_weights", ", ".join(self.labels)
        if isinstance(weights, str):
            raise ConfigError(f"found {weights!r}", where=where, expected="balanced, or JSON of weights by label")
        if unknown := sorted(set(weights) - set(self.labels)):
            raise ConfigError(f"there is no label {unknown[0]!r}", where=where, expected=known)
        values = [weights.get(label, 1.0) for label in self.labels]
        if not all(type(value) in (int, float) and 1e-6 <= value <= 1e6 for value in values):
            raise ConfigError(f"found {dict(weights)}", where=where, expected="numbers from 1e-6 to 1e6")
        return torch.tensor(values, dtype=torch.float32)
