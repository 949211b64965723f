"""Split an adapter for servers that hold one base and accept A and B alone, without a head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from ..adapter import NF4, adapter_layers, base_precision, remove_adapter
from ..adapter.factors import has_factors
from ..adapter.state import adapter_state
from ..errors import ConfigError
from ..layers import DoRALinear
from ..runs.trained_adapter import TrainedAdapter
from ..runtime.atomic import new_folder
from ..serialization import save_adapter


def save_split(saved: TrainedAdapter, place: Path) -> dict[str, str]:
    """Write `place`/base, a plain model with the trained head, and `place`/adapter, LoRA alone.

    Returns:
        The server's settings for the adapter.

    Raises:
        ConfigError: trained biases, a base in four bits, or a variant that servers don't know.
    """
    model = saved.base.model
    if not all(map(has_factors, adapter_layers(model).values())):
        fault = f"variant {saved.config.variant} has other tensors than LoRA's A and B"
        remedy = "use `export merge`, which every server can hold"
        raise ConfigError(fault, where="export split", remedy=remedy)
    if base_precision(model) == NF4:
        fault = "the base is quantized to four bits"
        raise ConfigError(fault, where="export split", remedy="pass --dequantize")
    give_head_to_base(model)
    settings = server_settings(saved)
    with new_folder(place) as folder:
        notes = saved.provenance.as_json()
        save_adapter(model, folder / "adapter", base_model=str(place / "base"), notes=notes)
        remove_adapter(model)
        model.save_pretrained(folder / "base")
        saved.base.tokenizer.save_pretrained(folder / "base")
    return settings


def server_settings(saved: TrainedAdapter) -> dict[str, str]:
    """Return the largest rank, the modules and the variant, in the words of a server's settings."""
    layers = adapter_layers(saved.base.model)
    ranks = sorted({layer.rank for layer in layers.values()})
    listed = " and ".join(map(str, ranks))
    return {
        "rank": f"{listed}: the server's largest rank has to be {ranks[-1]} or more",
        "modules": ", ".join(sorted({name.rpartition(".")[2] for name in layers})),
        "rank-stabilized scaling": "yes" if saved.config.rslora else "no",
        "DoRA": "yes" if any(isinstance(layer, DoRALinear) for layer in layers.values()) else "no",
        "modules_to_save": "none: the head is the base's",
    }


def give_head_to_base(model: nn.Module) -> None:
    """Move the trained head into the base: it is no longer saved, or reset on removal.

    Raises:
        ConfigError: an adapter with trained biases.
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
