"""Read plain JSON as typed dataclasses. An error names the place of a wrong key or type."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import DataError


def from_json(kind: Any, value: object, *, where: str) -> Any:
    """Return `value`, as `json.loads` gives it, as an object of `kind`.

    Args:
        kind: a dataclass (or the one of its subclasses whose fields `value` has), list[T], dict[str, T],
            T | None, or int, float (finite) or str.
        where: the place of `value`, for the error.

    Raises:
        DataError: a key is missing or unknown, or a value has another type.
    """
    arguments = get_args(kind)
    if type(None) in arguments:
        return None if value is None else from_json(arguments[0], value, where=where)
    if is_dataclass(kind) and isinstance(value, dict):
        return _from_fields(_chosen(kind, value), value, where)
    if get_origin(kind) is list and isinstance(value, list):
        return [from_json(arguments[0], item, where=f"{where}[{i}]") for i, item in enumerate(value)]
    if get_origin(kind) is dict and isinstance(value, dict):
        return {key: from_json(arguments[1], item, where=f"{where}.{key}") for key, item in value.items()}
    if type(value) is kind and (kind is not float or math.isfinite(value)):  # type: ignore[arg-type]
        return value
    if kind is float and type(value) is int:
        return value
    raise DataError(f"found {value!r}", where=where, expected=_name(kind))


def _chosen(kind: Any, value: dict[str, Any]) -> Any:
    """Return the first subclass whose required fields are there, else the kind itself."""
    fitting = [child for child in kind.__subclasses__() if _required(child) <= value.keys()]
    return fitting[0] if fitting else kind


def _required(kind: Any) -> set[str]:
    return {field.name for field in fields(kind) if field.default is MISSING}


def _from_fields(kind: Any, value: dict[str, Any], where: str) -> Any:
    types = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    if unknown := sorted(value.keys() - set(known)):
        raise DataError(f"unknown keys {', '.join(unknown)}", where=where, expected=", ".join(known))
    if absent := [name for name in known if name in _required(kind) - value.keys()]:
        raise DataError(f"without {', '.join(absent)}", where=where)
    return kind(**{name: from_json(types[name], item, where=f"{where}.{name}") for name, item in value.items()})


def _name(kind: Any) -> str:
    return "an object" if is_dataclass(kind) else str(getattr(kind, "__name__", kind))
