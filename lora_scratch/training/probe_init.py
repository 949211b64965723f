r"""Fit the head to the frozen features before training.

A head with random values gives the adapter meaningless gradients until it has learned itself. A
linear model from the head's inputs to the labels (tasks/linear.py) takes seconds:

    logits = W h + b        h: inputs of the head's last layer, for up to ROWS training rows

B is zero at that moment, so training starts from this linear probe. A number starts from its mean
(tasks/regression.py).
Worth: MiniLM on emotion, rank 8 on query, key and value, one epoch at 3e-3: 0.915 on validation
instead of 0.871.

Source: Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution, arXiv:2202.10054, section 3.4 (linear probing, then fine-tuning).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from ..data import Encoded
from ..errors import ConfigError, DataError
from ..evaluation import Predictor
from ..model.base import output_layer
from ..model.forward import classify, evaluating
from ..runtime.distributed import broadcast, is_main
from ..runtime.seeds import named_generator
from ..tasks import Task
from .config import LOADED, PROBE

PLACE = f"--head_start {PROBE}"
ROWS = 2048  # 1,000 to 16,000 rows of emotion give the same accuracy within the noise


def fit_head(predictor: Predictor, train_set: Encoded, task: Task, *, seed: int) -> int:
    """Replace weight and bias of the head's last layer by the linear model's. Return the rows used.

    Args:
        seed: of the choice of rows.

    Raises:
        ConfigError: the model has no linear output layer, or it is frozen.
        DataError: the fit fails, for example on features that are not finite.
    """
    name = _trained_output_layer(predictor.model)
    layer = predictor.model.get_submodule(name)
    generator = named_generator(seed, "head start")
    rows = train_set.select(torch.randperm(len(train_set), generator=generator)[:ROWS].tolist())
    features = _inputs_of(name, predictor, rows)
    # all processes need the same bits, and libraries may round differently
    own = _fit(task, features, rows.labels.cpu(), layer.weight.detach().float().cpu()) if is_main() else {}
    fitted = load(broadcast(save(own)))
    if not fitted:
        raise DataError("a linear model of the features can't be fitted", where=PLACE, remedy=f"use {LOADED}")
    with torch.no_grad():
        layer.weight.copy_(fitted["weight"])
        if layer.bias is not None:
            layer.bias.copy_(fitted["bias"])
    return len(rows)


def _fit(task: Task, features: Tensor, labels: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Return weight and bias; nothing if the fit fails, so that all processes learn of it."""
    try:
        linear = task.head_start(features, labels, weight)
    except ValueError:  # scikit-learn's, for values that are not finite or too large
        return {}
    values = {"weight": linear.weight.clone(), "bias": linear.bias}
    return values if all(value.isfinite().all() for value in values.values()) else {}


def _trained_output_layer(model: Any) -> str:
    name = output_layer(model)
    if name is None:
        problem = "the model's head has no linear output layer"
        raise ConfigError(problem, where=PLACE, remedy=f"use {LOADED}")
    if not model.get_submodule(name).weight.requires_grad:
        remedy = f"train the head too, or use {LOADED}"
        raise ConfigError(f"{name} is frozen", where=PLACE, remedy=remedy)
    return name


def _inputs_of(name: str, predictor: Predictor, rows: Encoded) -> Tensor:
    """Return the input of the output layer for every row, in evaluation mode. Shape: (n, in).

    They are the logits of the model with the identity as its output layer: a decoder applies that
    layer to every token, and takes one token's output or their mean afterwards.
    """
    model = predictor.model
    parent, _, child = name.rpartition(".")
    owner, layer = model.get_submodule(parent), model.get_submodule(name)
    setattr(owner, child, nn.Identity())
    try:
        with evaluating(model):
            return predictor.map_rows(partial(classify, model), rows)
    finally:
        setattr(owner, child, layer)
