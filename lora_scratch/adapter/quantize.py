"""Four bits for the frozen base: every linear layer outside the head.

report = quantize_base(model)       # before inject; print(report) shows memory and errors
inject(model, config)               # the adapter learns on the quantized base
dequantize_base(model)              # plain linear layers with the quantized numbers, for a merge
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import ConfigError
from ..layers import NF4Linear
from ..model.families import default_heads
from ..model.language import language_heads
from .saving import update_saving
from .state import is_adapted
from .targets import is_inside, shared_names

FULL, NF4 = BASE_PRECISIONS = ("full", "nf4")


@dataclass(frozen=True)
class QuantizationReport:
    """The effect of four bits on the weights W, which become Ŵ. `str(report)` is one line.

    Args:
        names: of the quantized layers.
        parameters: the number of quantized weights.
        bytes_before: their size as they were stored.
        relative_error: ‖Ŵ − W‖ / ‖W‖ of all weights together (Frobenius).
        largest_error: max |Ŵ − W|.
    """

    names: tuple[str, ...]
    parameters: int
    bytes_before: int
    bytes_after: int
    relative_error: float
    largest_error: float

    @property
    def share_of_float32(self) -> float:
        """The size in bytes over the size in float32."""
        return self.bytes_after / (4 * self.parameters)

    def summary(self) -> dict[str, float]:
        """Return the figures for JSON."""
        return {
            "layers": len(self.names),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "share_of_float32": self.share_of_float32,
            "relative_error": self.relative_error,
            "largest_error": self.largest_error,
        }

    def __str__(self) -> str:
        size = f"{self.bytes_before / 1e6:,.1f} MB -> {self.bytes_after / 1e6:,.1f} MB"
        error = f"relative error {self.relative_error:.3f}, largest {self.largest_error:.2g}"
        share = f"{self.share_of_float32:.3f} of float32"
        return f"{len(self.names)} linear layers in 4 bits: {size}, {share}; {error}"


def quantize_base(model: nn.Module, *, heads: Sequence[str] | None = None) -> QuantizationReport:
    """Replace every `nn.Linear` outside the head modules by its NF4 version, in place.

    Embeddings, norms and biases stay. So do a linear layer with a tied weight and a language model's
    output layer.

    Args:
        heads: the modules to be trained in full; by default those outside the encoder.

    Raises:
        ConfigError: a model that is adapted or quantized already or has nothing to quantize, or a
            weight that is not finite. The model is unchanged.
    """
    if is_adapted(model) or base_precision(model) == NF4:
        fault = "the model is adapted or quantized already"
        raise ConfigError(fault, where="quantize_base", expected="a plain model")
    excluded = [*(default_heads(model) if heads is None else heads), *language_heads(model)]
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    linears = {name: m for name, m in linears.items() if not is_inside(name, excluded)}
    linears = {name: m for name, m in linears.items() if not shared_names(model, name)}
    if not linears:
        raise ConfigError("there is no linear layer outside the head", where="quantize_base")
    quantized = {name: _quantized(name, linear) for name, linear in linears.items()}
    report = _compare(linears, quantized)
    for name, layer in quantized.items():
        model.set_submodule(name, layer.train(linears[name].training))
    update_saving(model)
    return report


def dequantize_base(model: nn.Module) -> list[str]:
    """Replace four-bit layers by `nn.Linear`s with the quantized numbers in float32, in place.

    The model's outputs stay. The precision that was lost does not come back.

    Returns:
        The names of the layers; an empty list if nothing was quantized.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, NF4Linear)}
    for name, layer in layers.items():
        linear = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(layer.weight, requires_grad=False)
        linear.bias = layer.bias
        model.set_submodule(name, linear.train(layer.training))
    update_saving(model)
    return list(layers)


def base_precision(model: nn.Module) -> str:
    """Return `nf4` if a layer of the model is in four bits, else `full`."""
    return NF4 if any(isinstance(module, NF4Linear) for module in model.modules()) else FULL


def _quantized(name: str, linear: nn.Linear) -> NF4Linear:
    try:
        return NF4Linear(linear)
    except ValueError as error:
        raise ConfigError(str(error), where=name) from error


@torch.no_grad()
def _compare(linears: dict[str, nn.Linear], layers: dict[str, NF4Linear]) -> QuantizationReport:
    errors, norms, largest = [], [], 0.0
    for name, linear in linears.items():
        weight = linear.weight.float()
        difference = layers[name].weight - weight
        errors.append(float(difference.norm()))
        norms.append(float(weight.norm()))
        largest = max(largest, float(difference.abs().max()))
    return QuantizationReport(
        tuple(linears),
        parameters=sum(linear.weight.numel() for linear in linears.values()),
        bytes_before=sum(linear.weight.nbytes for linear in linears.values()),
        bytes_after=sum(layer.stored_bytes for layer in layers.values()),
        relative_error=math.hypot(*errors) / (math.hypot(*norms) or 1.0),
        largest_error=largest,
    )
