"""Both models' scores of every label, where the task has labels, and their confusion matrices."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..tasks import Task, holm
from ..tasks.metrics import LabelRow


@dataclass(frozen=True)
class ClassScores:
    """Both models' scores of every label, and how many of its rows were fixed and broken. C entries each.

    `p_holm` is McNemar's p for these rows, with Holm's correction over all labels.
    """

    baseline: list[LabelRow]
    adapted: list[LabelRow]
    fixed: list[int]
    broken: list[int]
    p_holm: list[float]


@dataclass(frozen=True)
class Confusions:
    """Both models' counts, true class by row and predicted class by column. Shape: (C, C) each."""

    baseline: list[list[int]]
    adapted: list[list[int]]


def class_scores(task: Task, before: Tensor, after: Tensor, labels: Tensor) -> ClassScores | None:
    """Return the scores of every label; None for a task without labels. Shape: (n, C) logits."""
    old, new = task.label_rows(before, labels), task.label_rows(after, labels)
    tests = task.label_tests(before, after, labels)
    if old is None or new is None or tests is None:
        return None
    corrected = holm([test.p_value for test in tests])
    return ClassScores(old, new, [test.fixed for test in tests], [test.broken for test in tests], corrected)


def confusions(task: Task, before: Tensor, after: Tensor, labels: Tensor) -> Confusions | None:
    """Return both confusion matrices; None unless a row has one label. Shape: (n, C) logits."""
    matrices = [task.confusion(logits, labels) for logits in (before, after)]
    counts = [matrix.tolist() for matrix in matrices if matrix is not None]
    return Confusions(*counts) if counts else None
