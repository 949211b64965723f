"""EVA: start A at the directions in which the inputs of each layer vary most, found by running some batches.

Source: Paischer et al. 2024, One Initialization to Rule them All: Fine-tuning via Explained Variance Adaptation,
    arXiv:2410.07170. Its redistribution of ranks between layers is left out: every layer keeps the rank of the config.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers import PrincipalInputs
from ..model.forward import evaluating
from .state import adapter_layers


@torch.no_grad()
def start_from_inputs(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
    """A of every adapter layer = the first right singular vectors of what it was fed; B stays zero, so the model the base.

    Args:
        batches: keyword arguments of the model's forward; where there is an `attention_mask`, padding does not count.

    Raises:
        ConfigError: a layer whose inputs span fewer directions than its rank.
    """
    layers = adapter_layers(model)
    seen = {name: PrincipalInputs(layer.rank) for name, layer in layers.items()}
    with evaluating(model):
        for batch in batches:
            _watch(model, batch, seen)
    for name, layer in layers.items():
        lora_A = layer.adapter_tensors()["lora_A.weight"]
        try:
            lora_A.copy_(seen[name].directions())
        except ValueError as error:
            raise ConfigError(str(error), where=f"init eva, {name}") from error


def _watch(model: nn.Module, batch: Mapping[str, Any], seen: dict[str, PrincipalInputs]) -> None:
    mask = batch.get("attention_mask")
    hooks = []
    try:
        for name, inputs in seen.items():

            def add(_: nn.Module, args: tuple[Tensor, ...], inputs: PrincipalInputs = inputs) -> None:
                inputs.add(_unpadded(args[0], mask))

            hooks.append(model.get_submodule(name).register_forward_pre_hook(add))
        model(**batch)
    finally:
        for hook in hooks:
            hook.remove()


def _unpadded(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """The rows of real tokens, (n, in). Shape: inputs (B, T, in) with mask (B, T); others are taken whole."""
    if mask is None or inputs.shape[:-1] != mask.shape:
        return inputs
    return inputs[mask.bool()]
