"""Check the cells of a row, and spell a label as the file does, by one rule for all formats."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

SHOWN_CHARACTERS = 60
SHOWN_NAMES = 12
LABEL_TYPES = "a string, a number, a boolean, or a list of them"

# White space, controls, and what Unicode names Default_Ignorable_Code_Point: zero-width and format characters, fillers.
# Beside these the blank of Braille, and the marks of annotations; not NUL, which has an error of its own.
BLANKS = (
    r"\s\x01-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
SEEN = re.compile(f"[^{BLANKS}]")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")

Scalar = str | bool | int | float | Decimal


class Fault(NamedTuple):
    """What is wrong with a cell, as the clauses of an error."""

    found: str
    expected: str = ""
    remedy: str = ""


def text_fault(text: object, field: str = "text") -> Fault | None:
    """Return what is wrong with a text, None if nothing."""
    if text is None:
        return Fault(f"the row has no {field}")
    if not isinstance(text, str):
        return Fault(f"the {field} is of type {type(text).__name__}", "a string")
    return _character_fault(text, field) or (Fault(f"the {field} is empty") if is_blank(text) else None)


def is_blank(text: str) -> bool:
    """Return whether a text shows nothing: no characters, white space, or zero-width and control characters alone."""
    return SEEN.search(text) is None


def label_fault(label: object, class_names: Sequence[str]) -> Fault | None:
    """Return what is wrong with a label or a list of labels, None if nothing."""
    if not isinstance(label, list | tuple):
        return _scalar_fault(label, class_names)
    for entry in label:
        if fault := _scalar_fault(entry, class_names):
            return Fault(f"in its list of labels {fault.found}", fault.expected)
    spelled = [spelled_scalar(entry, class_names) for entry in label]
    twice = [name for name in spelled if spelled.count(name) > 1]
    if twice:
        remedy = "list the names of the labels that apply, each once, in place of 0 and 1 for every label"
        return Fault(f"label {shown(twice[0])} stands twice in its list of labels", "different labels", remedy)
    return None


def is_missing(label: object, class_names: Sequence[str]) -> bool:
    """Return whether the cell holds no label: nothing, blanks, NaN, or the -1 of hidden class numbers."""
    if label is None or (isinstance(label, str) and is_blank(label)):
        return True
    if isinstance(label, float):
        return math.isnan(label)
    return bool(class_names) and is_number(label) and label == -1


def spelled_label(label: object, class_names: Sequence[str]) -> str | tuple[str, ...]:
    """Return the name of a label that has no fault; of a list, the names in its order."""
    if isinstance(label, list | tuple):
        return tuple(spelled_scalar(entry, class_names) for entry in label)
    return spelled_scalar(label, class_names)


def spelled_scalar(label: object, class_names: Sequence[str] = ()) -> str:
    """Return a label as a file spells it: 1 is `1`, 1.0 is `1.0`, true is `true`; class numbers get their names."""
    if isinstance(label, bool):
        return str(label).lower()
    if class_names and isinstance(label, int):
        return class_names[label]
    return str(label).strip()


def is_number(value: object) -> bool:
    """Return whether the value is a number and no boolean."""
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def number_of(name: str) -> float | None:
    """Return the finite number that a name spells, None if it spells none."""
    number = float(name) if NUMBER.fullmatch(name) else math.inf
    return number if math.isfinite(number) else None


def shown(value: object) -> str:
    """Return `repr`, cut to fit a line. Control characters and lone bytes are escapes."""
    if isinstance(value, str | bytes) and len(value) > SHOWN_CHARACTERS:
        return f"{value[:SHOWN_CHARACTERS]!r}..."
    return repr(value)


def listed(names: Sequence[object]) -> str:
    """Return the first names, as many as fit a line."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(shown(name) for name in names[:SHOWN_NAMES]) + more if names else "nothing"


def _scalar_fault(label: object, class_names: Sequence[str]) -> Fault | None:
    if class_names and isinstance(label, int) and not 0 <= label < len(class_names):
        return Fault(f"the label is {label}", f"0 to {len(class_names) - 1}: {listed(class_names)}")
    if is_missing(label, class_names):
        return Fault("the row has no label")
    if not isinstance(label, Scalar):
        return Fault(f"the label is of type {type(label).__name__}", LABEL_TYPES)
    if isinstance(label, float | Decimal) and not math.isfinite(label):
        return Fault(f"the label is {label}", "a finite number")
    return _character_fault(label, "label") if isinstance(label, str) else None


def _character_fault(value: str, field: str) -> Fault | None:
    """Refuse NUL and lone surrogates; `surrogateescape` turns a bad byte b into U+DC00 + b."""
    match = re.search("[\0\ud800-\udfff]", value)
    if not match:
        return None
    code, position = ord(match[0]), match.start() + 1
    if code == 0:
        return Fault(f"the {field} holds a NUL byte at character {position}")
    if not 0xDC80 <= code <= 0xDCFF:
        return Fault(f"the {field} is not UTF-8: lone surrogate U+{code:04X} at character {position}", "UTF-8")
    found = f"the {field} is not UTF-8: byte 0x{code - 0xDC00:02x} at character {position}"
    return Fault(found, "UTF-8", not_utf8_remedy(code - 0xDC00))


def not_utf8_remedy(byte: int) -> str:
    """Return how to convert a file with this byte, which older Windows programs write as cp1252."""
    letter = bytes([byte]).decode("cp1252", errors="ignore")
    meaning = f" (the byte is {letter!r} in cp1252)" if letter else ""
    return f"convert the file{meaning}: iconv -f CP1252 -t UTF-8 FILE > NEW, or leave such rows out (--skip_bad_rows)"
