r"""Softmax regression on fixed features, by scikit-learn: what a linear classifier can read from them.

    z = W x + b        min  Σ cross entropy(z, label) + ‖W σ‖² / 2C        σ: the deviation of every feature

The features are standardized for the fit, so that the penalty treats them alike; W and b are for the features as they are.
The weight C of the penalty is the one of four with the lowest loss on a fifth of the rows, set aside with a
fixed seed: with a fixed weight the fit would be poor where rows are few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..runtime.seeds import named_generator
from .metrics import measure

PENALTIES = (0.001, 0.01, 0.1, 1.0)  # scikit-learn's C; MiniLM's [CLS] with 2,000 rows: 0.56, 0.59, 0.55, 0.51 test accuracy
TOO_FEW_ROWS = 10  # to set a fifth aside
MAX_ITERATIONS = 1000  # L-BFGS needs 30 to 130 on standardized features; the bound is for features that never settle


@dataclass(frozen=True)
class Regression:
    """z = W x + b.

    A class without a row in the fit has weight zero and the bias that gives it about the probability of one row.

    Shape: weight (C, d), bias (C,), float32.
    """

    weight: Tensor
    bias: Tensor

    def log_probabilities(self, x: Tensor) -> Tensor:
        """log softmax(W x + b). Shape: (m, d) -> (m, C)."""
        return F.log_softmax(F.linear(x, self.weight, self.bias), -1)


def fit_regression(features: Sequence[Tensor], labels: Tensor, *, classes: int) -> tuple[int, Regression]:
    """Which of several kinds of features of the same rows tells most, and the regression on all rows of it.

    Shape: features (n, d) each, labels (n,).
    """
    # on products this small threads wait for each other: one is 4 times as fast, 20 if others work
    with threadpool_limits(1):
        kind, penalty = _best_pair(features, labels, classes)
        return kind, _fit(features[kind], labels, classes, penalty)


def _best_pair(features: Sequence[Tensor], labels: Tensor, classes: int) -> tuple[int, float]:
    if len(labels) < TOO_FEW_ROWS:
        return 0, PENALTIES[0]
    order = torch.randperm(len(labels), generator=named_generator(0, "linear probe"))
    aside, rest = order[: len(labels) // 5], order[len(labels) // 5 :]

    def loss(pair: tuple[int, float]) -> float:
        """On the rows aside, of the fit to the rest."""
        x = features[pair[0]]
        found = _fit(x[rest], labels[rest], classes, pair[1])
        return measure(found.log_probabilities(x[aside]), labels[aside]).loss

    return min(product(range(len(features)), PENALTIES), key=loss)


def _fit(x: Tensor, labels: Tensor, classes: int, penalty: float) -> Regression:
    seen = labels.bincount(minlength=classes).nonzero().flatten()  # sorted, as scikit-learn sorts its classes
    weight, bias = torch.zeros(classes, x.shape[1]), torch.full((classes,), -math.log(len(x)))
    weight[seen], bias[seen] = _fit_seen(x, labels, penalty) if len(seen) > 1 else (weight[seen], torch.zeros(1))
    return Regression(weight, bias)


def _fit_seen(x: Tensor, labels: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """W and b of the classes that there are, two or more.

    Over the rows log Σ exp(W x + b) is 0 in the mean: the bias of a class that is not there means the same in every fit.
    """
    from sklearn.linear_model import LogisticRegression  # half a second, for those alone who fit
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x.numpy())
    fitted = LogisticRegression(C=penalty, max_iter=MAX_ITERATIONS).fit(scaler.transform(x.numpy()), labels.numpy())
    weight, bias = (torch.as_tensor(each, dtype=torch.float64) for each in (fitted.coef_, fitted.intercept_))
    if len(weight) == 1:  # of two classes scikit-learn gives the second's score alone; the first's is 0
        weight, bias = (torch.cat([torch.zeros_like(each), each]) for each in (weight, bias))
    weight = weight / torch.as_tensor(scaler.scale_)
    bias = bias - weight @ torch.as_tensor(scaler.mean_)
    bias = bias - F.linear(x.double(), weight, bias).logsumexp(-1).mean()
    return weight.float(), bias.float()
