"""Switch an adapter off, partly off or stronger, or merge it.

The contexts restore the model exactly, also after an exception.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import ConfigError, MergeError
from ..layers import AdapterLayer
from .config import LARGEST_ALPHA
from .head_dtype import base_dtypes
from .inject import forget_adapter, replace_module
from .state import adapter_layers, adapter_state, base_tensors, first_values


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Turn the model into its base, bit for bit: adapter off, head and biases as before training.

    The model can be merged: the merged weights are not used.
    """
    first_of, tensors = first_values(model), base_tensors(model)
    trained = {name: tensors[name].data for name in first_of}
    dtypes = base_dtypes(model)
    try:
        for name, first in first_of.items():
            tensors[name].data = first.to(trained[name].device, dtypes.get(name, trained[name].dtype))
        with _changed(dict.fromkeys(adapter_layers(model).values(), False), "enabled"):
            yield model
    finally:
        for name, data in trained.items():
            tensors[name].data = data


@contextmanager
def without(model: nn.Module, names: Collection[str]) -> Iterator[nn.Module]:
    """Switch off the adapters of these layers. Raise ConfigError for an unknown name."""
    layers = adapter_layers(model)
    if unknown := [name for name in names if name not in layers]:
        fault = f"{unknown[0]!r} is no adapted layer"
        raise ConfigError(fault, where="without", expected=", ".join(layers))
    with _changed({layers[name]: False for name in names}, "enabled"):
        yield model


@contextmanager
def scaled(model: nn.Module, factor: float) -> Iterator[nn.Module]:
    """Multiply the scaling of every layer by `factor`: 0 is no update, 1 the update as trained.

    Trained heads and biases and DoRA's magnitudes stay as they are.

    Raises:
        MergeError: a merged model. Its weights hold the update at full strength.
        ConfigError: a factor that is not finite, or too large for float32.
    """
    layers = adapter_layers(model)
    if merged := [name for name, layer in layers.items() if layer.merged]:
        remedy = "call unmerge_all(model) first"
        raise MergeError("it is merged at full strength", where=merged[0], remedy=remedy)
    scalings = {layer: layer.scaling * factor for layer in layers.values()}
    if not all(abs(scaling) <= LARGEST_ALPHA for scaling in scalings.values()):  # NaN is not
        raise ConfigError(f"factor is {factor}", where="scaled", expected=f"a finite number, at most {LARGEST_ALPHA:g}")
    with _changed(scalings, "scaling"):
        yield model


@contextmanager
def _changed(values: Mapping[AdapterLayer, object], attribute: str) -> Iterator[None]:
    before = {layer: getattr(layer, attribute) for layer in values}
    try:
        for layer, value in values.items():
            setattr(layer, attribute, value)
        yield
    finally:
        for layer, value in before.items():
            setattr(layer, attribute, value)


def merge_all(model: nn.Module) -> None:
    """Merge every adapter layer. If one can't be merged, raise MergeError and merge none."""
    merged: list[AdapterLayer] = []
    for name, layer in adapter_layers(model).items():
        try:
            layer.merge()
        except RuntimeError as error:
            for other in merged:
                other.unmerge()
            raise MergeError(str(error), where=name) from error
        merged.append(layer)


def unmerge_all(model: nn.Module) -> None:
    """Unmerge every merged layer."""
    for layer in adapter_layers(model).values():
        if layer.merged:
            layer.unmerge()


@torch.no_grad()
def merge_and_remove(model: nn.Module) -> nn.Module:
    """Turn the model into a plain one with the same outputs: merged weights, trained head.

    The base layers get new weight tensors; the caller's own stay as they are. If a layer can't be
    merged, raise MergeError and leave the model unchanged.
    """
    state, layers = adapter_state(model), adapter_layers(model)
    merged = {name: layer.merged_weight for name, layer in layers.items()}
    unmerge_all(model)  # A and B can have changed since they were merged
    try:
        merge_all(model)
    except MergeError:
        for name, layer in layers.items():
            layer.merged_weight = merged[name]
        raise
    for name, layer in layers.items():
        layer.base.weight = nn.Parameter(layer.merged_weight)  # type: ignore[arg-type]
        replace_module(model, name, layer.base)
    forget_adapter(model, state)
    return model
