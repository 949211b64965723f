"""Which adapter layer wraps which base layer: the one table that injection looks things up in.

    @register("lora", nn.Linear)
    class LoRALinear(AdapterLayer): ...

A class is called as `cls(base, rank, alpha, dropout=, rslora=, generator=)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from .lora import AdapterLayer, LoRALinear

Layer = TypeVar("Layer", bound=type[AdapterLayer])

_classes: dict[str, dict[type[nn.Module], type[AdapterLayer]]] = {}


def register(variant: str, base: type[nn.Module]) -> Callable[[Layer], Layer]:
    """A class decorator: `variant` on a `base` layer is this class.

    Raises:
        ValueError: the pair is taken.
    """

    def enter(cls: Layer) -> Layer:
        taken = _classes.setdefault(variant, {}).setdefault(base, cls)
        if taken is not cls:
            raise ValueError(f"{variant} on {base.__name__} is {taken.__name__} already")
        return cls

    return enter


def adapter_class(variant: str, base: nn.Module) -> type[AdapterLayer] | None:
    """The class that adapts this very module, or None. An exact type match: a subclass may compute something else."""
    return _classes.get(variant, {}).get(type(base))


def adapter_variants() -> list[str]:
    """The registered variants, sorted."""
    return sorted(_classes)


register("lora", nn.Linear)(LoRALinear)
