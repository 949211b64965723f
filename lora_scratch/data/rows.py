"""Check a row: a usable text with a label, or an error that says where and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import DataError

SHOWN_CHARACTERS = 60
SHOWN_NAMES = 12


@dataclass(frozen=True)
class Columns:
    """The names of the text column, the label column and, for pairs of texts, the second text column."""

    text: str
    label: str
    pair: str | None = None


@dataclass(frozen=True)
class Row:
    """A checked row. `label` is spelled as in the file; a tuple has the labels of a row with several."""

    place: str
    text: str
    label: str | tuple[str, ...]
    pair: str | None = None


Rows = Iterator[Row | DataError]


@dataclass(frozen=True)
class Table:
    """The rows of one split in file order. A bad row is an error, which the caller raises or lists.

    Args:
        class_names: the label names that the source declares (a ClassLabel feature), in its order.
    """

    rows: Iterable[Row | DataError]
    class_names: tuple[str, ...] = ()


def checked_row(place: str, text: object, label: object, *, class_names: Sequence[str] = ()) -> Row | DataError:
    """Return the row, or an error that says what is wrong with it."""
    problem = _text_problem(text) or _label_problem(label, class_names)
    if problem:
        return bad_row(place, *problem)
    numbered = class_names and isinstance(label, int)
    name = class_names[int(str(label))] if numbered else str(label).strip()
    return Row(place, str(text), name)


def checked_text(place: str, text: str) -> str | DataError:
    """Return the text, or an error that says what is wrong with it."""
    problem = _text_problem(text)
    return bad_row(place, *problem) if problem else text


def bad_row(place: str, problem: str, expected: str = "") -> DataError:
    """Return the error for a row at `place`, which is `path:line`."""
    remedy = "mend the row, or leave such rows out (--skip_bad_rows of train and predict)"
    return DataError(problem, where=place, expected=expected, remedy=remedy)


def require_columns(names: Sequence[str], columns: Columns, *, where: str) -> None:
    """Check that both columns exist once.

    Raises:
        DataError: a column is missing or exists twice; the message lists the columns.
    """
    flags = {"--text_column": columns.text, "--label_column": columns.label}
    missing = {flag: column for flag, column in flags.items() if column not in names}
    if missing:
        problem = f"no column {' and none '.join(map(repr, missing.values()))} among {listed(names)}"
        remedy = f"name {'it' if len(missing) == 1 else 'them'} with {' and '.join(missing)}"
        raise DataError(problem, where=where, remedy=remedy)
    for flag, column in flags.items():
        if names.count(column) > 1:
            problem = f"more than one column {column!r} among {listed(names)}"
            raise DataError(problem, where=where, remedy=f"name another with {flag}")


def checked_class_names(names: object, *, where: str) -> tuple[str, ...]:
    """Return the label names that a data set declares, as strings; none if it declares none.

    Raises:
        DataError: they are no list of different label names.
    """
    if names is None:
        return ()
    valid = isinstance(names, list | tuple) and not any(_label_problem(name, ()) for name in names)
    strings = tuple(map(str, names)) if isinstance(names, list | tuple) else ()
    if not valid or len(set(strings)) < len(strings):
        problem, expected = f"its label names are {listed([names])}", "a list of different names"
        raise DataError(problem, where=where, expected=expected)
    return strings


def shown(value: object) -> str:
    """Return `repr`, cut to fit a line. Control characters and lone bytes are escapes."""
    if isinstance(value, str | bytes) and len(value) > SHOWN_CHARACTERS:
        return f"{value[:SHOWN_CHARACTERS]!r}..."
    return repr(value)


def listed(names: Sequence[object]) -> str:
    """Return the first names, as many as fit a line."""
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


def _character_problem(value: str, field: str) -> tuple[str, str] | None:
    """Refuse NUL and lone surrogates; `surrogateescape` turns a bad byte b into U+DC00 + b."""
    match = re.search("[\0\ud800-\udfff]", value)
    if not match:
        return None
    code, position = ord(match[0]), match.start() + 1
    if code == 0:
        return f"the {field} holds a NUL byte at character {position}", ""
    is_byte = 0xDC80 <= code <= 0xDCFF
    name = f"byte 0x{code - 0xDC00:02x}" if is_byte else f"lone surrogate U+{code:04X}"
    return f"the {field} is not UTF-8: {name} at character {position}", "UTF-8"
