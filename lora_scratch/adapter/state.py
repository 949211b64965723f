"""What `inject` remembers about a model, and how to find the parts of an adapted one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..errors import ConfigError
from ..layers import AdapterLayer

if TYPE_CHECKING:
    from .config import LoRAConfig


@dataclass(frozen=True)
class AdapterState:
    """What the way back needs: kept on the model under one attribute, made by `inject` alone.

    Args:
        config: with targets and head modules resolved to what was asked for or what the family's preset says.
        seed: of the adapter's random initialization.
        trained_base: the first value of every base tensor that training changes (head, biases), by its name in the base.
        required_grad: what `requires_grad` was, by parameter name of the base.
    """

    config: LoRAConfig
    seed: int
    trained_base: dict[str, Tensor]
    required_grad: dict[str, bool]


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters. `lora`, `head` and `bias` are trainable, told apart: a dense head often dwarfs the adapter."""

    total: int
    trainable: int
    lora: int
    head: int
    bias: int = 0


def is_adapted(model: nn.Module) -> bool:
    """Whether `inject` or `load_adapter` has been here."""
    return isinstance(getattr(model, "_adapter_state", None), AdapterState)


def adapter_state(model: nn.Module) -> AdapterState:
    """The record that `inject` left.

    Raises:
        ConfigError: the model has no adapter.
    """
    if not is_adapted(model):
        raise ConfigError(
            "the model has no adapter", remedy="call inject(model, config) or load_adapter(model, folder) first"
        )
    return model._adapter_state  # type: ignore[return-value]


def adapter_layers(model: nn.Module) -> dict[str, AdapterLayer]:
    """The adapter layers by module name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdapterLayer)}


def base_name(name: str, layers: dict[str, AdapterLayer]) -> str:
    """The name that a parameter of an adapted model has in the base: `q_lin.base.weight` is `q_lin.weight` there."""
    module, _, tensor = name.rpartition(".")
    layer = module.removesuffix(".base")
    return f"{layer}.{tensor}" if module != layer and layer in layers else name


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, the live ones, under the names that they have in the base; the adapter's keep theirs."""
    layers = adapter_layers(model)
    return {base_name(name, layers): t for name, t in (*model.named_parameters(), *model.named_buffers())}


def trained_biases(model: nn.Module) -> dict[str, Tensor]:
    """The biases that are trained by the `bias` setting, outside the head, under the names that they have in the base."""
    state = adapter_state(model)
    heads = tuple(f"{head}." for head in state.config.head_modules or [])
    tensors = base_tensors(model)
    return {name: tensors[name] for name in state.trained_base if not name.startswith(heads)}


def count_parameters(model: nn.Module) -> ParameterCount:
    """Total, trainable, and the trainable ones apart: in adapter layers (`lora`), biases of the base, the rest (`head`)."""
    adapters = (layer.adapter_tensors().values() for layer in adapter_layers(model).values())
    lora = sum(p.numel() for tensors in adapters for p in tensors if p.requires_grad)
    bias = sum(t.numel() for t in trained_biases(model).values()) if is_adapted(model) else 0
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # a four-bit weight is in buffers, and a parameter of the model all the same
    quantized = sum(getattr(module, "quantized_entries", 0) for module in model.modules())
    total = sum(p.numel() for p in model.parameters()) + quantized
    return ParameterCount(total, trainable, lora, trainable - lora - bias, bias)
