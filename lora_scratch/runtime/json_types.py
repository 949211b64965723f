"""Read plain JSON as typed dataclasses. One error names everything wrong, each with its place."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from ..errors import DataError

LISTED = 5  # faults of one list or object that are named
NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
    dict: "an object",
    Mapping: "an object",
}
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxlong, _REPR.maxother = 3, 80, 60, 80


@dataclass(frozen=True)
class Bound:
    """What a value has to hold beyond its type: `Annotated[int, Bound("at least 1", ...)]`."""

    expected: str
    holds: Callable[[Any], bool]


def between(least: float, most: float) -> Bound:
    """Return the bound of numbers from `least` to `most`."""
    return Bound(f"a number from {least:,} to {most:,}", lambda value: least <= value <= most)


def one_of(names: Iterable[str]) -> Bound:
    """Return the bound of texts that are one of these."""
    known = tuple(names)
    return Bound(" or ".join(known), lambda value: value in known)


Count = Annotated[int, between(0, 2**63 - 1)]
Seconds = Annotated[float, between(0, 1e12)]
Name = Annotated[str, Bound("a text without NUL", lambda value: "\0" not in value)]


def from_json(kind: Any, value: object, *, where: str) -> Any:
    """Return `value`, as `json.loads` gives it, as an object of `kind`.

    Args:
        kind: see `JsonReader.read`.
        where: the file of `value`, for the error.

    Raises:
        DataError: keys are missing or unknown, or values have other types; all at once.
    """
    reader = JsonReader()
    result = reader.read(kind, value)
    if reader.problems:
        raise DataError("; ".join(reader.problems), where=where)
    return result


def shown(value: object) -> str:
    """Return a value for an error: short, whatever it is."""
    return _REPR.repr(value)


@dataclass
class JsonReader:
    """Reads values and collects what is wrong with them.

    Args:
        allow_unknown: whether objects may have keys that their dataclass does not know.
    """

    allow_unknown: bool = False
    problems: list[str] = field(default_factory=list)

    def read(self, kind: Any, value: object, place: str = "") -> Any:
        """Return `value` as an object of `kind`; None after a fault, which is then in `problems`.

        Args:
            kind: a dataclass (or the one of its subclasses whose fields `value` has), list[T],
                tuple[T, ...], dict[str, T], a union, int (of 64 bits), float (finite), str, bool or Any;
                with bounds by Annotated.
        """
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self._bounded(arguments[0], kind.__metadata__, value, place)
        if origin in (Union, UnionType):
            return self._one_kind_of(arguments, value, place)
        if is_dataclass(kind) and isinstance(value, dict):
            return self._object(_chosen(kind, value), value, place)
        if origin in (list, tuple) and isinstance(value, list | tuple):
            items = self._items(arguments[0], ((f"{place}[{i}]", item) for i, item in enumerate(value)))
            return items if origin is list else tuple(items)
        if origin in (dict, Mapping) and isinstance(value, dict):
            named = ((_joined(place, key), item) for key, item in value.items())
            return dict(zip(value, self._items(arguments[1], named), strict=False))
        if kind is Any or _is_plain(kind, value):
            return value
        return self._fault(place, value, _kind_name(kind))

    def _fault(self, place: str, value: object, expected: str) -> None:
        self.problems.append(f"{place or 'the content'} is {shown(value)}, expected {expected}")

    def _bounded(self, kind: Any, bounds: Iterable[Any], value: object, place: str) -> Any:
        count = len(self.problems)
        result = self.read(kind, value, place)
        for bound in bounds:
            if len(self.problems) == count and not bound.holds(result):
                return self._fault(place, value, bound.expected)
        return result

    def _one_kind_of(self, kinds: tuple[Any, ...], value: object, place: str) -> Any:
        if value is None and NoneType in kinds:
            return None
        *others, last = [kind for kind in kinds if kind is not NoneType]
        for kind in others:
            attempt = JsonReader(self.allow_unknown)
            result = attempt.read(kind, value, place)
            if not attempt.problems:
                return result
        return self.read(last, value, place)

    def _items(self, kind: Any, items: Iterable[tuple[str, object]]) -> list[Any]:
        most = len(self.problems) + LISTED
        results = []
        for place, item in items:
            results.append(self.read(kind, item, place))
            if len(self.problems) >= most:
                break
        return results

    def _object(self, kind: Any, value: dict[str, Any], place: str) -> Any:
        count, types = len(self.problems), _types(kind)
        known = [entry.name for entry in fields(kind)]
        if (unknown := sorted(value.keys() - set(known))) and not self.allow_unknown:
            listed = ", ".join(map(shown, unknown[:LISTED]))
            self.problems.append(f"{place or 'the content'} has unknown keys {listed}")
        absent = [name for name in known if name in _required(kind) - value.keys()]
        self.problems += [f"{_joined(place, name)} is missing" for name in absent]
        there = [name for name in known if name in value]
        values = {name: self.read(types[name], value[name], _joined(place, name)) for name in there}
        return kind(**values) if len(self.problems) == count else None


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _joined(place: str, name: str) -> str:
    short = name if len(name) <= 80 else f"{name[:80]}..."
    return f"{place}.{short}" if place else short


def _chosen(kind: Any, value: dict[str, Any]) -> Any:
    """Return the first subclass whose required fields are there, else the kind itself."""
    fitting = [child for child in kind.__subclasses__() if _required(child) <= value.keys()]
    return fitting[0] if fitting else kind


def _required(kind: Any) -> set[str]:
    return {entry.name for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING}


def _is_plain(kind: Any, value: object) -> bool:
    """Return whether the value is of a plain type. A whole number is a number, true is none."""
    if type(value) is int:
        return (kind is float and abs(value) <= sys.float_info.max) or (kind is int and -(2**63) <= value < 2**64)
    return type(value) is kind and (not isinstance(value, float) or math.isfinite(value))


def _kind_name(kind: Any) -> str:
    return "an object" if is_dataclass(kind) else NAMES.get(get_origin(kind) or kind, str(kind))
