r"""Where the head starts: as the model came, or fitted to the frozen features first.

A head with random first values sends the adapter gradients that mean nothing until it has been learnt itself, and by then
the adapter has moved in their directions. A softmax regression from the head's own inputs to the labels (regression.py)
takes seconds, and is where linear probing would end:

    logits = W h + b        h: the inputs of the head's last layer, of the frozen model, for up to ROWS training rows

B is zero at that moment, so the adapted model starts as this probe, and the adapter improves on it from the first step.
Worth, MiniLM on emotion, rank 8 on query, key and value, one epoch at 3e-3: 0.915 on validation in place of 0.871.

Source: Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution,
arXiv:2202.10054, section 3.4 (linear probing, then fine-tuning).
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from ..data import Batch, Encoded
from ..errors import ConfigError
from ..evaluation import Predictor
from ..evaluation.regression import fit_regression
from ..model.base import output_layer
from ..model.forward import classify, evaluating
from ..runtime.distributed import broadcast, is_main
from ..runtime.seeds import named_generator
from .config import LOADED

ROWS = 2048  # 1,000 to 16,000 of emotion's rows end within the noise of each other


def start_head(predictor: Predictor, train_set: Encoded, *, seed: int) -> int:
    """Put the regression's W and b into the last linear layer of the head; how many rows it was fitted to.

    Args:
        predictor: of a sequence classifier, whose mode is left as it was.
        seed: of the choice of rows.

    Raises:
        ConfigError: the model has no linear output layer, or it is frozen. DataError: features that are not finite.
    """
    layer = _trained_output_layer(predictor.model)
    chosen = torch.randperm(len(train_set), generator=named_generator(seed, "head start"))[:ROWS]
    rows = train_set.select(chosen.tolist())
    features = _inputs_of(layer, predictor, rows)
    fitted = {}
    if is_main():  # elsewhere a library may round otherwise, and all processes have to start alike
        _, found = fit_regression([features], rows.labels.cpu(), classes=layer.out_features)
        fitted = {"weight": found.weight, "bias": found.bias}
    fitted = load(broadcast(save(fitted)))
    with torch.no_grad():
        layer.weight.copy_(fitted["weight"])
        if layer.bias is not None:
            layer.bias.copy_(fitted["bias"])
    return len(rows)


def _trained_output_layer(model: Any) -> nn.Linear:
    name = output_layer(model)
    if name is None:
        raise ConfigError("the model's head has no linear output layer", where="--head_start probe", remedy=f"use {LOADED}")
    layer: nn.Linear = model.get_submodule(name)
    if not layer.weight.requires_grad:
        raise ConfigError(f"{name} is frozen", where="--head_start probe", remedy=f"train the head too, or use {LOADED}")
    return layer


def _inputs_of(layer: nn.Linear, predictor: Predictor, rows: Encoded) -> Tensor:
    """What `layer` is given for each row, in evaluation. Shape: (n, in)."""
    seen: list[Tensor] = []

    def inputs(batch: Batch) -> Tensor:
        """Of one batch; the logits that they lead to are of no use."""
        classify(predictor.model, batch)
        return seen.pop()

    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].float()))
    try:
        with evaluating(predictor.model):
            return predictor.map_rows(inputs, rows)
    finally:
        hook.remove()
