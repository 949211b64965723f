"""Both models' answers in detail: scores of every label, confusion matrices, or numbers, by the task."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..tasks import Task, holm
from ..tasks.metrics import LabelRow

MOST_POINTS = 500  # of a drawing: more would cover each other


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


@dataclass(frozen=True)
class Points:
    """Labels and both models' answers, where they are numbers: at most MOST_POINTS rows, evenly spaced."""

    label: list[float]
    baseline: list[float]
    adapted: list[float]


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


def points(task: Task, before: Tensor, after: Tensor, labels: Tensor) -> Points | None:
    """Return labels and answers of some rows; None unless they are numbers. Shape: (n, C) logits."""
    old, new = task.points(before, labels), task.points(after, labels)
    if old is None or new is None:
        return None
    every = -(-len(labels) // MOST_POINTS)
    truth, adapted = new[::every].T.tolist()
    return Points(truth, old[::every, 1].tolist(), adapted)
