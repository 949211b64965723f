"""A field of an options dataclass, which the commands turn into a flag with help."""

from __future__ import annotations

from copy import copy
from dataclasses import field
from typing import Any


def flag(default: Any, meaning: str, **metadata: Any) -> Any:
    """Return a dataclass field that becomes a flag, with its help. A list or dict is copied."""
    about = {"help": meaning, **metadata}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy(default), metadata=about)
    return field(default=default, metadata=about)
