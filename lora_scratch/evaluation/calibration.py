"""Whether stated confidence matches accuracy: expected calibration error, Brier score, temperature.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599; Brier 1950, Verification of forecasts
    expressed in terms of probability, Monthly Weather Review 78(1), 1-3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tasks.single_label import correct, measure

BINS = 15  # as in Guo et al.


@dataclass(frozen=True)
class Bin:
    """The rows with a confidence in (low, high]: number, mean confidence, accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """ECE in [0, 1], Brier score in [0, 2], and the bins that hold rows, in order."""

    ece: float
    brier: float
    bins: list[Bin]


@dataclass(frozen=True)
class Tempered(Calibration):
    """The calibration of logits / temperature, and their mean cross entropy."""

    temperature: float
    loss: float


@dataclass(frozen=True)
class Calibrations:
    """Both models' calibration, and the adapted model's with its temperature, if one was fitted."""

    baseline: Calibration
    adapted: Calibration
    tempered: Tempered | None = None


def calibration(logits: Tensor, labels: Tensor) -> Calibration:
    """ECE = Σ_bins n_bin/n · |accuracy − confidence|;  Brier = mean of Σ_c (p_c − [c is the label])².

    Shape: logits (n, C), labels (n,). Errors as `measure`.
    """
    measure(logits, labels)
    probability = logits.double().softmax(-1)  # (n, C)
    bins = _reliability(probability.amax(-1), correct(logits, labels))
    ece = sum(bin_.n * abs(bin_.accuracy - bin_.confidence) for bin_ in bins) / len(labels)
    truth = F.one_hot(labels, logits.shape[1])
    return Calibration(ece, (probability - truth).square().sum(-1).mean().item(), bins)


def compare_calibration(before: Tensor, after: Tensor, labels: Tensor, temperature: float | None = None) -> Calibrations:
    """Return both models' calibration, and that of the adapted model's logits / temperature, if there is one."""
    baseline, adapted = calibration(before, labels), calibration(after, labels)
    if temperature is None:
        return Calibrations(baseline, adapted)
    cooled = after.double() / temperature
    figures = vars(calibration(cooled, labels))
    tempered = Tempered(**figures, temperature=temperature, loss=measure(cooled, labels).loss)
    return Calibrations(baseline, adapted, tempered)


def _reliability(confidence: Tensor, right: Tensor) -> list[Bin]:
    """Return the bins that hold rows. Shape: confidence (n,) float64, right (n,) bool."""
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    number = torch.bucketize(confidence, edges[1:-1])  # (n,) the bin of each row, closed above
    bins = []
    for i in sorted(set(number.tolist())):
        low, high, rows = edges[i].item(), edges[i + 1].item(), number == i
        mean, accuracy = confidence[rows].mean().item(), right[rows].double().mean().item()
        bins.append(Bin(low, high, int(rows.sum()), mean, accuracy))
    return bins
