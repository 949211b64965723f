"""Several labels a text, or none: binary cross entropy, F1, exact match, mean average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.examples import Label
from ..errors import DataError
from .bootstrap import Array, Interval, f1_of, interval, row_counts
from .linear import Linear, fit_logistic
from .mcnemar import McNemar, mcnemar
from .metrics import LabelRow, Metrics, check_rows, label_rows
from .randomization import macro_f1_p
from .task import Task
from .thresholds import fit_thresholds

HALF = 0.5  # the threshold before one is fitted


@dataclass(frozen=True, kw_only=True)
class MultiLabelMetrics(Metrics):
    """Micro- and macro-F1, the share of rows with every label right, and mean average precision.

    `loss` is the mean binary cross entropy over rows and labels, in nats.
    """

    headline_name: ClassVar[str] = "macro_f1"

    macro_f1: float
    micro_f1: float
    exact_match: float
    mean_average_precision: float


@dataclass(frozen=True, eq=False)
class MultiLabel(Task):
    """Each of C labels applies or not: it applies where its probability is above its threshold."""

    name: ClassVar[str] = "multi_label"
    problem_type: ClassVar[str] = "multi_label_classification"
    metrics_type: ClassVar[type[Metrics]] = MultiLabelMetrics
    test_title: ClassVar[str] = "Randomization test of macro-F1"
    row_words: ClassVar[tuple[str, str]] = ("improved", "worsened")
    row_meanings: ClassVar[tuple[str, str]] = ("fewer wrong labels after", "more wrong labels after")
    no_confidence: ClassVar[str] = "a text has several labels and no single confidence"

    thresholds: tuple[float, ...] = ()

    @cached_property
    def _threshold(self) -> Tensor:
        return torch.tensor(self.thresholds or (HALF,) * len(self.labels), dtype=torch.float64)

    def tensor(self, labels: Sequence[Label]) -> Tensor:
        """Return 1 where a label applies. Shape: (n, C) float32."""
        truth = torch.zeros(len(labels), len(self.labels))
        for row, indices in enumerate(labels):
            truth[row, list(indices) if isinstance(indices, tuple) else [int(indices)]] = 1
        return truth

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return Σ over rows of the mean binary cross entropy over labels. Shape: (B, C), (B, C) -> ()."""
        real = ~labels.isnan()
        target = labels.nan_to_num() * (1 - self.smoothing) + self.smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, target, pos_weight=self.weights, reduction="none")
        return (losses * real).sum() / logits.shape[-1]

    def decide(self, logits: Tensor) -> Tensor:
        """Return which labels apply. Shape: (n, C) -> (n, C) bool."""
        return logits.double().sigmoid() > self._threshold

    def errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the number of wrong labels of every row. Shape: (n,)."""
        return (self.decide(logits) != labels.bool()).sum(-1).double()

    def margins(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the least of 2 p - 1 (label there) and 1 - 2 p (not there). Shape: (B, C), (B, C) -> (B,)."""
        return ((2 * labels - 1) * (2 * logits.sigmoid() - 1)).amin(-1)

    def measure(self, logits: Tensor, labels: Tensor) -> MultiLabelMetrics:
        """Return the scores. Shape: logits (n, C), labels (n, C) of 0 and 1."""
        rows = self.label_rows(logits, labels)
        answers, truth = self.decide(logits), labels.bool()
        hits, either = (answers & truth).sum().item(), (answers.sum() + truth.sum()).item()
        return MultiLabelMetrics(
            macro_f1=sum(row.f1 for row in rows) / len(rows),
            micro_f1=2 * hits / max(1, either),
            exact_match=(answers == truth).all(-1).double().mean().item(),
            mean_average_precision=mean_average_precision(logits, labels),
            loss=F.binary_cross_entropy_with_logits(logits.double(), labels.double()).item(),
            n=len(labels),
        )

    def label_rows(self, logits: Tensor, labels: Tensor) -> list[LabelRow]:
        """Return precision, recall and F1 of every label. Shape: (n, C), (n, C) -> C rows."""
        self._check(logits, labels)
        truth, answers = labels.long(), self.decide(logits).long()
        if len(self.labels) == 1:  # for scikit-learn one column is two classes
            return label_rows(truth[:, 0], answers[:, 0], self.labels, labels=[1])
        return label_rows(truth, answers, self.labels)

    def label_tests(self, before: Tensor, after: Tensor, labels: Tensor) -> list[McNemar]:
        """Return McNemar's test of every label: applies or not."""
        old, new = (self.decide(logits) == labels.bool() for logits in (before, after))
        return [mcnemar(old[:, label], new[:, label]) for label in range(len(self.labels))]

    def p_value(self, before: Tensor, after: Tensor, labels: Tensor) -> float:
        """Return the randomization test's p of no change in macro-F1 (randomization.py)."""
        answers = (self.decide(logits).numpy().astype(np.float64) for logits in (before, after))
        return macro_f1_p(labels.numpy().astype(np.float64), *answers)

    def direction(self, before: Tensor, after: Tensor, labels: Tensor) -> float:
        """Return the change in macro-F1."""
        return self.measure(after, labels).macro_f1 - self.measure(before, labels).macro_f1

    def intervals(self, before: Tensor, after: Tensor, labels: Tensor) -> dict[str, Interval]:
        """Return the intervals of macro-F1, micro-F1 and loss."""
        first, second = self.measure(before, labels), self.measure(after, labels)
        redrawn = self._redrawn(before, after, labels)
        return {name: interval(getattr(second, name) - getattr(first, name), redrawn[name]) for name in redrawn}

    def constant(self, labels: Tensor) -> tuple[str, Tensor]:
        """Return the commonest label for every row: its share as the probability, nothing for the others."""
        shares = (labels.double().sum(0) + 0.5) / (len(labels) + 1)  # (C,)
        best = int(shares.argmax())
        threshold = self._threshold[best]
        shares = torch.minimum(shares, self._threshold / 2)
        shares[best] = (threshold + 1) / 2
        return f"always {self.labels[best]!r}", shares.logit().expand(len(labels), -1)

    def answers(self, logits: Tensor) -> list[dict[str, Any]]:
        """Return the labels that apply, the likeliest first, and every label's probability."""
        rows = zip(self.decide(logits).tolist(), logits.double().sigmoid().tolist(), strict=True)
        return [self._answer(applies, scores) for applies, scores in rows]

    def chosen(self, answer: Mapping[str, Any]) -> list[str]:
        """Return the labels that apply, in the order of the logits."""
        return [label for label in self.labels if label in answer["labels"]]

    def named(self, answer: dict[str, Any]) -> str:
        """Return the labels as text."""
        return ", ".join(answer["labels"]) or "no label"

    def sentence(self, subject: str) -> str:
        """Return what the model does, with the thresholds."""
        named = zip(self.labels, self.thresholds, strict=False)
        listed = ", ".join(f"{label} above {threshold:g}" for label, threshold in named) or ", ".join(self.labels)
        return f"Gives {subject} any number of these labels, each by its own probability: {listed}."

    def truth(self, label: Tensor) -> str:
        """Return the labels of a row as text. Shape: (C,)."""
        return ", ".join(name for name, applies in zip(self.labels, label.tolist(), strict=True) if applies) or "no label"

    def fit_linear(self, features: Sequence[Tensor], labels: Tensor) -> tuple[int, Linear]:
        """Fit a logistic regression a label."""
        return fit_logistic(features, labels)

    def balanced_weights(self, labels: Tensor) -> Tensor:
        """Return sqrt((n - n_c) / n_c), the weight of a label where it applies.

        The root keeps the commonest labels from being lost: a label of 1 row in 500 would else weigh 500.
        """
        counts = labels.double().sum(0)
        return torch.where(counts > 0, ((len(labels) - counts) / counts.clamp(min=1)).clamp(min=1).sqrt(), 1.0)

    def fitted(self, logits: Tensor, labels: Tensor) -> Self:
        """Return the task with thresholds for the best macro-F1 on these rows (thresholds.py)."""
        self._check(logits, labels)
        return replace(self, thresholds=fit_thresholds(logits.double().sigmoid(), labels.bool()))

    def settings(self) -> dict[str, Any]:
        """Return the thresholds by label."""
        return {"thresholds": dict(zip(self.labels, self.thresholds, strict=True))} if self.thresholds else {}

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """Return the task with these thresholds."""
        known = settings.get("thresholds") or {}
        return replace(self, thresholds=tuple(known.get(label, HALF) for label in self.labels) if known else ())

    def _answer(self, applies: Sequence[bool], scores: Sequence[float]) -> dict[str, Any]:
        named = {label: round(score, 6) for label, score in zip(self.labels, scores, strict=True)}
        chosen = [label for label, own in zip(self.labels, applies, strict=True) if own]
        return {"labels": sorted(chosen, key=lambda label: -named[label]), "scores": named}

    def _redrawn(self, before: Tensor, after: Tensor, labels: Tensor) -> dict[str, Array]:
        """Return the change of every score in every resample. Shape: (R,) each."""
        truth = labels.numpy().astype(np.float64)
        answers = [self.decide(logits).numpy().astype(np.float64) for logits in (before, after)]
        losses = [
            F.binary_cross_entropy_with_logits(logits.double(), labels.double(), reduction="none").mean(-1).numpy()
            for logits in (before, after)
        ]
        parts: dict[str, list[Array]] = {"macro_f1": [], "micro_f1": [], "loss": []}
        for counts in row_counts(len(labels)):
            (old_macro, old_micro), (macro, micro) = (_resampled_f1(counts, truth, answer) for answer in answers)
            parts["macro_f1"].append(macro - old_macro)
            parts["micro_f1"].append(micro - old_micro)
            parts["loss"].append(counts @ (losses[1] - losses[0]) / len(labels))
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _check(self, logits: Tensor, labels: Tensor) -> None:
        check_rows(logits, labels, expected="(n, C) twice", fits=labels.shape == logits.shape)
        if not ((labels == 0) | (labels == 1)).all():
            raise DataError("labels that are neither 0 nor 1", where="evaluation", expected="0 or 1 for every label")


def _resampled_f1(counts: Array, truth: Array, answers: Array) -> tuple[Array, Array]:
    """Return macro- and micro-F1 of every resample. Shape: (r, n), (n, C), (n, C) -> (r,), (r,)."""
    hits, either = counts @ (truth * answers), counts @ (truth + answers)  # (r, C)
    return f1_of(hits, either).mean(1), f1_of(hits.sum(1), either.sum(1))


def mean_average_precision(logits: Tensor, labels: Tensor) -> float:
    """Return the mean over labels of the average precision; labels that no row has are left out.

    Shape: (n, C), (n, C). 0 if no row has a label.
    """
    from sklearn.metrics import average_precision_score  # slow to import

    present = labels.sum(0) > 0
    if not present.any():
        return 0.0
    return float(average_precision_score(labels[:, present].numpy(), logits[:, present].numpy()))
