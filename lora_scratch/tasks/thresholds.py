"""Thresholds of several labels, fitted on validation rows for the best macro-F1.

A label with few rows would fit its threshold to noise. So one threshold is fitted for all labels first, and a
label gets its own only with FEW rows or more, and only half of the way from the common one to its best one.
"""

from __future__ import annotations

import torch
from torch import Tensor

GRID = tuple(step / 100 for step in range(2, 97, 2))
TIE = 1e-12  # scores that are equal but for rounding
FEW = 50  # rows of a label below which it keeps the common threshold


def fit_thresholds(probabilities: Tensor, truth: Tensor) -> tuple[float, ...]:
    """Return a threshold for every label. Shape: (n, C) in [0, 1], (n, C) bool -> C numbers."""
    grid = torch.tensor(GRID, dtype=torch.float64)
    f1 = torch.stack([_f1(probabilities > threshold, truth) for threshold in GRID])  # (G, C)
    common = _best(f1.mean(1, keepdim=True), grid)  # (1,)
    own = torch.where(truth.sum(0) >= FEW, (_best(f1, grid) + common) / 2, common)  # (C,)
    return tuple(round(threshold, 4) for threshold in own.tolist())


def _best(f1: Tensor, grid: Tensor) -> Tensor:
    """Return the best threshold of every column; of equally good ones, the nearest to 1/2. Shape: (G, C) -> (C,)."""
    distance = torch.where(f1 >= f1.amax(0) - TIE, (grid - 0.5).abs()[:, None], torch.inf)
    return grid[distance.argmin(0)]


def _f1(answers: Tensor, truth: Tensor) -> Tensor:
    """Return F1 of every label, with 0/0 = 0. Shape: (n, C) -> (C,)."""
    hits, either = (answers & truth).sum(0).double(), (answers.sum(0) + truth.sum(0)).double()
    return 2 * hits / either.clamp(min=1)
