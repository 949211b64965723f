"""Any JSON value in the place of any value of a document, drawn by hypothesis."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    2**64,
    10**30,
    10**400,
    -0.0,
    0.5,
    1e-320,
    1e308,
    float("inf"),
    float("nan"),
    "",
    " ",
    "\0",
    "x",
    "4",
    "nan",
    "__class__",
    "load",
    "float32",
    "../../x",
    "a\nb",
    "\x1b[2J",
    "\ud800",
    "\udcff",
    "é" * 3000,
    [],
    {},
    [[]],
    {"": None},
    ["x"] * 2,
    [None] * 3000,
    {"a": {"b": {"c": []}}},
]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(ODD)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4), max_leaves=8
)

Place = tuple[str | int, ...]


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield the place of every value in a document, the document's own first; of long lists a few."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*place, key))


def replaced(document: Any, place: Place, value: Any) -> Any:
    """Return a copy of the document with `value` in that place."""
    if not place:
        return value
    changed = copy.deepcopy(document)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def changed(document: Any) -> st.SearchStrategy[Any]:
    """Return documents with any value in any place, or with a key more."""
    one = st.sampled_from(list(places(document))).flatmap(
        lambda place: VALUES.map(lambda value: replaced(document, place, value))
    )
    more = st.tuples(st.text(max_size=6), VALUES).map(lambda pair: {**document, pair[0]: pair[1]})
    return one | one | one | more if isinstance(document, dict) else one


def text_of(document: Any) -> bytes:
    """Return the document as a file of others may hold it: NaN and halves of surrogate pairs too."""
    return json.dumps(document).encode()
