"""Let transformers' `save_pretrained` of a model with replaced layers write what `from_pretrained` reads.

An adapted layer has other tensors than the plain one. Under its own names `from_pretrained` would not
find the plain weight and would draw a random one. So the plain model with the same outputs is written:
merged weights, and four-bit weights as numbers. The model itself is not changed, and neither are
`state_dict()`, `copy.deepcopy` and pickling. `push_to_hub` uses `save_pretrained` too.

The checkpoints of a Trainer (folders called `checkpoint-N`) hold the adapter's tensors as well, so that
Trainer can load them into the adapted model again.
"""

from __future__ import annotations

import inspect
import re
import warnings
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, MergeError
from ..layers import AdapterLayer, NF4Linear
from ..model.wrappers import named_modules, plain_name
from .targets import is_inside

METHOD = "save_pretrained"
GUARD = "_adapter_loading_guard"  # the attribute of a model that keeps the handle of its hook
CHECKPOINT = r"checkpoint-\d+"  # the folders of a Trainer


class PlainSaver:
    """`save_pretrained` of one model. It holds the model weakly: a cycle would delay its release."""

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Save the plain model with the same outputs. Arguments: see transformers.

        Raises:
            MergeError: a merged weight is not finite.
            ConfigError: a `state_dict` of other shapes, as of a model that is split over processes.
        """
        model: Any = self._model()
        method = getattr(type(model), METHOD)
        call = inspect.signature(method).bind(model, *args, **options)
        _check_whole(model, call.arguments.get("state_dict"))
        folder = Path(call.arguments["save_directory"])
        trainers = re.fullmatch(CHECKPOINT, folder.name) is not None
        call.arguments["state_dict"] = plain_state_dict(model, with_adapter=trainers)
        if not trainers:
            message = f"{folder} gets the plain model, adapter merged; save_adapter writes the adapter alone"
            warnings.warn(message, stacklevel=2)
        return method(*call.args, **call.kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> PlainSaver:
        model: Any = self._model()
        return PlainSaver(memo.get(id(model), model))

    def __reduce__(self) -> tuple[type[PlainSaver], tuple[nn.Module | None]]:
        return PlainSaver, (self._model(),)


def update_saving(model: nn.Module) -> None:
    """Set `save_pretrained` of every module that holds a replaced layer, and of no other one."""
    for module in model.modules():
        if _replaced(module) and callable(getattr(type(module), METHOD, None)):
            setattr(module, METHOD, PlainSaver(module))
        else:
            module.__dict__.pop(METHOD, None)


@torch.no_grad()
def plain_state_dict(model: nn.Module, *, with_adapter: bool = False) -> dict[str, Tensor]:
    """Return the state of the plain model with the same outputs as this one has now.

    Args:
        with_adapter: add the adapter's own tensors, under their names in `model.state_dict()`.
    """
    layers = _replaced(model)
    state = {plain_name(name): tensor for name, tensor in model.state_dict().items()}
    plain = {name: tensor for name, tensor in state.items() if not is_inside(name, layers)}
    for name, layer in layers.items():
        base = layer.base if isinstance(layer, AdapterLayer) else layer
        own = {"bias": base.bias} if isinstance(base, NF4Linear) else base.state_dict()
        own = {**own, "weight": _plain_weight(name, layer)}
        plain |= {f"{name}.{key}": tensor for key, tensor in own.items() if isinstance(tensor, Tensor)}
        if with_adapter and isinstance(layer, AdapterLayer):
            adapter = {key: tensor for key, tensor in layer.state_dict().items() if not key.startswith("base.")}
            plain |= {f"{name}.{key}": tensor for key, tensor in adapter.items()}
    return plain


def guard_loading(model: nn.Module) -> None:
    """Refuse a plain model's state in an adapted model's `load_state_dict`.

    With strict=False torch would leave out every adapted layer without an error.
    """
    register: Any = model.register_load_state_dict_pre_hook
    setattr(model, GUARD, register(_refuse_plain_state))


def unguard_loading(model: nn.Module) -> None:
    """Undo `guard_loading`."""
    model.__dict__.pop(GUARD).remove()


def _refuse_plain_state(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, layer in _replaced(model).items():
        own = [f"{prefix}{name}.{key}" for key in layer.state_dict()]
        if f"{prefix}{name}.weight" in state and not any(key in state for key in own):
            fault = f"the state to load is that of a plain model: it has {name}.weight and no tensor of its adapter"
            remedy = "load it into a plain model (remove_adapter), or load an adapter folder with load_adapter"
            raise ConfigError(fault, where="load_state_dict", remedy=remedy)


def _replaced(model: nn.Module) -> dict[str, nn.Module]:
    """Return the outermost replaced layers by name."""
    layers = {name: m for name, m in named_modules(model).items() if isinstance(m, AdapterLayer | NF4Linear)}
    return {name: layer for name, layer in layers.items() if not is_inside(name.rpartition(".")[0], layers)}


def _plain_weight(name: str, layer: Any) -> Tensor:
    if not (isinstance(layer, AdapterLayer) and layer.enabled):
        return layer.weight.detach()  # type: ignore[no-any-return]
    weight: Tensor = layer.effective_weight().to(layer.weight.dtype).contiguous()
    if not weight.isfinite().all():
        raise MergeError("the merged weight is not finite", where=name, remedy="look for NaN or inf in A and B")
    return weight


def _check_whole(model: nn.Module, given: dict[str, Tensor] | None) -> None:
    own = model.state_dict()
    for name, tensor in (given or {}).items():
        if name in own and own[name].shape != tensor.shape:
            fault = f"{name} is {tuple(tensor.shape)} in the state_dict and {tuple(own[name].shape)} in the model"
            remedy = "load the state_dict into an adapted model that is not split over processes, and save that"
            raise ConfigError(fault, where=METHOD, remedy=remedy)
