"""Laws of lora_scratch/data/cells.py: what shows nothing is no text and no label, by one rule for all files and commands."""

import time

import pytest

from lora_scratch.data import checked_text
from lora_scratch.data.cells import is_blank, is_missing, text_fault
from lora_scratch.errors import DataError

BLANK = {
    "nothing": "",
    "white space": " \t\r\n\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000",
    "zero width space": "\u200b",
    "byte order mark": "\ufeff",
    "word joiner": "\u2060",
    "joiners": "\u200c\u200d",
    "directions": "\u200e\u200f\u061c\u202a\u202e\u2066\u2069",
    "soft hyphen": "\xad\xad",
    "controls": "\x01\x07\x1b\x7f\x9f",
    "fillers": "\u115f\u1160\u3164\uffa0\u2800\u034f",
    "variation selectors": "\ufe0f\ufe0e\U000e0100",
    "tags": "\U000e0001\U000e0041\U000e007f",
    "mixed": " \u200b\n\ufeff ",
}


@pytest.mark.parametrize("text", BLANK.values(), ids=BLANK)
def test_a_text_that_shows_nothing_is_empty(text):
    """As a text and as a label; "." or a letter among them makes it one."""
    assert is_blank(text)
    assert text_fault(text) == ("the text is empty", "", "")
    assert isinstance(checked_text("a.txt:1", text), DataError)
    assert is_missing(text, ())
    assert checked_text("a.txt:1", f"{text}.{text}") == f"{text}.{text}"


@pytest.mark.parametrize(
    "text",
    ["a", "0", "é", "e\u0301", "مرحبا", "日本", "👩‍👩‍👧", "🏴\U000e0067\U000e007f", "\u0600", "\ufffd", "\U0001fae9", "\0"],
)
def test_a_text_that_shows_something_is_none_of_these(text):
    """In any script; a character that this Python does not know yet too."""
    assert not is_blank(text)
    assert not is_blank(f"\u200b{text}")


def test_a_long_text_of_nothing_is_refused_in_no_time():
    """Two million characters: 80 ms on a busy machine; character by character it was 1.2 s."""
    start = time.perf_counter()
    assert is_blank("\u200b" * 2_000_000)
    assert time.perf_counter() - start < 1
