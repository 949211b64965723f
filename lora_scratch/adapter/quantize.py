"""Four bits for the frozen base: every linear layer outside the head, before the adapter goes in; and the way back.

report = quantize_base(model)       # in place; print(report) says what it saves and what it costs
inject(model, config)               # the adapter learns on the quantized base
dequantize_base(model)              # plain linear layers again, with the quantized numbers: now merging is possible
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
from .state import is_adapted
from .targets import shared_names

FULL, NF4 = BASE_PRECISIONS = ("full", "nf4")


@dataclass(frozen=True)
class QuantizedLayer:
    """What four bits did to one weight W, now Ŵ.

    Args:
        bytes_before: of W as it was stored; float32 would take 4 · parameters.
        error: ‖Ŵ − W‖ in the Frobenius norm, and `norm` is ‖W‖.
        largest_error: max |Ŵ − W|.
    """

    name: str
    parameters: int
    bytes_before: int
    bytes_after: int
    error: float
    norm: float
    largest_error: float


@dataclass(frozen=True)
class QuantizationReport:
    """What four bits did to a model. `str(report)` is one line."""

    layers: tuple[QuantizedLayer, ...]

    @property
    def share_of_float32(self) -> float:
        """Bytes of the quantized weights over what they take in float32."""
        return sum(each.bytes_after for each in self.layers) / (4 * sum(each.parameters for each in self.layers))

    @property
    def relative_error(self) -> float:
        """‖Ŵ − W‖ / ‖W‖ over all quantized weights together."""
        return math.hypot(*(each.error for each in self.layers)) / (math.hypot(*(each.norm for each in self.layers)) or 1.0)

    def summary(self) -> dict[str, float]:
        """The figures of the whole, for JSON."""
        return {
            "layers": len(self.layers),
            "bytes_before": sum(each.bytes_before for each in self.layers),
            "bytes_after": sum(each.bytes_after for each in self.layers),
            "share_of_float32": self.share_of_float32,
            "relative_error": self.relative_error,
            "largest_error": max(each.largest_error for each in self.layers),
        }

    def __str__(self) -> str:
        return (
            "{layers} linear layers in 4 bits: {before:,.1f} MB -> {after:,.1f} MB, {share_of_float32:.3f} of float32; "
            "relative error {relative_error:.3f}, largest {largest_error:.2g}"
        ).format(before=self.summary()["bytes_before"] / 1e6, after=self.summary()["bytes_after"] / 1e6, **self.summary())


def quantize_base(model: nn.Module, *, heads: Sequence[str] | None = None) -> QuantizationReport:
    """Replace every `nn.Linear` outside the head modules by its NF4 version, in place.

    Embeddings, norms and biases stay; so does a linear layer that shares its weight with another module.

    Args:
        heads: the modules that are to be trained in full; by default those outside the encoder.

    Raises:
        ConfigError: an adapted model, one that is quantized already, one with nothing to quantize, a weight that is not
            finite. The model is as it was then.
    """
    if is_adapted(model) or base_precision(model) == NF4:
        raise ConfigError("the model is adapted or quantized already", where="quantize_base", expected="a plain model")
    outside = tuple(default_heads(model) if heads is None else heads)
    linears = {name: m for name, m in model.named_modules() if type(m) is nn.Linear and not _inside(name, outside)}
    made = {name: _quantized(name, linear) for name, linear in linears.items() if not shared_names(model, name)}
    if not made:
        raise ConfigError("there is no linear layer outside the head", where="quantize_base")
    report = QuantizationReport(tuple(_compare(name, linears[name], layer) for name, layer in made.items()))
    for name, layer in made.items():
        model.set_submodule(name, layer.train(linears[name].training))
    return report


def dequantize_base(model: nn.Module) -> list[str]:
    """Replace every four-bit layer, adapted or not, by an `nn.Linear` with the quantized numbers in float32, in place.

    The model computes what it did. What was lost in quantizing stays lost.

    Returns:
        The names of the layers; none if nothing was quantized.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, NF4Linear)}
    for name, layer in found.items():
        linear = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(layer.weight, requires_grad=False)
        linear.bias = layer.bias
        model.set_submodule(name, linear.train(layer.training))
    return list(found)


def base_precision(model: nn.Module) -> str:
    """`nf4` if a layer of the model is in four bits, else `full`."""
    return NF4 if any(isinstance(module, NF4Linear) for module in model.modules()) else FULL


def _inside(name: str, heads: Sequence[str]) -> bool:
    return any(name == head or name.startswith(f"{head}.") for head in heads)


def _quantized(name: str, linear: nn.Linear) -> NF4Linear:
    try:
        return NF4Linear(linear)
    except ValueError as error:
        raise ConfigError(str(error), where=name) from error


@torch.no_grad()
def _compare(name: str, linear: nn.Linear, layer: NF4Linear) -> QuantizedLayer:
    weight = linear.weight.float()
    difference = layer.weight - weight
    return QuantizedLayer(
        name,
        parameters=weight.numel(),
        bytes_before=linear.weight.nbytes,
        bytes_after=layer.stored_bytes,
        error=float(difference.norm()),
        norm=float(weight.norm()),
        largest_error=float(difference.abs().max()),
    )
