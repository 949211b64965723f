"""Adapt a model: match names, replace layers, freeze the rest; and remove the adapter again.

inject(model, LoRAConfig(targets=["q_lin", "v_lin"]))   # in place
with disabled(model): ...                               # the base, bit for bit
merge_all(model); unmerge_all(model)
remove_adapter(model)                                   # the model as it was
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
from ..model.wrappers import is_distributed, named_parameters, submodule, unwrapped, wrapped_modules
from ..runtime.seeds import named_generator
from .config import LoRAConfig
from .plan import Plan, dry_run
from .state import AdapterState, adapter_layers, adapter_state, base_tensors, first_values, is_adapted
from .targets import is_inside


def inject(
    model: nn.Module,
    config: LoRAConfig,
    *,
    seed: int = 0,
    batches: Iterable[Mapping[str, Any]] | None = None,
) -> nn.Module:
    """Replace the targets by adapter layers, in place, and train only adapter, heads and biases.

    Every A has its own generator, seeded by (seed, module name), so the order of the layers does
    not matter. With init `peft` one generator draws for all layers in order, as in PEFT.

    Args:
        model: it can be inside torch.compile or DataParallel: the model inside is adapted.
        batches: the data for init `eva`, as keyword arguments of the model's forward.

    Returns:
        The same model. After an error it is unchanged.

    Raises:
        TargetError: a name that matches nothing.
        ConfigError: a rank above a layer's, an adapted model, a model inside DistributedDataParallel,
            or other settings that do not fit.
    """
    _check_wrappers(model)
    if is_adapted(model):
        fault, remedy = "the model has an adapter already", "call remove_adapter(model) first"
        raise ConfigError(fault, where="inject", remedy=remedy)
    if config.init == "eva" and batches is None:
        fault, remedy = "init eva looks at data and was given none", "pass inject(batches=...)"
        raise ConfigError(fault, where="--init", remedy=remedy)
    plan = dry_run(model, config)
    _apply(unwrapped(model), plan, seed)
    if config.init == "eva":
        _start_from_inputs(model, batches or ())
    return model


def _apply(model: nn.Module, plan: Plan, seed: int) -> None:
    """Carry out the plan, or leave the model as it is and raise ConfigError."""
    from .head_dtype import train_in_float32  # heads in half precision
    from .saving import guard_loading, update_saving  # the methods that transformers gave the model

    _warn_of_statistics(model, plan)
    required_grad = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    try:
        layers = _build(plan, seed)
    except ConfigError:
        _restore_grad(model, required_grad)
        raise
    state = AdapterState(plan.config, seed, _trained_base(plan), required_grad)
    model._adapter_state = state  # type: ignore[assignment]
    guard_loading(model)
    for name, layer in layers.items():
        replace_module(model, name, layer)
    for head in plan.heads.values():
        train_in_float32(head)
    for bias in plan.biases.values():
        bias.requires_grad_(True)
    update_saving(model)


@torch.no_grad()
def remove_adapter(model: nn.Module) -> nn.Module:
    """Undo `inject`: restore base layers, first values of head and biases, and `requires_grad`.

    Raises:
        ConfigError: a head has another shape than before. The model is unchanged.
    """
    state, first_of, tensors = adapter_state(model), first_values(model), base_tensors(model)
    for name, layer in adapter_layers(model).items():
        replace_module(model, name, layer.base)
    for name, first in first_of.items():
        tensors[name].data = first.to(tensors[name].device)
    forget_adapter(model, state)
    return model


def _check_wrappers(model: nn.Module) -> None:
    """Refuse wrappers that would keep their list of the parameters, or stay in the middle of names."""
    if is_distributed(model):
        fault = f"{type(model).__name__} keeps its list of the parameters, without the adapter's"
        remedy = "inject into the model first, then wrap it"
        raise ConfigError(fault, where="inject", remedy=remedy)
    for name, wrapper in wrapped_modules(unwrapped(model)).items():
        fault = f"{name} is wrapped in {type(wrapper).__name__}"
        raise ConfigError(fault, where="inject", remedy="inject first, then compile or wrap parts of the model")


def check_trainable(model: nn.Module) -> None:
    """Check that there are trainable tensors, all in float32, and that no adapter layer is merged.

    Raises:
        TrainingError: otherwise.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        remedy = "inject an adapter or unfreeze the model"
        raise TrainingError("no parameter requires a gradient", where="train", remedy=remedy)
    half = (torch.float16, torch.bfloat16)
    narrow = [f"{name} ({p.dtype})" for name, p in trainable.items() if p.dtype in half]
    if narrow:
        fault = f"trainable tensors in half precision: {', '.join(narrow[:3])}"
        raise TrainingError(fault, where="train", expected="float32")
    for name, layer in adapter_layers(model).items():
        if layer.merged:
            fault, remedy = f"{name} is merged and would not learn", "call unmerge_all(model) first"
            raise TrainingError(fault, where="train", remedy=remedy)


def _build(plan: Plan, seed: int) -> dict[str, AdapterLayer]:
    shared = torch.Generator().manual_seed(seed) if plan.config.init == "peft" else None
    return {p.name: p.build(shared or named_generator(seed, p.name)) for p in plan.layers}


def _start_from_inputs(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
    from .eva import start_from_inputs  # for this one init

    try:
        start_from_inputs(model, batches)
    except BaseException:
        remove_adapter(model)
        raise


def _trained_base(plan: Plan) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for head, module in plan.heads.items():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            tensors[f"{head}.{name}"] = tensor
    return {name: t.detach().clone() for name, t in (tensors | plan.biases).items()}


def _warn_of_statistics(model: nn.Module, plan: Plan) -> None:
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _NormBase)}
    tracking = [name for name, norm in norms.items() if norm.track_running_stats]
    outside = [name for name in tracking if not is_inside(name, plan.heads)]
    if outside:
        warnings.warn(
            f"{', '.join(outside[:3])}: running statistics change in training and are no part of "
            "the adapter; name these modules in head_modules, or keep them in eval()",
            stacklevel=4,
        )


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the module called `name`, and in the same mode."""
    parent, _, child = name.rpartition(".")
    module.train(submodule(model, name).training)
    setattr(submodule(model, parent), child, module)


def _restore_grad(model: nn.Module, required_grad: Mapping[str, bool]) -> None:
    for name, parameter in named_parameters(model).items():
        # a dequantized weight was no parameter before
        parameter.requires_grad_(required_grad.get(name, False))


def forget_adapter(model: nn.Module, state: AdapterState) -> None:
    """Remove what `inject` left on the model, and restore `requires_grad` and the heads' dtype."""
    from .head_dtype import restore_dtype
    from .saving import unguard_loading, update_saving

    model = unwrapped(model)
    _restore_grad(model, state.required_grad)
    restore_dtype(model)
    del model._adapter_state
    unguard_loading(model)
    update_saving(model)
