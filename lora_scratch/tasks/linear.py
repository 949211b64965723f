r"""Linear models on fixed features, by scikit-learn: softmax regression, one logistic a label, ridge regression.

    z = W x + b        min  Σ loss(z, label) + ‖W σ‖² / 2C        σ: standard deviation of each feature

The features are standardized for the fit, so that the penalty is the same for all; the returned W
and b are for the original features. C is the one of four values with the lowest loss on a fifth of
the rows, held out with a fixed seed. One fixed C fits poorly if there are few rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..runtime.seeds import named_generator

# scikit-learn's C. Test accuracy of MiniLM's [CLS] with 2,000 rows: 0.56, 0.59, 0.55, 0.51.
PENALTIES = (0.001, 0.01, 0.1, 1.0)
MIN_ROWS = 10  # with fewer, no fifth is held out
CHOICE_ROWS = 2048  # rows that the penalty of many labels is chosen on
MAX_ITERATIONS = 1000  # L-BFGS needs 30 to 130 on standardized features


@dataclass(frozen=True)
class Linear:
    """z = W x + b. Shape: weight (C, d), bias (C,), float32."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return z. Shape: (m, d) -> (m, C)."""
        return F.linear(x, self.weight, self.bias)


Fit = Callable[[Tensor, Tensor, float], Linear]  # (features, labels, penalty)
Loss = Callable[[Tensor, Tensor], Tensor]  # (z, labels)


def fit_softmax(features: Sequence[Tensor], labels: Tensor, *, classes: int) -> tuple[int, Linear]:
    """Choose among several kinds of features of the same rows, and fit a softmax regression to all rows.

    A class without a row has weight zero, and a bias for about the probability of one row.

    Shape: features (n, d) each, labels (n,).

    Returns: the index of the kind with the lowest held-out loss, and its regression.
    """

    def fit(x: Tensor, y: Tensor, penalty: float) -> Linear:
        """Fit one penalty."""
        return _softmax(x, y, classes, penalty)

    return _choose(features, labels, fit, lambda z, y: F.cross_entropy(z.double(), y))


def fit_logistic(features: Sequence[Tensor], labels: Tensor) -> tuple[int, Linear]:
    """Do the same with one logistic regression a label. Shape: labels (n, C), 0 or 1.

    A label that no row has, or every row, has weight zero.
    """
    return _choose(features, labels, _logistic, lambda z, y: F.binary_cross_entropy_with_logits(z.double(), y.double()))


def fit_ridge(features: Sequence[Tensor], labels: Tensor) -> tuple[int, Linear]:
    """Do the same with a ridge regression of one number. Shape: labels (n,)."""
    return _choose(features, labels, _ridge, lambda z, y: F.mse_loss(z[:, 0].double(), y.double()))


def _choose(features: Sequence[Tensor], labels: Tensor, fit: Fit, loss: Loss) -> tuple[int, Linear]:
    # one thread is 4 times as fast on products this small, 20 times on a busy machine
    with threadpool_limits(1):
        kind, penalty = _best_pair(features, labels, fit, loss)
        return kind, fit(features[kind], labels, penalty)


def _best_pair(features: Sequence[Tensor], labels: Tensor, fit: Fit, loss: Loss) -> tuple[int, float]:
    if len(labels) < MIN_ROWS:
        return 0, PENALTIES[0]
    order = torch.randperm(len(labels), generator=named_generator(0, "linear probe"))
    held_out, rest = order[: len(labels) // 5], order[len(labels) // 5 :]
    if labels.dim() == 2:
        held_out, rest = held_out[:CHOICE_ROWS], rest[:CHOICE_ROWS]

    def held_out_loss(pair: tuple[int, float]) -> float:
        x = features[pair[0]]
        return loss(fit(x[rest], labels[rest], pair[1])(x[held_out]), labels[held_out]).item()

    return min(product(range(len(features)), PENALTIES), key=held_out_loss)


def _softmax(x: Tensor, labels: Tensor, classes: int, penalty: float) -> Linear:
    seen = labels.bincount(minlength=classes).nonzero().flatten()  # sorted, as scikit-learn sorts its classes
    weight, bias = torch.zeros(classes, x.shape[1]), torch.full((classes,), -math.log(len(x)))
    weight[seen], bias[seen] = _softmax_of_seen(x, labels, penalty) if len(seen) > 1 else (weight[seen], torch.zeros(1))
    return Linear(weight, bias)


def _softmax_of_seen(x: Tensor, labels: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Return W and b of the classes that have rows, two or more.

    The mean of log Σ exp(W x + b) is 0: the bias of an absent class then means the same in every fit.
    """
    weight, bias = _fit_classes(x, labels, penalty)
    if len(weight) == 1:  # for two classes scikit-learn gives only the second one's score; the first one's is 0
        weight, bias = (torch.cat([torch.zeros_like(part), part]) for part in (weight, bias))
    bias = bias - F.linear(x.double(), weight, bias).logsumexp(-1).mean()
    return weight.float(), bias.float()


def _logistic(x: Tensor, labels: Tensor, penalty: float) -> Linear:
    n, weight = len(x), torch.zeros(labels.shape[1], x.shape[1])
    shares = ((labels.sum(0) + 0.5) / (n + 1)).clamp(0.5 / (n + 1), 1 - 0.5 / (n + 1))
    bias = shares.logit().float()
    for label, column in enumerate(labels.T):
        if 0 < column.sum() < n:
            own_weight, own_bias = _fit_classes(x, column.long(), penalty)
            weight[label], bias[label] = own_weight[0].float(), own_bias[0].float()
    return Linear(weight, bias)


def _fit_classes(x: Tensor, labels: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    from sklearn.linear_model import LogisticRegression  # slow to import

    scaled, scale, mean = _standardized(x)
    fitted = LogisticRegression(C=penalty, max_iter=MAX_ITERATIONS).fit(scaled, labels.numpy())
    return _unscaled(fitted.coef_, fitted.intercept_, scale, mean)


def _ridge(x: Tensor, labels: Tensor, penalty: float) -> Linear:
    from sklearn.linear_model import Ridge  # slow to import

    scaled, scale, mean = _standardized(x)
    fitted = Ridge(alpha=1 / penalty).fit(scaled, labels.double().numpy())
    weight, bias = _unscaled(fitted.coef_[None], fitted.intercept_, scale, mean)
    return Linear(weight.float(), bias.float())


def _standardized(x: Tensor) -> tuple[object, Tensor, Tensor]:
    from sklearn.preprocessing import StandardScaler  # slow to import

    scaler = StandardScaler().fit(x.numpy())
    return scaler.transform(x.numpy()), torch.as_tensor(scaler.scale_), torch.as_tensor(scaler.mean_)


def _unscaled(weight: object, bias: object, scale: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return W and b for the features before standardization."""
    wide, offset = (torch.as_tensor(part, dtype=torch.float64) for part in (weight, bias))
    wide = wide / scale
    return wide, offset - wide @ mean
