"""The table of adapter layers: which class adapts which base layer.

    @register("lora", nn.Linear)
    class LoRALinear(AdapterLayer): ...

A class is called as `cls(base, rank, alpha, dropout=, rslora=, generator=)`. A base layer can be
given by its full name, "transformers.pytorch_utils.Conv1D": no need to import its library here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from .lora import AdapterLayer, LoRALinear

Layer = TypeVar("Layer", bound=type[AdapterLayer])

_classes: dict[str, dict[type[nn.Module] | str, type[AdapterLayer]]] = {}


def register(variant: str, base: type[nn.Module] | str) -> Callable[[Layer], Layer]:
    """Return a decorator that registers a class for `variant` on `base` (a class or its full name).

    Raises:
        ValueError: another class is registered for the pair.
    """

    def enter(cls: Layer) -> Layer:
        """Register the class and return it."""
        registered = _classes.setdefault(variant, {}).setdefault(base, cls)
        if registered is not cls:
            name = base if isinstance(base, str) else base.__name__
            raise ValueError(f"{variant} on {name} is {registered.__name__} already")
        return cls

    return enter


def adapter_class(variant: str, base: nn.Module) -> type[AdapterLayer] | None:
    """Return the class that adapts this module, or None.

    The module's type must match exactly: a subclass can compute something else. A class with the
    attribute `adapted_like` is adapted like the class that it names.
    """
    classes, kind = _classes.get(variant, {}), getattr(base, "adapted_like", type(base))
    return classes.get(kind) or classes.get(f"{kind.__module__}.{kind.__qualname__}")


def adapter_variants() -> list[str]:
    """Return the registered variants, sorted."""
    return sorted(_classes)


register("lora", nn.Linear)(LoRALinear)
