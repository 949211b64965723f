"""Read the text of a JSON file of others: strictly, within bounds, and without surprises later.

Refused: a key twice in one object, NaN and infinity, numbers that no float holds, halves of surrogate
pairs, and what is larger or nested deeper than any file of ours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Any, NoReturn

MOST_BYTES = 2**25
MOST_VALUES = 2**20
MOST_DEPTH = 64
MOST_DIGITS = 1000


def parse_json(content: bytes | str, *, most_bytes: int = MOST_BYTES, most_values: int = MOST_VALUES) -> Any:
    """Return what the text of a JSON file holds.

    Raises:
        ValueError: it is not JSON, or not within the bounds; one line says what is wrong.
    """
    if len(content) > most_bytes:
        raise ValueError(f"larger than {most_bytes:,} bytes")
    if _most_values(content) > most_values:
        raise ValueError(f"more than {most_values:,} values")
    numbers: Any = {"parse_int": _whole, "parse_float": _finite, "parse_constant": _no_constant}
    try:
        value = json.loads(content, object_pairs_hook=_object, **numbers)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MOST_DEPTH}") from error
    _check_values(value)
    return value


def _most_values(content: bytes | str) -> int:
    """Return a bound of the number of values: every one but the first follows one of these marks."""
    if isinstance(content, str):
        return sum(map(content.count, (",", "[", "{")))
    return sum(map(content.count, (b",", b"[", b"{")))


def _check_values(value: Any) -> None:
    """Check depth and texts, level by level."""
    for depth, level in enumerate(levels(value)):
        if depth == MOST_DEPTH:
            raise ValueError(f"nested deeper than {MOST_DEPTH}")
        for text in level:
            if isinstance(text, str):
                _check_text(text)


def levels(value: Any) -> Iterator[list[Any]]:
    """Yield the parts of a JSON value, level by level: the value, what it holds, what that holds."""
    level = [value]
    while level:
        yield level
        dicts = [part for part in level if isinstance(part, dict)]
        lists = [part for part in level if isinstance(part, list)]
        level = [*chain.from_iterable(lists), *chain.from_iterable(chain(part, part.values()) for part in dicts)]


def _check_text(text: str) -> None:
    try:
        text.encode(errors="surrogateescape")  # what stands for a stray byte in a file's name is a text
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair in {text[:40]!a}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = sorted(name for name, _ in pairs)
        twice = next(name for name, following in pairwise(names) if name == following)
        raise ValueError(f"{twice[:40]!a} is there twice")
    return fields


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large for a number")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
