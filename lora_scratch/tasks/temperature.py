"""The temperature that makes stated confidence match accuracy, fitted on validation rows.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

TEMPERATURES = (0.02, 50.0)  # rows without a mistake have their minimum at 0, rows at chance at infinity


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the T in [0.02, 50] with the lowest cross entropy of logits / T.

    No prediction changes. Fit it on validation rows, never on the rows that are measured.
    Shape: logits (n, C), labels (n,).
    """
    wide = logits.double()

    def loss(log_temperature: float) -> float:
        """Mean cross entropy."""
        return F.cross_entropy(wide / math.exp(log_temperature), labels).item()

    from scipy.optimize import minimize_scalar  # slow to import

    # the loss is convex in 1 / T, so it has one minimum in log T too
    bounds = tuple(map(math.log, TEMPERATURES))
    minimum = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(minimum.x)
