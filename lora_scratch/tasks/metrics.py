"""What every task's metrics have in common, how a score is written, and the checks before measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from ..errors import DataError

LISTED_ROWS = 5  # rows that an error names
TITLES: Mapping[str, str] = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "matthews": "Matthews",
    "f1": "F1",
    "exact_match": "exact match",
    "mean_average_precision": "mAP",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "mae": "mean |error|",
    "mse": "mean error²",
    "loss": "loss (nats)",
}
LOWER_IS_BETTER = frozenset({"loss", "mae", "mse"})


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Scores of one model on `n` rows. A task's own class adds its scores; `headline_name` is the first.

    Args:
        loss: the mean loss over the rows, as in training, without weights or smoothing.
    """

    headline_name: ClassVar[str]
    loss_title: ClassVar[str] = "loss (nats)"

    loss: float
    n: int

    @property
    def headline(self) -> float:
        """The task's main score; higher is better."""
        return float(getattr(self, self.headline_name))

    @property
    def scores(self) -> dict[str, float]:
        """Every score by name, headline first and the loss last; without those that do not apply."""
        names = [f.name for f in fields(self) if f.name not in ("loss", "n")]
        scores = {name: getattr(self, name) for name in (self.headline_name, *names, "loss")}
        return {name: value for name, value in scores.items() if value is not None}

    @property
    def shown(self) -> dict[str, float]:
        """The scores of a table, in its order."""
        return self.scores


@dataclass(frozen=True)
class LabelRow:
    """Precision, recall and F1 of one label, and the number of rows with it."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def label_rows(truth: Tensor, answers: Tensor, names: Sequence[str], **how: Any) -> list[LabelRow]:
    """Return scikit-learn's scores of every label. Shape: (n,) class numbers, or (n, C) of 0 and 1."""
    from sklearn.metrics import precision_recall_fscore_support  # slow to import

    columns = precision_recall_fscore_support(truth.numpy(), answers.numpy(), zero_division=0, **how)
    return [
        LabelRow(name, float(precision), float(recall), float(f1), int(support))
        for name, precision, recall, f1, support in zip(names, *columns, strict=True)
    ]


def check_rows(logits: Tensor, labels: Tensor, *, expected: str, fits: bool) -> None:
    """Check shapes and numbers before measuring. `fits` says whether the labels' shape is right.

    Raises:
        DataError: no rows, shapes that do not fit, or logits that are not finite.
    """
    if logits.dim() != 2 or not fits:
        shapes = f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}"
        raise DataError(shapes, where="evaluation", expected=expected)
    if not logits.numel():
        raise DataError("no rows to measure", where="evaluation", expected="at least one")
    if bad := rows_where(~logits.isfinite().all(-1)):
        remedy = "use --precision fp32, or train with a lower learning rate"
        raise DataError(f"logits that are not finite in {bad}", where="evaluation", remedy=remedy)


def rows_where(wrong: Tensor) -> str:
    """Return `rows 3, 17, ... (12 of 2000)`, counted from 0; empty if none is wrong."""
    rows = wrong.nonzero().flatten().tolist()
    if not rows:
        return ""
    listed = ", ".join(map(str, rows[:LISTED_ROWS])) + (", ..." if len(rows) > LISTED_ROWS else "")
    return f"rows {listed} ({len(rows)} of {len(wrong)}, counted from 0)"
