"""See through the wrappers that other libraries put around a model or around a module in it.

torch.compile, DataParallel, DistributedDataParallel and activation checkpointing each wrap a module in
another one, which adds a component to every name: `module.`, `_orig_mod.`. An adapter belongs to the
model inside, and its names have none of these components.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

INNER = ("_orig_mod", "_checkpoint_wrapped_module")  # torch.compile; torch's activation checkpointing
WITH_MODULE = (nn.DataParallel, DistributedDataParallel, AveragedModel)
DEEPSPEED = "DeepSpeedEngine"  # recognized by name, since the library may not be installed


def unwrapped(model: nn.Module) -> Any:
    """Return the model inside all wrappers, or the model itself."""
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def plain_name(name: str) -> str:
    """Return the name of a module or tensor without the components that inner wrappers add."""
    return ".".join(part for part in name.split(".") if part not in INNER)


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules by plain name, in the model's order, without the wrappers."""
    return {plain_name(name): unwrapped(m) for name, m in unwrapped(model).named_modules()}


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by plain name, in the model's order."""
    return {plain_name(name): p for name, p in unwrapped(model).named_parameters()}


def submodule(model: nn.Module, name: str) -> nn.Module:
    """Return the module of this plain name, without a wrapper around it."""
    module: nn.Module = unwrapped(unwrapped(model).get_submodule(name))
    return module


def wrapped_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the wrappers around the model (named "") and around modules inside it, by plain name."""
    return {plain_name(name): m for name, m in model.named_modules() if _inner(m) is not None}


def is_distributed(model: nn.Module) -> bool:
    """Return whether a wrapper around the model keeps its own list of the parameters."""
    wrapper: nn.Module | None = model
    while wrapper is not None:
        if isinstance(wrapper, DistributedDataParallel) or _is_deepspeed(wrapper):
            return True
        wrapper = _inner(wrapper)
    return False


def _inner(model: nn.Module) -> nn.Module | None:
    for name in INNER:
        if isinstance(inner := model._modules.get(name), nn.Module):
            return inner
    if isinstance(model, WITH_MODULE) or _is_deepspeed(model):
        return model.module  # type: ignore[return-value]
    return None


def _is_deepspeed(model: nn.Module) -> bool:
    return any(kind.__name__ == DEEPSPEED for kind in type(model).__mro__)
