"""Refuse transformers' `save_pretrained` and `push_to_hub` of a model with replaced layers.

They would write the replaced layers under names that `from_pretrained` does not know. It would then
draw random weights for them, and only print a table that says so. The refusal is an attribute of the
model; `state_dict()`, `copy.deepcopy` and pickling are as before.
"""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn

from ..errors import ConfigError
from ..layers import AdapterLayer, NF4Linear

METHODS = ("save_pretrained", "push_to_hub")


def update_refusal(model: nn.Module) -> None:
    """Refuse to save every module that holds an adapter or four-bit layer, and no other one."""
    for module in model.modules():
        if not callable(getattr(type(module), METHODS[0], None)):
            continue
        kinds = [kind for kind in _REFUSALS if any(isinstance(inner, kind) for inner in module.modules())]
        for method in METHODS:
            if kinds:
                setattr(module, method, _REFUSALS[kinds[0]])
            else:
                module.__dict__.pop(method, None)


def _refuse_adapted(*_: Any, **__: Any) -> NoReturn:
    """Raise ConfigError in place of saving an adapted model."""
    raise ConfigError(
        "the model has an adapter, and from_pretrained would read random weights in its adapted layers",
        where="save_pretrained",
        remedy="save the adapter with save_adapter(model, folder), or call merge_and_remove(model) first; "
        "a Trainer needs save_strategy='no'",
    )


def _refuse_quantized(*_: Any, **__: Any) -> NoReturn:
    """Raise ConfigError in place of saving a base in four bits."""
    raise ConfigError(
        "the model has layers in four bits, and from_pretrained would read random weights in them",
        where="save_pretrained",
        remedy="call dequantize_base(model) first",
    )


_REFUSALS = {AdapterLayer: _refuse_adapted, NF4Linear: _refuse_quantized}
