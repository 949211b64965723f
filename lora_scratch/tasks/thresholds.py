"""Thresholds of several labels, fitted on validation rows for the best macro-F1.

A label with few rows would fit its threshold to noise. So one threshold is fitted for all labels first, and a
label gets its own only with FEW rows or more, and only half of the way from the common one to its best one.
"""

from __future__ import annotations

import torch
from torch import Tensor

GRID = tuple(step / 100 for step in range(2, 97, 2))
FEW = 50  # rows of a label below which it keeps the common threshold


def fit_thresholds(probabilities: Tensor, truth: Tensor) -> tuple[float, ...]:
    """Return a threshold for every label. Shape: (n, C) in [0, 1], (n, C) bool -> C numbers."""
    grid = torch.tensor(GRID, dtype=torch.float64)
    f1 = torch.stack([_f1(probabilities > threshold, truth) for threshold in GRID])  # (G, C)
    common = grid[f1.mean(1).argmax()]
    own = torch.where(truth.sum(0) >= FEW, (grid[f1.argmax(0)] + common) / 2, common)  # (C,)
    return tuple(round(threshold, 4) for threshold in own.tolist())


def _f1(answers: Tensor, truth: Tensor) -> Tensor:
    """Return F1 of every label, with 0/0 = 0. Shape: (n, C) -> (C,)."""
    hits, either = (answers & truth).sum(0).double(), (answers.sum(0) + truth.sum(0)).double()
    return 2 * hits / either.clamp(min=1)
