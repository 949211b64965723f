"""From a model to an adapted model: match names, replace layers, freeze the rest; and the way back.

inject(model, LoRAConfig(targets=["q_lin", "v_lin"]))   # in place; the forward signature stays
with disabled(model): ...                               # the base again, bit for bit
merge_all(model); unmerge_all(model)
remove_adapter(model)                                   # as if nothing had happened
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..errors import ConfigError, MergeError, TrainingError
from ..layers import AdapterLayer, adapter_class
from ..runtime.seeds import named_generator
from .config import LoRAConfig
from .targets import check_rank, default_heads, default_targets, find_heads, find_targets


@dataclass(frozen=True)
class AdapterState:
    """What the way back needs: kept on the model under one attribute, made by `inject` alone.

    Args:
        config: with targets and head modules resolved to what was asked for or what the family's preset says.
        seed: of the adapter's random initialisation.
        trained_base: the first value of every base tensor that is trained (the head), by parameter name.
        required_grad: what `requires_grad` was, by parameter name of the base.
    """

    config: LoRAConfig
    seed: int
    trained_base: dict[str, Tensor]
    required_grad: dict[str, bool]


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters. `lora` and `head` are the trainable ones, told apart: a dense head often dwarfs the adapter."""

    total: int
    trainable: int
    lora: int
    head: int


def inject(model: nn.Module, config: LoRAConfig, *, seed: int = 0) -> nn.Module:
    """Replace every target by its adapter layer, in place; freeze everything but the adapter and the head modules.

    Each A is drawn from a generator of its own, seeded by (seed, module name): the order of injection changes nothing.

    Returns:
        The same model.

    Raises:
        TargetError: a name that matches nothing. ConfigError: a rank above a layer's, a model adapted already.
    """
    if is_adapted(model):
        raise ConfigError("the model has an adapter already", where="inject", remedy="call remove_adapter(model) first")
    config = resolve(model, config)
    heads = find_heads(model, config.head_modules or [])
    targets = find_targets(model, config.targets or [], variant="lora", heads=list(heads))
    for name, module in targets.items():
        check_rank(name, module, config.rank)
    state = AdapterState(config, seed, _trained_base(heads), {n: p.requires_grad for n, p in model.named_parameters()})
    model.requires_grad_(False)
    for name, module in targets.items():
        _replace(model, name, _adapt(name, module, config, seed))
    for head in heads.values():
        head.float().requires_grad_(True)  # GradScaler refuses float16 gradients; small steps vanish in bfloat16
    model._adapter_state = state  # type: ignore[assignment]
    return model


def resolve(model: nn.Module, config: LoRAConfig) -> LoRAConfig:
    """The config with what was left open (targets, head modules) filled in for this model."""
    return replace(
        config,
        targets=list(config.targets or default_targets(model)),
        head_modules=default_heads(model) if config.head_modules is None else list(config.head_modules),
    )


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


def count_parameters(model: nn.Module) -> ParameterCount:
    """Total, trainable, and the trainable ones apart: in adapter layers (`lora`) and elsewhere (`head`)."""
    lora = sum(p.numel() for layer in adapter_layers(model).values() for p in layer.adapter_tensors().values())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return ParameterCount(sum(p.numel() for p in model.parameters()), trainable, lora, trainable - lora)


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """The base model, bit for bit: adapter layers off and the head as it was before training. Also after an exception.

    A merged model is fine: the merged weights are kept beside the base and are simply not used.
    """
    state, layers = adapter_state(model), adapter_layers(model)
    were_enabled = {name: layer.enabled for name, layer in layers.items()}
    trained = {name: model.get_parameter(name).data for name in state.trained_base}
    try:
        for layer in layers.values():
            layer.enabled = False
        for name, first in state.trained_base.items():
            model.get_parameter(name).data = first.to(trained[name])
        yield model
    finally:
        for name, layer in layers.items():
            layer.enabled = were_enabled[name]
        for name, data in trained.items():
            model.get_parameter(name).data = data


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
def remove_adapter(model: nn.Module) -> nn.Module:
    """Put the base layers back and the head to its first value; `requires_grad` is what it was before `inject`."""
    state = adapter_state(model)
    for name, layer in adapter_layers(model).items():
        _replace(model, name, layer.base)
    for name, first in state.trained_base.items():
        model.get_parameter(name).data = first.to(model.get_parameter(name).device)
    _forget(model, state)
    return model


@torch.no_grad()
def merge_and_remove(model: nn.Module) -> nn.Module:
    """Leave a plain model that computes what the adapted one does: folded weights in base layers, the trained head kept.

    The base layers get new weight tensors; the caller's own are left as they were.

    Raises:
        MergeError: an update that is not finite; nothing has changed then.
    """
    state = adapter_state(model)
    unmerge_all(model)
    merge_all(model)
    for name, layer in adapter_layers(model).items():
        layer.base.weight = nn.Parameter(layer.merged_weight)  # type: ignore[arg-type]
        _replace(model, name, layer.base)
    _forget(model, state)
    return model


def check_trainable(model: nn.Module) -> None:
    """Trainable tensors are there, in float32, and not behind a merged weight, which would never move.

    Raises:
        TrainingError: naming what is in the way.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise TrainingError(
            "no parameter requires a gradient", where="train", remedy="inject an adapter or unfreeze the model"
        )
    narrow = [f"{name} ({p.dtype})" for name, p in trainable.items() if p.dtype in (torch.float16, torch.bfloat16)]
    if narrow:
        raise TrainingError(
            f"trainable tensors in half precision: {', '.join(narrow[:3])}", where="train", expected="float32"
        )
    merged = [name for name, layer in adapter_layers(model).items() if layer.merged]
    if merged:
        raise TrainingError(
            f"{merged[0]} is merged and would not learn", where="train", remedy="call unmerge_all(model) first"
        )


def _adapt(name: str, module: nn.Module, config: LoRAConfig, seed: int) -> AdapterLayer:
    cls = adapter_class("lora", module)
    if cls is None:
        raise ConfigError(f"{type(module).__name__} can't be adapted", where=name)
    generator = named_generator(seed, name)
    return cls(module, config.rank, config.alpha, dropout=config.dropout, rslora=config.rslora, generator=generator)  # type: ignore[call-arg]


def _trained_base(heads: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{head}.{name}": p.detach().clone() for head, module in heads.items() for name, p in module.named_parameters()}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    module.train(model.get_submodule(name).training)
    setattr(model.get_submodule(parent), child, module)


def _forget(model: nn.Module, state: AdapterState) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(state.required_grad[name])
    del model._adapter_state
