"""Metrics from logits and labels. scikit-learn counts; torch computes the cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError

LISTED_ROWS = 5  # rows that an error names


@dataclass(frozen=True)
class Metrics:
    """Accuracy, macro-F1 over all classes, mean cross entropy in nats, and the number of rows."""

    accuracy: float
    macro_f1: float
    loss: float
    n: int


@dataclass(frozen=True)
class ClassRow:
    """Precision, recall and F1 of one class, and the number of rows with this label."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def measure(logits: Tensor, labels: Tensor) -> Metrics:
    """Return accuracy, macro-F1 and cross entropy of `logits` against `labels`.

    Macro-F1 is the plain mean over all C classes. A class without a label or a prediction counts as 0, as in
    scikit-learn with `labels=range(C)` and `zero_division=0`.

    Shape: logits (n, C), labels (n,).

    Raises:
        DataError: no rows, logits that are not finite, or labels that do not fit.
    """
    rows = per_class(logits, labels, [str(index) for index in range(logits.shape[-1])])
    return Metrics(
        accuracy=correct(logits, labels).double().mean().item(),
        macro_f1=sum(row.f1 for row in rows) / len(rows),
        loss=F.cross_entropy(logits.double(), labels).item(),
        n=len(labels),
    )


def per_class(logits: Tensor, labels: Tensor, names: Sequence[str]) -> list[ClassRow]:
    """Return one row for every class, in the order of `names`; 0/0 counts as 0.

    Shape: logits (n, C), labels (n,), C names. Errors as `measure`.
    """
    _check(logits, labels)
    if len(names) != logits.shape[1]:
        raise DataError(f"{len(names)} names for {logits.shape[1]} classes", where="evaluation")
    from sklearn.metrics import precision_recall_fscore_support  # slow to import

    columns = precision_recall_fscore_support(
        labels.numpy(), logits.argmax(-1).numpy(), labels=range(len(names)), zero_division=0
    )
    return [
        ClassRow(name, float(precision), float(recall), float(f1), int(support))
        for name, precision, recall, f1, support in zip(names, *columns, strict=True)
    ]


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


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        shapes = f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}"
        raise DataError(shapes, where="evaluation", expected="(n, C) and (n,)")
    if not logits.numel():
        raise DataError("no rows to measure", where="evaluation", expected="at least one")
    if bad := _rows_where(~logits.isfinite().all(-1)):
        remedy = "train with a lower learning rate"
        raise DataError(f"logits that are not finite in {bad}", where="evaluation", remedy=remedy)
    if bad := _rows_where((labels < 0) | (labels >= logits.shape[1])):
        raise DataError(f"no such class in {bad}", where="evaluation", expected=f"labels 0 to {logits.shape[1] - 1}")


def _rows_where(wrong: Tensor) -> str:
    """Return `rows 3, 17, ... (12 of 2000)`, counted from 0; empty if none is wrong."""
    rows = wrong.nonzero().flatten().tolist()
    if not rows:
        return ""
    listed = ", ".join(map(str, rows[:LISTED_ROWS])) + (", ..." if len(rows) > LISTED_ROWS else "")
    return f"rows {listed} ({len(rows)} of {len(wrong)}, counted from 0)"
