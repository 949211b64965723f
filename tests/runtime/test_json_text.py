"""lora_scratch/runtime/json_text.py: strict text within bounds; what is refused is one ValueError, soon."""

import json
import time

import pytest

from lora_scratch.runtime.json_text import MOST_BYTES, MOST_DEPTH, parse_json

DEEP = "[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[" * 10**5, "nested deeper than 64"),
        ('{"a":' * 10**5, "nested deeper than 64"),
        (DEEP, "nested deeper than 64"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' is there twice"),
        ("NaN", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e400", "1e400 is too large for a number"),
        ("9" * 5000, "a number of 5,000 digits"),
        (r'"\ud800"', "half of a surrogate pair"),
        (r'{"\ud800": 1}', "half of a surrogate pair"),
        ("[" + "[]," * 2**20 + "[]]", "more than 1,048,576 values"),
        (" " * (MOST_BYTES + 1), "larger than 33,554,432 bytes"),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_not_within_the_bounds_is_refused_at_once(text, reason):
    """As text and as bytes."""
    start = time.perf_counter()
    for content in (text, text.encode()):
        with pytest.raises(ValueError, match=reason):
            parse_json(content)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("value", [None, True, 10**900, -0.0, 1e308, "", r"\u0000", "\udcff", [], {}, {"": [1, {"a": "ü"}]}])
def test_what_is_json_is_read_as_json_reads_it(value):
    """The bounds are wide: a stray byte of a file's name too."""
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode()) == value
