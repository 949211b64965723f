"""What the frozen features alone can do: a linear classifier on top of the untouched encoder.

The rung below LoRA: what the adapter gains over it is what changing the features gained, not what a new head gained.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ..data import Batch, Encoded
from ..errors import DataError
from ..runtime.precision import Precision
from ..runtime.seeds import named_generator
from .metrics import measure
from .predict import evaluating, map_rows

PENALTIES = (0.001, 0.01, 0.1, 1.0)  # scikit-learn's C; MiniLM's [CLS] with 2,000 rows: 0.56, 0.59, 0.55, 0.51 test accuracy
TOO_FEW_ROWS = 10  # to set a fifth aside
MAX_ITERATIONS = 1000  # L-BFGS needs 30 to 130 on standardised features; the bound is for features that never settle


def linear_probe(
    model: Any,
    train: Encoded,
    test: Encoded,
    *,
    precision: Precision,
    pad_token_id: int,
    batch_tokens: int | None = None,
    progress: str = "",
) -> Tensor:
    """log softmax(W z + b) of the test rows, with z the standardised frozen features and W, b fitted to the training rows.

    The features are the encoder's last hidden state, either at the first token ([CLS]), where the heads of DistilBERT,
    BERT, RoBERTa and ELECTRA read, or as the mean over the row's tokens, which is stronger where nothing has trained [CLS].
    The fit is scikit-learn's logistic regression. Of the two features and four weights of its penalty ‖W‖²/2 it takes the
    pair with the lowest loss on a fifth of the training rows, set aside with a fixed seed: with fixed ones the probe would
    be too easy to beat. A class without a training row gets about the probability of one row in the training set, so that
    its loss is finite.

    Shape: -> (n, C) float32, row i for row i of `test`; C is the model's number of labels.

    Args:
        model: a sequence classifier of transformers; it is taken as it is, so probe before injecting or while disabled.
        progress: what the progress bars say; none if empty.

    Raises:
        DataError: no rows, or features that are not finite.
    """
    with evaluating(model):
        x, x_test = (
            _features(model, rows, precision=precision, pad_token_id=pad_token_id, batch_tokens=batch_tokens, progress=progress)
            for rows in (train, test)
        )
    classes = int(model.config.num_labels)
    pooling, penalty = _best_pair(x, train.labels, classes)
    return _log_probabilities(x[:, pooling], train.labels, x_test[:, pooling], classes=classes, penalty=penalty)


def _features(model: Any, encoded: Encoded, **walk: Any) -> Tensor:
    """The encoder's output at the first token, and its mean over the row's tokens. Shape: (n, 2, width)."""

    def poolings(batch: Batch) -> Tensor:
        hidden: Tensor = model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        real = batch.attention_mask[:, None].to(hidden.dtype)  # (B, 1, T)
        mean = (real @ hidden).squeeze(1) / real.sum(-1)  # (B, width)
        return torch.stack([hidden[:, 0], mean], 1)  # (B, 2, width)

    features = map_rows(poolings, encoded, **walk)
    if not features.isfinite().all():
        raise DataError("features that are not finite", where="linear probe", remedy="use --precision fp32")
    return features


def _best_pair(x: Tensor, labels: Tensor, classes: int) -> tuple[int, float]:
    """The pooling and the C with the lowest loss on a fifth of the rows. Shape: x (n, 2, width), labels (n,)."""
    if len(x) < TOO_FEW_ROWS:
        return 0, PENALTIES[0]
    order = torch.randperm(len(x), generator=named_generator(0, "linear probe"))
    aside, rest = order[: len(x) // 5], order[len(x) // 5 :]

    def loss(pair: tuple[int, float]) -> float:
        pooling, penalty = pair
        found = _log_probabilities(x[rest, pooling], labels[rest], x[aside, pooling], classes=classes, penalty=penalty)
        return measure(found, labels[aside]).loss

    return min(product(range(x.shape[1]), PENALTIES), key=loss)


def _log_probabilities(x: Tensor, labels: Tensor, x_test: Tensor, *, classes: int, penalty: float) -> Tensor:
    """Shape: x (n, width), labels (n,), x_test (m, width) -> (m, C)."""
    seen = labels.bincount().nonzero().flatten()  # sorted, as scikit-learn sorts its columns
    log_probability = torch.full((len(x_test), classes), -math.log(len(x)))
    # not the log of predict_proba, which underflows to -inf
    log_probability[:, seen] = F.log_softmax(_scores(x, labels, x_test, penalty) if len(seen) > 1 else x_test[:, :1], -1)
    return F.log_softmax(log_probability, -1)


def _scores(x: Tensor, labels: Tensor, x_test: Tensor, penalty: float) -> Tensor:
    """W z + b for every class that `labels` has, two or more. Shape: -> (m, classes seen)."""
    regression = LogisticRegression(C=penalty, max_iter=MAX_ITERATIONS)
    fitted = make_pipeline(StandardScaler(), regression).fit(x.numpy(), labels.numpy())
    scores = torch.as_tensor(fitted.decision_function(x_test.numpy()), dtype=torch.float32)
    if scores.dim() == 1:  # of two classes scikit-learn gives the second's score alone; the first's is 0
        scores = torch.stack([torch.zeros_like(scores), scores], 1)
    return scores
