"""What the frozen features alone can do: a linear classifier on top of the untouched encoder.

The rung below LoRA: what the adapter gains over it is what changing the features gained, not what a new head gained.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import Batch, Encoded
from ..errors import DataError
from ..model.forward import evaluating
from .predict import Predictor
from .regression import fit_regression


def linear_probe(predictor: Predictor, train: Encoded, test: Encoded, *, progress: str = "") -> Tensor:
    """log softmax(W z + b) of the test rows, with z the standardized frozen features and W, b fitted to the training rows.

    The features are the encoder's last hidden state, either at the first token ([CLS]), where the heads of DistilBERT,
    BERT, RoBERTa and ELECTRA read, or as the mean over the row's tokens, which is stronger where nothing has trained [CLS].
    Of the two it takes the one that tells more about a fifth of the training rows (regression.py): a probe with the weaker
    one would be too easy to beat. A class without a training row gets about the probability of one row in the training set,
    so that its loss is finite.

    Shape: -> (n, C) float32, row i for row i of `test`; C is the model's number of labels.

    Args:
        predictor: of the model as it is now, so probe before injecting or while disabled.
        progress: what the progress bars say; none if empty.

    Raises:
        DataError: no rows, or features that are not finite.
    """
    model = predictor.model
    with evaluating(model):
        features, of_test = (_features(predictor, rows, progress=progress) for rows in (train, test))
    kind, found = fit_regression(features, train.labels, classes=int(model.config.num_labels))
    return found.log_probabilities(of_test[kind])


def _features(predictor: Predictor, encoded: Encoded, *, progress: str) -> tuple[Tensor, ...]:
    """The encoder's output at the first token, and its mean over the row's tokens. Shape: (n, width) each."""

    model = predictor.model

    def poolings(batch: Batch) -> Tensor:
        hidden: Tensor = model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        real = batch.attention_mask[:, None].to(hidden.dtype)  # (B, 1, T)
        mean = (real @ hidden).squeeze(1) / real.sum(-1)  # (B, width)
        return torch.stack([hidden[:, 0], mean], 1)  # (B, 2, width)

    features = predictor.map_rows(poolings, encoded, progress=progress)
    if not features.isfinite().all():
        raise DataError("features that are not finite", where="linear probe", remedy="use --precision fp32")
    return features.unbind(1)
