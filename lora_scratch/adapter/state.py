"""What `inject` records about a model, and how to find the parts of an adapted model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..errors import ConfigError
from ..layers import AdapterLayer
from ..model.wrappers import named_modules, named_parameters, plain_name, unwrapped

if TYPE_CHECKING:
    from .config import LoRAConfig


@dataclass(frozen=True)
class AdapterState:
    """What is needed to remove an adapter. `inject` makes it and keeps it on the model.

    Args:
        config: with the targets and head modules of this model.
        seed: of the adapter's random initialization.
        trained_base: the first values of head and trained biases, by their names in the base.
        required_grad: the former `requires_grad` of the base's parameters, by name.
    """

    config: LoRAConfig
    seed: int
    trained_base: dict[str, Tensor]
    required_grad: dict[str, bool]


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters. `lora`, `head` and `bias` are the trainable ones."""

    total: int
    trainable: int
    lora: int
    head: int
    bias: int = 0


def is_adapted(model: nn.Module) -> bool:
    """Return whether the model has an adapter, from `inject` or `load_adapter`."""
    return isinstance(getattr(unwrapped(model), "_adapter_state", None), AdapterState)


def adapter_state(model: nn.Module) -> AdapterState:
    """Return the record of `inject`. Raise ConfigError for a model without an adapter."""
    if not is_adapted(model):
        remedy = "call inject(model, config) or load_adapter(model, folder) first"
        raise ConfigError("the model has no adapter", remedy=remedy)
    state: AdapterState = unwrapped(model)._adapter_state
    return state


def adapter_layers(model: nn.Module) -> dict[str, AdapterLayer]:
    """Return the adapter layers by module name, in the model's order."""
    return {name: m for name, m in named_modules(model).items() if isinstance(m, AdapterLayer)}


def base_name(name: str, layers: dict[str, AdapterLayer]) -> str:
    """Return a parameter's name in the base: `q_lin.base.weight` is `q_lin.weight` there."""
    module, _, tensor = name.rpartition(".")
    layer = module.removesuffix(".base")
    return f"{layer}.{tensor}" if module != layer and layer in layers else name


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers by their names in the base. Adapter tensors keep theirs."""
    layers = adapter_layers(model)
    buffers = {plain_name(name): buffer for name, buffer in unwrapped(model).named_buffers()}
    named: dict[str, Tensor] = {**named_parameters(model), **buffers}
    return {base_name(name, layers): tensor for name, tensor in named.items()}


def first_values(model: nn.Module) -> dict[str, Tensor]:
    """Return the first values of head and trained biases, by their names in the base.

    Raises:
        ConfigError: a tensor has another shape by now, as after `resize_token_embeddings`.
    """
    state, tensors = adapter_state(model), base_tensors(model)
    for name, first in state.trained_base.items():
        shape = tuple(tensors[name].shape) if name in tensors else "gone"
        if shape != tuple(first.shape):
            fault = f"it is {shape}, and was {tuple(first.shape)} when the adapter was injected"
            remedy = "change the model before inject, or end with merge_and_remove(model)"
            raise ConfigError(fault, where=name, remedy=remedy)
    return state.trained_base


def trained_biases(model: nn.Module) -> dict[str, Tensor]:
    """Return the biases that the `bias` setting trains, by their names in the base."""
    state = adapter_state(model)
    heads = tuple(f"{head}." for head in state.config.head_modules or [])
    tensors = base_tensors(model)
    return {name: tensors[name] for name in state.trained_base if not name.startswith(heads)}


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count all parameters, and the trainable ones in adapter layers, head and biases."""
    adapters = (layer.adapter_tensors().values() for layer in adapter_layers(model).values())
    lora = sum(p.numel() for tensors in adapters for p in tensors if p.requires_grad)
    bias = sum(t.numel() for t in trained_biases(model).values()) if is_adapted(model) else 0
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # four-bit weights are buffers for torch
    quantized = sum(getattr(module, "quantized_entries", 0) for module in model.modules())
    total = sum(p.numel() for p in model.parameters()) + quantized
    return ParameterCount(total, trainable, lora, trainable - lora - bias, bias)
