"""EVA: start A at the directions in which the inputs of a layer vary most.

Source: Paischer et al. 2024, One Initialization to Rule them All: Fine-tuning via Explained
    Variance Adaptation, arXiv:2410.07170. Here every layer keeps the rank of the config.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers import PrincipalInputs
from ..model.forward import evaluating
from .state import adapter_layers

Batch = Mapping[str, Any]  # keyword arguments of the model's forward


@torch.no_grad()
def start_from_inputs(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Set A of every adapter layer to the first right singular vectors of its inputs. B stays zero.

    Padding does not count. If the inputs span fewer directions than the rank, raise ConfigError.
    """
    layers = adapter_layers(model)
    principal = {name: PrincipalInputs(layer.rank) for name, layer in layers.items()}
    with evaluating(model):
        for batch in batches:
            _add_inputs(model, batch, principal)
    for name, layer in layers.items():
        lora_A = layer.adapter_tensors()["lora_A.weight"]
        try:
            lora_A.copy_(principal[name].directions())
        except ValueError as error:
            raise ConfigError(str(error), where=f"init eva, {name}") from error


def _add_inputs(model: nn.Module, batch: Batch, principal: dict[str, PrincipalInputs]) -> None:
    mask = batch.get("attention_mask")

    def add(inputs: PrincipalInputs, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs.add(_unpadded(args[0], mask))

    hooks = []
    try:
        for name, inputs in principal.items():
            layer = model.get_submodule(name)
            hooks.append(layer.register_forward_pre_hook(partial(add, inputs)))
        model(**batch)
    finally:
        for hook in hooks:
            hook.remove()


def _unpadded(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Return the rows of real tokens (n, in) of inputs (B, T, in), or other inputs unchanged."""
    if mask is None or inputs.shape[:-1] != mask.shape:
        return inputs
    return inputs[mask.bool()]
