"""Check a row: a usable text, or pair of texts, with a label, or an error that says where and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import DataError
from .cells import Fault, is_missing, label_fault, spelled_label, text_fault
from .cells import listed as listed
from .cells import shown as shown
from .columns import Columns as Columns
from .columns import applying_labels
from .layouts import looks_like_a_row

MEND = "mend the row, or leave such rows out (--skip_bad_rows of train and predict)"


@dataclass(frozen=True)
class Row:
    """A checked row. `label` is spelled as in the file; a tuple has the labels of a row with several."""

    place: str
    text: str
    label: str | tuple[str, ...]
    pair: str | None = None


class UnlabelledRow(DataError):
    """A row whose text can be used and whose label is missing, as in the test file of a competition."""


class NoLabelColumn(DataError):
    """A table that has the texts and no column of labels."""


Rows = Iterator[Row | DataError]


@dataclass(frozen=True)
class Table:
    """The rows of one split in file order. A bad row is an error, which the caller raises or lists.

    Args:
        class_names: the label names that the source declares (a ClassLabel feature), in its order.
        notes: what was decided about the file, a line each.
        unused_texts: columns that hold texts of several words and are not read.
    """

    rows: Iterable[Row | DataError]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unused_texts: tuple[str, ...] = ()


def row_of(
    place: str, fields: Mapping[str, object], columns: Columns, *, class_names: Sequence[str] = ()
) -> Row | DataError:
    """Return the row that the columns of a record make, or an error that says what is wrong with it."""
    for column in columns.names:
        if column not in fields:
            error = bad_row(place, f"no {column!r} among {listed(list(fields))}")
            return _unlabelled(error) if fields.keys().isdisjoint(columns.labels) and column in columns.labels else error
    text, label = fields[columns.text], _label_of(fields, columns)
    if isinstance(label, Fault):
        return bad_row(place, *label)
    if columns.pair is None:
        return checked_row(place, text, label, class_names=class_names)
    if fault := text_fault(fields[columns.pair], "second text"):
        return bad_row(place, *fault)
    return checked_row(place, text, label, class_names=class_names, pair=str(fields[columns.pair]))


def _label_of(fields: Mapping[str, object], columns: Columns) -> object:
    """Return the label of a record, or the list of those whose columns say yes, or what is wrong with them."""
    return fields[columns.label] if isinstance(columns.label, str) else applying_labels(fields, columns.label)


def checked_row(
    place: str, text: object, label: object, *, class_names: Sequence[str] = (), pair: str | None = None
) -> Row | DataError:
    """Return the row, or an error that says what is wrong with it."""
    if fault := text_fault(text):
        return bad_row(place, *fault)
    if fault := label_fault(label, class_names):
        error = bad_row(place, *fault)
        return _unlabelled(error) if is_missing(label, class_names) else error
    return Row(place, str(text), spelled_label(label, class_names), pair)


def checked_text(place: str, text: str) -> str | DataError:
    """Return the text, or an error that says what is wrong with it."""
    fault = text_fault(text)
    return bad_row(place, *fault) if fault else text


def bad_row(place: str, problem: str, expected: str = "", remedy: str = "") -> DataError:
    """Return the error for a row at `place`, which is `path:line`."""
    return DataError(problem, where=place, expected=expected, remedy=remedy or MEND)


def require_columns(names: Sequence[str], columns: Columns, *, where: str, first_line: bool = False) -> None:
    """Check that all columns exist once.

    Args:
        first_line: the names are the first line of a file, which could be a row.

    Raises:
        NoLabelColumn: only the column of the labels is missing.
        DataError: a column is missing or exists twice; the message lists the columns.
    """
    missing = {column: flag for flag, column in columns.flags if column not in names}
    if missing:
        kind = NoLabelColumn if set(missing) == set(columns.labels) else DataError
        raise missing_columns(missing, names, where=where, first_line=first_line, kind=kind)
    for flag, column in columns.flags:
        if names.count(column) > 1:
            problem = f"more than one column {column!r} among {listed(names)}"
            raise DataError(problem, where=where, remedy=f"name another with {flag}")


def missing_columns(
    missing: Mapping[str, str],
    names: Sequence[str],
    *,
    where: str,
    first_line: bool,
    kind: type[DataError] = DataError,
) -> DataError:
    """Return the error for missing columns, each with the flag that names another; say it where there is no header."""
    if first_line and looks_like_a_row(names):
        problem = f"the first line looks like a row and not like names of columns: {listed(names)}"
        others = f"if these are names, choose with {_flags(missing)}"
        return kind(problem, where=where, expected="a header", remedy=f"write a line of names above it ({others})")
    problem = f"no column {' and none '.join(map(repr, missing))} among {listed(names)}"
    remedy = f"name {'it' if len(missing) == 1 else 'them'} with {_flags(missing)}"
    return kind(problem, where=where, remedy=remedy)


def _flags(missing: Mapping[str, str]) -> str:
    return " and ".join(dict.fromkeys(missing.values()))


def checked_class_names(names: object, *, where: str) -> tuple[str, ...]:
    """Return the label names that a data set declares, as strings; none if it declares none.

    Raises:
        DataError: they are no list of different label names.
    """
    if names is None:
        return ()
    entries = list(names) if isinstance(names, list | tuple) else [None]
    valid = all(isinstance(name, str | int) and not label_fault(name, ()) for name in entries)
    strings = tuple(map(str, entries))
    if not valid or len(set(strings)) < len(strings):
        problem, expected = f"its label names are {listed([names])}", "a list of different names"
        raise DataError(problem, where=where, expected=expected)
    return strings


def _unlabelled(error: DataError) -> UnlabelledRow:
    return UnlabelledRow(error.found, where=error.where, expected=error.expected, remedy=error.remedy)
