"""The linear probe: a linear classifier on the features of the frozen encoder.

What an adapter gains over the probe comes from changed features, not from a new head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import Batch, Encoded
from ..errors import DataError
from ..model.families import family_of
from ..model.forward import classify, evaluating, pad_as_family
from ..tasks import task_of
from .predict import Predictor


def linear_probe(predictor: Predictor, train: Encoded, test: Encoded, *, progress: str = "") -> Tensor:
    """Return W z + b of the test rows; z are the features, W and b fit `train`.

    The features are the encoder's last hidden state at the token that the family's head reads, the
    first ([CLS]) or the last one, or its mean over the row's tokens, which is stronger if [CLS] was
    not trained. The probe takes the one with the lower loss on a fifth of the training rows
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
    """Return the hidden state at the token that the head reads, and its mean over the row's tokens.

    Shape: (n, width) each.
    """
    model = predictor.model
    states: list[Tensor] = []

    def poolings(batch: Batch) -> Tensor:
        """Return both features of one batch. Its logits are not used. Shape: -> (B, 2, width)."""
        classify(model, batch)
        return _poolings(model, states.pop(), pad_as_family(model, batch.inputs)["attention_mask"])

    hook = model.base_model.register_forward_hook(lambda *args: states.append(args[2][0]))
    try:
        features = predictor.map_rows(poolings, encoded, progress=progress)
    finally:
        hook.remove()
    if not features.isfinite().all():
        raise DataError("features that are not finite", where="linear probe", remedy="use --precision fp32")
    return features.unbind(1)


def _poolings(model: nn.Module, hidden: Tensor, mask: Tensor) -> Tensor:
    """Shape: hidden (B, T, width), mask (B, T) -> (B, 2, width)."""
    if hidden.shape[1] != mask.shape[1]:  # Funnel joins tokens; the first one stays
        return torch.stack([hidden[:, 0]] * 2, 1)
    family = family_of(model)
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask  # (B, T); 0 for padding
    read = place.argmax(1) if family is not None and family.reads_last else mask.argmax(1)  # (B,)
    real = mask[:, None].to(hidden.dtype)  # (B, 1, T)
    mean = (real @ hidden).squeeze(1) / real.sum(-1)  # (B, width)
    return torch.stack([hidden[torch.arange(len(hidden), device=read.device), read], mean], 1)
