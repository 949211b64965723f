"""The linear probe: a linear classifier on the features of the frozen encoder.

What an adapter gains over the probe comes from changed features, not from a new head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import Batch, Encoded
from ..errors import DataError
from ..model.forward import evaluating
from ..tasks import task_of
from .predict import Predictor


def linear_probe(predictor: Predictor, train: Encoded, test: Encoded, *, progress: str = "") -> Tensor:
    """Return W z + b of the test rows; z are the features, W and b fit `train`.

    The features are the encoder's last hidden state at the first token ([CLS]), which the heads of
    DistilBERT, BERT, RoBERTa and ELECTRA read, or its mean over the row's tokens, which is stronger if
    [CLS] was not trained. The probe takes the one with the lower loss on a fifth of the training rows
    (tasks/linear.py). A class without a training row gets about the probability of one row.

    Shape: -> (n, C) float32, row i for row i of `test`; C is the model's number of labels.

    Args:
        predictor: its model must be the base: probe before `inject`, or with the adapter disabled.
        progress: the text of the progress bars; no bars if empty.
    """
    model = predictor.model
    with evaluating(model):
        features, test_features = (frozen_features(predictor, rows, progress=progress) for rows in (train, test))
    kind, linear = task_of(model).fit_linear(features, train.labels)
    return linear(test_features[kind])


def frozen_features(predictor: Predictor, encoded: Encoded, *, progress: str = "") -> tuple[Tensor, ...]:
    """Return the hidden state at the first token, and its mean over the row's tokens. Shape: (n, width) each."""
    model = predictor.model

    def poolings(batch: Batch) -> Tensor:
        hidden: Tensor = model.base_model(**batch.inputs).last_hidden_state
        real = batch.attention_mask[:, None].to(hidden.dtype)  # (B, 1, T)
        mean = (real @ hidden).squeeze(1) / real.sum(-1)  # (B, width)
        return torch.stack([hidden[:, 0], mean], 1)  # (B, 2, width)

    features = predictor.map_rows(poolings, encoded, progress=progress)
    if not features.isfinite().all():
        raise DataError("features that are not finite", where="linear probe", remedy="use --precision fp32")
    return features.unbind(1)
