"""A row at the door: a usable text with a label, or an error that says where and why. Nothing is dropped without a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import DataError

SHOWN_CHARACTERS = 60
SHOWN_NAMES = 12


@dataclass(frozen=True)
class Columns:
    """The names of the two columns that are read."""

    text: str
    label: str


@dataclass(frozen=True)
class Row:
    """A checked row. `label` is the label's name, an integer in its decimal form."""

    place: str
    text: str
    label: str


@dataclass(frozen=True)
class Table:
    """The rows of one split in file order; a bad row stands there as the error it is, for the caller to raise or to list.

    Args:
        class_names: the label names in their own order where the source declares them (a ClassLabel feature), else empty.
    """

    rows: Iterable[Row | DataError]
    class_names: tuple[str, ...] = ()


def checked_row(place: str, text: object, label: object, *, class_names: Sequence[str] = ()) -> Row | DataError:
    """The row, or what is wrong with it."""
    problem = _text_problem(text) or _label_problem(label, class_names)
    if problem:
        return bad_row(place, *problem)
    name = class_names[int(str(label))] if class_names and isinstance(label, int) else str(label).strip()
    return Row(place, str(text), name)


def checked_text(place: str, text: str) -> str | DataError:
    """The text of a row that has no label, or what is wrong with it."""
    problem = _text_problem(text)
    return bad_row(place, *problem) if problem else text


def bad_row(place: str, found: str, expected: str = "") -> DataError:
    """The error for one row that can't be used, `where` = `path:line`."""
    return DataError(
        found,
        where=place,
        expected=expected,
        remedy="mend the row, or leave such rows out (--skip_bad_rows of train and predict)",
    )


def require_columns(names: Sequence[str], columns: Columns, *, where: str) -> None:
    """Check that both columns are there once.

    Raises:
        DataError: one is missing or there twice; the message lists the columns found.
    """
    wanted = {"--text_column": columns.text, "--label_column": columns.label}
    missing = {flag: column for flag, column in wanted.items() if column not in names}
    if missing:
        found = f"no column {' and none '.join(map(repr, missing.values()))} among {listed(names)}"
        raise DataError(
            found, where=where, remedy=f"name {'it' if len(missing) == 1 else 'them'} with {' and '.join(missing)}"
        )
    for flag, column in wanted.items():
        if names.count(column) > 1:
            found = f"more than one column {column!r} among {listed(names)}"
            raise DataError(found, where=where, remedy=f"name another with {flag}")


def checked_class_names(names: object, *, where: str) -> tuple[str, ...]:
    """The label names that a data set declares, as strings; none if it declares none.

    Raises:
        DataError: what is declared is no list of different label names.
    """
    given = names if isinstance(names, list | tuple) else []
    found = tuple(str(name) for name in given)
    usable = names is None or isinstance(names, list | tuple)
    if not usable or len(set(found)) < len(found) or any(_label_problem(name, ()) for name in given):
        raise DataError(
            f"the label names that it declares are {listed([names])}", where=where, expected="a list of different names"
        )
    return found


def shown(value: object) -> str:
    """`repr` cut to a length that fits a line: control characters and stray bytes are printed as escapes."""
    if isinstance(value, str | bytes) and len(value) > SHOWN_CHARACTERS:
        return f"{value[:SHOWN_CHARACTERS]!r}..."
    return repr(value)


def listed(names: Sequence[object]) -> str:
    """The first names, as many as one line holds."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(shown(name) for name in names[:SHOWN_NAMES]) + more if names else "nothing"


def _text_problem(text: object) -> tuple[str, str] | None:
    if text is None:
        return "the row has no text", ""
    if not isinstance(text, str):
        return f"the text is of type {type(text).__name__}", "a string"
    return _character_problem(text, "text") or (None if text.strip() else ("the text is empty", ""))


def _label_problem(label: object, class_names: Sequence[str]) -> tuple[str, str] | None:
    if label is None or (isinstance(label, str) and not label.strip()):
        return "the row has no label", ""
    if isinstance(label, bool) or not isinstance(label, str | int):
        return f"the label is of type {type(label).__name__}", "a string or an integer"
    if class_names and isinstance(label, int) and not 0 <= label < len(class_names):
        return f"the label is {label}", f"0 to {len(class_names) - 1}: {listed(class_names)}"
    return _character_problem(label, "label") if isinstance(label, str) else None


def _character_problem(value: str, what: str) -> tuple[str, str] | None:
    """NUL, and lone surrogates: files are opened with `surrogateescape`, which maps a stray byte b to U+DC00 + b."""
    found = re.search("[\0\ud800-\udfff]", value)
    if not found:
        return None
    code, position = ord(found[0]), found.start() + 1
    if code == 0:
        return f"the {what} holds a NUL byte at character {position}", ""
    name = f"byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"lone surrogate U+{code:04X}"
    return f"the {what} is not UTF-8: {name} at character {position}", "UTF-8"
