"""An adapter without a head: the trained head becomes the base's own, and what is left is LoRA alone.

Servers of many adapters hold one base and take nothing of an adapter but A and B: they refuse a trained head.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..adapter.state import adapter_state
from ..errors import ConfigError


def give_head_to_base(model: nn.Module) -> None:
    """From now on the head modules, as they are, are the base's: neither trained, nor saved, nor put back on removal.

    Raises:
        ConfigError: an adapter with trained biases, which a folder of A and B alone can't hold either.
    """
    state = adapter_state(model)
    if state.config.bias != "none":
        raise ConfigError(
            f"the adapter has trained biases (bias {state.config.bias})",
            where="export split",
            expected="bias none",
            remedy="use `export merge`",
        )
    for name in state.config.head_modules or []:
        model.get_submodule(name).requires_grad_(False)
    model._adapter_state = replace(  # type: ignore[assignment]
        state, config=replace(state.config, head_modules=[]), trained_base={}
    )
