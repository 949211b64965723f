"""From a model to an adapted model: match names, replace layers, freeze the rest; and the way back.

inject(model, LoRAConfig(targets=["q_lin", "v_lin"]))   # in place; the forward signature stays
with disabled(model): ...                               # the base again, bit for bit
merge_all(model); unmerge_all(model)
remove_adapter(model)                                   # as if nothing had happened
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import ConfigError, TrainingError
from ..layers import AdapterLayer
from ..runtime.seeds import named_generator
from .config import LoRAConfig
from .plan import Plan, dry_run
from .state import AdapterState, adapter_layers, adapter_state, base_tensors, is_adapted


def inject(
    model: nn.Module, config: LoRAConfig, *, seed: int = 0, batches: Iterable[Mapping[str, Any]] | None = None
) -> nn.Module:
    """Replace every target by its adapter layer, in place; freeze everything but the adapter, head modules and biases.

    Each A is drawn from a generator of its own, seeded by (seed, module name): the order of injection changes nothing.
    With init `peft` one generator goes from layer to layer instead, as torch's own does when PEFT builds an adapter.

    Args:
        batches: what init `eva` looks at, as keyword arguments of the model's forward; not used otherwise.

    Returns:
        The same model. After an error it is as it was.

    Raises:
        TargetError: a name that matches nothing. ConfigError: a rank above a layer's, a model adapted already, and the like.
    """
    if is_adapted(model):
        raise ConfigError("the model has an adapter already", where="inject", remedy="call remove_adapter(model) first")
    if config.init == "eva" and batches is None:
        raise ConfigError("init eva looks at data and was given none", where="--init", remedy="pass inject(batches=...)")
    plan = dry_run(model, config)
    _warn_of_statistics(model, plan)
    required_grad = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    try:
        layers = _build(plan, seed)
    except ConfigError:
        _restore_grad(model, required_grad)
        raise
    model._adapter_state = AdapterState(plan.config, seed, _trained_base(plan), required_grad)  # type: ignore[assignment]
    for name, layer in layers.items():
        replace_module(model, name, layer)
    for head in plan.heads.values():
        head.float().requires_grad_(True)  # GradScaler refuses float16 gradients; small steps vanish in bfloat16
    for bias in plan.biases.values():
        bias.requires_grad_(True)
    if config.init == "eva":
        _start_from_inputs(model, batches or ())
    return model


@torch.no_grad()
def remove_adapter(model: nn.Module) -> nn.Module:
    """Put the base layers back, head and biases to their first values; `requires_grad` is what it was before `inject`."""
    state, tensors = adapter_state(model), base_tensors(model)
    for name, layer in adapter_layers(model).items():
        replace_module(model, name, layer.base)
    for name, first in state.trained_base.items():
        tensors[name].data = first.to(tensors[name].device)
    forget_adapter(model, state)
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


def _build(plan: Plan, seed: int) -> dict[str, AdapterLayer]:
    shared = torch.Generator().manual_seed(seed) if plan.config.init == "peft" else None
    return {layer.name: layer.build(shared or named_generator(seed, layer.name)) for layer in plan.layers}


def _start_from_inputs(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
    from .eva import start_from_inputs  # for this one init

    try:
        start_from_inputs(model, batches)
    except BaseException:
        remove_adapter(model)
        raise


def _trained_base(plan: Plan) -> dict[str, Tensor]:
    heads = {
        f"{head}.{name}": tensor.detach().clone()
        for head, module in plan.heads.items()
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    return heads | {name: bias.detach().clone() for name, bias in plan.biases.items()}


def _warn_of_statistics(model: nn.Module, plan: Plan) -> None:
    outside = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _NormBase)
        and module.track_running_stats
        and not any(name == head or name.startswith(f"{head}.") for head in plan.heads)
    ]
    if outside:
        warnings.warn(
            f"{', '.join(outside[:3])}: running statistics change in training and are no part of the adapter; "
            "name these modules in head_modules, or keep them in eval()",
            stacklevel=3,
        )


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module`, in the mode of what it replaces, at the place called `name`."""
    parent, _, child = name.rpartition(".")
    module.train(model.get_submodule(name).training)
    setattr(model.get_submodule(parent), child, module)


def _restore_grad(model: nn.Module, required_grad: Mapping[str, bool]) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(required_grad.get(name, False))  # a dequantized weight was none before


def forget_adapter(model: nn.Module, state: AdapterState) -> None:
    """Take the record of `inject` off the model; `requires_grad` is what it was before."""
    _restore_grad(model, state.required_grad)
    del model._adapter_state
