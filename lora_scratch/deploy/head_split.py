"""Move the trained head into the base, so that the adapter is A and B alone.

Servers of many adapters hold one base and refuse an adapter with a trained head.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..adapter.state import adapter_state
from ..errors import ConfigError


def give_head_to_base(model: nn.Module) -> None:
    """Make the head modules part of the base: no longer trained, saved, or reset on removal.

    Raises:
        ConfigError: an adapter with trained biases, which a folder of A and B can't hold either.
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
