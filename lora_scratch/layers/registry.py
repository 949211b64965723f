"""Which adapter layer wraps which base layer: the one table that injection looks things up in.

    @register("lora", nn.Linear)
    class LoRALinear(AdapterLayer): ...

A class is called as `cls(base, rank, alpha, dropout=, rslora=, generator=)`. A base layer of a library that this room does
not import goes by its full name: `register("lora", "transformers.pytorch_utils.Conv1D")`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from .lora import AdapterLayer, LoRALinear

Layer = TypeVar("Layer", bound=type[AdapterLayer])

_classes: dict[str, dict[type[nn.Module] | str, type[AdapterLayer]]] = {}


def register(variant: str, base: type[nn.Module] | str) -> Callable[[Layer], Layer]:
    """A class decorator: `variant` on a `base` layer, a class or the full name of one, is this class.

    Raises:
        ValueError: the pair is taken.
    """

    def enter(cls: Layer) -> Layer:
        """The class itself, entered."""
        taken = _classes.setdefault(variant, {}).setdefault(base, cls)
        if taken is not cls:
            name = base if isinstance(base, str) else base.__name__
            raise ValueError(f"{variant} on {name} is {taken.__name__} already")
        return cls

    return enter


def adapter_class(variant: str, base: nn.Module) -> type[AdapterLayer] | None:
    """The class that adapts this very module, or None. An exact type match: a subclass may compute something else.

    A class that says `adapted_like = nn.Linear` gets the layers of that one.
    """
    classes, kind = _classes.get(variant, {}), getattr(base, "adapted_like", type(base))
    return classes.get(kind) or classes.get(f"{kind.__module__}.{kind.__qualname__}")


def adapter_variants() -> list[str]:
    """The registered variants, sorted."""
    return sorted(_classes)


register("lora", nn.Linear)(LoRALinear)
