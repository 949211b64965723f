"""One label a text: cross entropy, accuracy, macro-F1, Matthews correlation, McNemar's test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.batches import IGNORED
from ..data.examples import Label
from ..errors import DataError
from .bootstrap import Interval, interval, redrawn_means, resampled_triples
from .linear import Linear, fit_softmax
from .mcnemar import McNemar, mcnemar
from .metrics import LabelRow, Metrics, check_rows, label_rows, rows_where
from .task import Task
from .temperature import fit_temperature


@dataclass(frozen=True, kw_only=True)
class SingleLabelMetrics(Metrics):
    """Accuracy, macro-F1 over all classes, Matthews correlation, F1 of the second of two classes.

    `loss` is the mean cross entropy in nats. `f1` is None where there are not two classes.
    """

    headline_name: ClassVar[str] = "accuracy"

    accuracy: float
    macro_f1: float
    matthews: float = 0.0
    f1: float | None = None


@dataclass(frozen=True, eq=False)
class SingleLabel(Task):
    """One of C classes for every text.

    Args:
        temperature: what `fitted` found; `calibrated` says whether probabilities use it.
    """

    name: ClassVar[str] = "single_label"
    problem_type: ClassVar[str] = "single_label_classification"
    metrics_type: ClassVar[type[Metrics]] = SingleLabelMetrics
    test_title: ClassVar[str] = "McNemar's exact test"
    has_confidence: ClassVar[bool] = True

    temperature: float | None = None
    calibrated: bool = False

    def tensor(self, labels: Sequence[Label]) -> Tensor:
        """Return the class numbers. Shape: (n,) int64."""
        return torch.tensor(labels, dtype=torch.int64)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return Σ w[label] · cross entropy, in nats. Shape: (B, C), (B,) -> ()."""
        return F.cross_entropy(
            logits, labels, weight=self.weights, reduction="sum", label_smoothing=self.smoothing, ignore_index=IGNORED
        )

    def errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return 1 for a wrong answer, 0 for a right one. Shape: (n,)."""
        return (~correct(logits, labels)).double()

    def margins(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return p of the label minus the largest other p. Shape: (B, C), (B,) -> (B,)."""
        label, p = labels.clamp_min(0)[:, None], logits.softmax(-1)
        return p.gather(1, label).squeeze(1) - p.scatter(1, label, -1.0).amax(-1)

    def measure(self, logits: Tensor, labels: Tensor) -> SingleLabelMetrics:
        """Return the scores. Shape: logits (n, C), labels (n,)."""
        return measure(logits, labels)

    def label_rows(self, logits: Tensor, labels: Tensor) -> list[LabelRow]:
        """Return precision, recall and F1 of every class."""
        return per_class(logits, labels, self.labels)

    def label_tests(self, before: Tensor, after: Tensor, labels: Tensor) -> list[McNemar]:
        """Return McNemar's test on the rows of every class."""
        old, new = correct(before, labels), correct(after, labels)
        rows = [labels == number for number in range(len(self.labels))]
        return [mcnemar(old[own], new[own]) for own in rows]

    def confusion(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the confusion matrix."""
        return confusion(logits, labels)

    def p_value(self, before: Tensor, after: Tensor, labels: Tensor) -> float:
        """Return McNemar's exact p."""
        return mcnemar(correct(before, labels), correct(after, labels)).p_value

    def intervals(self, before: Tensor, after: Tensor, labels: Tensor) -> dict[str, Interval]:
        """Return the intervals of accuracy, macro-F1 and loss."""
        return paired_intervals(before, after, labels)

    def constant(self, labels: Tensor) -> tuple[str, Tensor]:
        """Return the commonest label for every row, with the logs of the shares as logits."""
        counts = labels.bincount(minlength=len(self.labels)).double()
        shares = (counts + 0.5) / (counts + 0.5).sum()
        name = self.labels[int(counts.argmax())]
        return f"always {name!r}", shares.log().expand(len(labels), -1)

    def answers(self, logits: Tensor) -> list[dict[str, Any]]:
        """Return the likeliest label, its probability, and all probabilities."""
        scaled = logits / self.temperature if self.calibrated and self.temperature else logits
        rows = zip(logits.argmax(-1).tolist(), scaled.softmax(-1).tolist(), strict=True)
        return [
            {"label": self.labels[best], "score": round(scores[best], 6), "scores": self._named_scores(scores)}
            for best, scores in rows
        ]

    def chosen(self, answer: Mapping[str, Any]) -> list[str]:
        """Return the label."""
        return [answer["label"]]

    def sentence(self, subject: str) -> str:
        """Return what the model does."""
        return f"Classifies {subject} as {', '.join(self.labels)}."

    def fit_linear(self, features: Sequence[Tensor], labels: Tensor) -> tuple[int, Linear]:
        """Fit a softmax regression."""
        return fit_softmax(features, labels, classes=len(self.labels))

    def fitted(self, logits: Tensor, labels: Tensor) -> Self:
        """Return the task with a temperature fitted on these rows (temperature.py)."""
        _check(logits, labels)
        return replace(self, temperature=fit_temperature(logits, labels))

    def settings(self) -> dict[str, Any]:
        """Return the temperature."""
        return {} if self.temperature is None else {"temperature": self.temperature}

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """Return the task with this temperature."""
        return replace(self, temperature=settings.get("temperature"))

    def with_calibration(self) -> Self:
        """Return the task whose probabilities are those of logits / temperature."""
        if self.temperature is None:
            return super().with_calibration()
        return replace(self, calibrated=True)

    def balanced_weights(self, labels: Tensor) -> Tensor:
        """Return n / (C · n_c): the weights of all rows have mean 1. A class without a row has weight 1."""
        counts = labels.bincount(minlength=len(self.labels)).double()
        return torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts.clamp(min=1)), 1.0)

    def _named_scores(self, scores: Sequence[float]) -> dict[str, float]:
        return {label: round(score, 6) for label, score in zip(self.labels, scores, strict=False)}


def measure(logits: Tensor, labels: Tensor) -> SingleLabelMetrics:
    """Return accuracy, macro-F1, Matthews correlation and cross entropy of `logits` against `labels`.

    Macro-F1 is the plain mean over all C classes. A class without a label or a prediction counts as 0, as in
    scikit-learn with `labels=range(C)` and `zero_division=0`. Matthews is 0 if all answers are one class.

    Shape: logits (n, C), labels (n,).

    Raises:
        DataError: no rows, logits that are not finite, or labels that do not fit.
    """
    rows = per_class(logits, labels, [str(index) for index in range(logits.shape[-1])])
    return SingleLabelMetrics(
        accuracy=correct(logits, labels).double().mean().item(),
        macro_f1=sum(row.f1 for row in rows) / len(rows),
        matthews=_matthews(logits.argmax(-1), labels),
        f1=rows[1].f1 if len(rows) == 2 else None,
        loss=F.cross_entropy(logits.double(), labels).item(),
        n=len(labels),
    )


def per_class(logits: Tensor, labels: Tensor, names: Sequence[str]) -> list[LabelRow]:
    """Return one row for every class, in the order of `names`; 0/0 counts as 0.

    Shape: logits (n, C), labels (n,), C names. Errors as `measure`.
    """
    _check(logits, labels)
    if len(names) != logits.shape[1]:
        raise DataError(f"{len(names)} names for {logits.shape[1]} classes", where="evaluation")
    return label_rows(labels, logits.argmax(-1), names, labels=range(len(names)))


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Count the rows: true class by row, predicted class by column.

    Shape: logits (n, C), labels (n,) -> (C, C) int64. Errors as `measure`.
    """
    _check(logits, labels)
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels.numpy(), logits.argmax(-1).numpy(), labels=range(logits.shape[1]))
    return torch.as_tensor(counts, dtype=torch.int64)


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return which rows are classified correctly. Shape: (n, C), (n,) -> (n,) bool."""
    return logits.argmax(-1) == labels


def paired_intervals(
    before: Tensor, after: Tensor, labels: Tensor, *, resamples: int | None = None, seed: int = 0
) -> dict[str, Interval]:
    """Return the 95 % intervals of after - before: accuracy, macro-F1 and loss (bootstrap.py).

    Accuracy and macro-F1 depend on a row only through the triple (label, answer before, answer after).

    Shape: before, after (n, C) logits, labels (n,). Errors as `measure`.
    """
    first, second = measure(before, labels), measure(after, labels)
    draws = resampled_triples(labels, before.argmax(-1), after.argmax(-1), resamples=resamples, seed=seed)
    accuracy, macro_f1 = draws.accuracy(), draws.macro_f1(before.shape[1])
    losses = [F.cross_entropy(logits.double(), labels, reduction="none").numpy() for logits in (before, after)]
    loss = redrawn_means(losses[1] - losses[0], resamples=resamples, rng=draws.rng)
    return {
        "accuracy": interval(second.accuracy - first.accuracy, accuracy),
        "macro_f1": interval(second.macro_f1 - first.macro_f1, macro_f1),
        "loss": interval(second.loss - first.loss, loss),
    }


def _matthews(answers: Tensor, labels: Tensor) -> float:
    """Return Matthews correlation; 0 where the answers, or the labels, are all of one class."""
    from sklearn.metrics import matthews_corrcoef  # slow to import

    if (answers == answers[0]).all() or (labels == labels[0]).all():
        return 0.0  # scikit-learn would warn
    return float(matthews_corrcoef(labels.numpy(), answers.numpy()))


def _check(logits: Tensor, labels: Tensor) -> None:
    check_rows(logits, labels, expected="(n, C) and (n,)", fits=labels.shape == logits.shape[:1])
    if bad := rows_where((labels < 0) | (labels >= logits.shape[1])):
        raise DataError(f"no such class in {bad}", where="evaluation", expected=f"labels 0 to {logits.shape[1] - 1}")
