"""lora_scratch/runtime/json_types.py: an object of the type, or one error that names everything wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import pytest

from lora_scratch.errors import DataError
from lora_scratch.runtime.json_types import JsonReader, between, from_json, one_of


@dataclass
class Inner:
    rank: Annotated[int, between(1, 8)]


@dataclass
class Outer:
    name: str
    inner: Inner
    numbers: list[float] = field(default_factory=list)
    by_name: dict[str, int | str] = field(default_factory=dict)
    kind: Annotated[str, one_of(("a", "b"))] = "a"
    several: tuple[str, ...] | None = None


def test_an_object_of_the_type_comes_back():
    """Defaults too; a whole number is a number."""
    value = {"name": "x", "inner": {"rank": 8}, "numbers": [1, 2.5], "by_name": {"p": "q", "r": 1}, "several": ["s"]}
    assert from_json(Outer, value, where="f") == Outer("x", Inner(8), [1, 2.5], {"p": "q", "r": 1}, "a", ("s",))
    assert from_json(Outer, {"name": "x", "inner": {"rank": 1}}, where="f") == Outer("x", Inner(1))


def test_everything_wrong_is_one_error():
    """With the place of each."""
    value = {"inner": {"rank": 9}, "numbers": [1, "2"], "by_name": {"p": None}, "kind": "c", "more": 1}
    with pytest.raises(DataError) as caught:
        from_json(Outer, value, where="f")
    assert str(caught.value) == (
        "f: the content has unknown keys 'more'; name is missing; inner.rank is 9, expected a number from 1 to 8; "
        "numbers[1] is '2', expected a number; by_name.p is None, expected a text; kind is 'c', expected a or b"
    )


@pytest.mark.parametrize("value", [True, "1", None, 1.0, [], {}, 10**400])
def test_a_value_of_another_type_or_out_of_range_is_no_whole_number(value):
    """True is a number in Python."""
    reader = JsonReader()
    reader.read(Annotated[int, between(0, 9)], value, "n")
    assert len(reader.problems) == 1


def test_a_list_of_many_faults_names_few():
    """A million wrong items are no message of a million clauses."""
    reader = JsonReader()
    reader.read(list[int], ["x"] * 10**6, "n")
    assert len(reader.problems) == 5
