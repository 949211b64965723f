"""The switches of an adapted model: off, off in part, stronger, merged. Each is undone exactly, also after an exception."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import ConfigError, MergeError
from ..layers import AdapterLayer
from .inject import forget_adapter, replace_module
from .state import adapter_layers, adapter_state, base_tensors


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """The base model, bit for bit: adapter layers off, head and biases as they were before training.

    A merged model is fine: the merged weights are kept beside the base and are simply not used.
    """
    state, layers = adapter_state(model), adapter_layers(model)
    were_enabled = {name: layer.enabled for name, layer in layers.items()}
    tensors = base_tensors(model)
    trained = {name: tensors[name].data for name in state.trained_base}
    try:
        for layer in layers.values():
            layer.enabled = False
        for name, first in state.trained_base.items():
            tensors[name].data = first.to(trained[name])
        yield model
    finally:
        for name, layer in layers.items():
            layer.enabled = were_enabled[name]
        for name, data in trained.items():
            tensors[name].data = data


@contextmanager
def without(model: nn.Module, names: Collection[str]) -> Iterator[nn.Module]:
    """The model without the adapters of these layers, each of which computes what its base does; all else is as trained.

    Raises:
        ConfigError: a name that is no adapted layer.
    """
    layers = adapter_layers(model)
    if unknown := [name for name in names if name not in layers]:
        raise ConfigError(f"{unknown[0]!r} is no adapted layer", where="without", expected=", ".join(layers))
    were_enabled = {name: layers[name].enabled for name in names}
    try:
        for name in names:
            layers[name].enabled = False
        yield model
    finally:
        for name, enabled in were_enabled.items():
            layers[name].enabled = enabled


@contextmanager
def scaled(model: nn.Module, factor: float) -> Iterator[nn.Module]:
    """The adapter `factor` times as strong: every layer's scaling times `factor`; 0 is none of it, 1 as trained.

    Only the low-rank update is turned: trained heads and biases, and the magnitudes of DoRA, stay as they are.

    Raises:
        MergeError: a merged model, whose weights already hold the update at full strength.
        ConfigError: a factor that is not finite.
    """
    layers = adapter_layers(model)
    merged = [name for name, layer in layers.items() if layer.merged]
    if merged:
        raise MergeError("it is merged at full strength", where=merged[0], remedy="call unmerge_all(model) first")
    if not math.isfinite(factor):
        raise ConfigError(f"factor is {factor}", where="scaled", expected="a finite number")
    scalings = {name: layer.scaling for name, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.scaling *= factor
        yield model
    finally:
        for name, layer in layers.items():
            layer.scaling = scalings[name]


def merge_all(model: nn.Module) -> None:
    """Merge every adapter layer, or none.

    Raises:
        MergeError: naming the layer that could not be merged; those merged before it are unmerged again.
    """
    done: list[AdapterLayer] = []
    for name, layer in adapter_layers(model).items():
        try:
            layer.merge()
        except RuntimeError as error:
            for merged in done:
                merged.unmerge()
            raise MergeError(str(error), where=name) from error
        done.append(layer)


def unmerge_all(model: nn.Module) -> None:
    """Unmerge every merged layer; the base weights were never touched."""
    for layer in adapter_layers(model).values():
        if layer.merged:
            layer.unmerge()


@torch.no_grad()
def merge_and_remove(model: nn.Module) -> nn.Module:
    """Leave a plain model that computes what the adapted one does: folded weights in base layers, the trained head kept.

    The base layers get new weight tensors; the caller's own are left as they were.

    Raises:
        MergeError: an update that is not finite; nothing has changed then.
    """
    state, layers = adapter_state(model), adapter_layers(model)
    merged = {name: layer.merged_weight for name, layer in layers.items()}
    unmerge_all(model)  # A and B may have changed since they were merged
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
