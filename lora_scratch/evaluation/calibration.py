"""Does a model that says 90 % get 90 % right? Expected calibration error, Brier score, reliability, temperature.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599; Brier 1950, Verification of forecasts
    expressed in terms of probability, Monthly Weather Review 78(1), 1-3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .metrics import correct, measure

BINS = 15  # as in Guo et al.
TEMPERATURES = (0.02, 50.0)  # a validation set without a single mistake would ask for 0, one at chance for infinity


@dataclass(frozen=True)
class Bin:
    """The rows whose highest probability lies in (low, high]: their number, its mean, and the share answered rightly."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """ECE in [0, 1], Brier score in [0, 2], and the reliability curve: the bins that hold rows, in order."""

    ece: float
    brier: float
    bins: list[Bin]


def calibration(logits: Tensor, labels: Tensor) -> Calibration:
    """ECE = Σ over bins of n_bin/n · |accuracy − confidence|;  Brier = mean of Σ_c (p_c − [c is the label])².

    Shape: logits (n, C), labels (n,).

    Raises:
        DataError: no rows, logits that are not finite, or labels that do not fit.
    """
    measure(logits, labels)
    probability = logits.double().softmax(-1)  # (n, C)
    bins = _reliability(probability.amax(-1), correct(logits, labels))
    ece = sum(each.n * abs(each.accuracy - each.confidence) for each in bins) / len(labels)
    truth = F.one_hot(labels, logits.shape[1])
    return Calibration(ece, (probability - truth).square().sum(-1).mean().item(), bins)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T with the lowest cross entropy of logits / T, from 0.02 to 50; no answer changes. Fit it on validation rows.

    Shape: logits (n, C), labels (n,).

    Raises:
        DataError: no rows, logits that are not finite, or labels that do not fit.
    """
    measure(logits, labels)
    wide = logits.double()

    def loss(log_temperature: float) -> float:
        """Mean cross-entropy at this temperature."""
        return F.cross_entropy(wide / math.exp(log_temperature), labels).item()

    from scipy.optimize import minimize_scalar  # half a second, for those alone who ask

    # convex in 1 / T, so it has one valley in log T too
    found = minimize_scalar(loss, bounds=tuple(map(math.log, TEMPERATURES)), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


def _reliability(confidence: Tensor, right: Tensor) -> list[Bin]:
    """Shape: confidence (n,) float64, right (n,) bool."""
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    number = torch.bucketize(confidence, edges[1:-1])  # (n,) the bin of each row, closed above
    return [
        Bin(
            edges[i].item(),
            edges[i + 1].item(),
            int(inside.sum()),
            confidence[inside].mean().item(),
            right[inside].double().mean().item(),
        )
        for i, inside in ((i, number == i) for i in sorted(set(number.tolist())))
    ]
