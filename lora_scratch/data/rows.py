"""Check a row: a usable text, or pair of texts, with a label, or an error that says where and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import DataError
from .cells import is_missing, label_fault, spelled_label, text_fault
from .cells import listed as listed
from .cells import shown as shown

MEND = "mend the row, or leave such rows out (--skip_bad_rows of train and predict)"


@dataclass(frozen=True)
class Columns:
    """The names of the text column, the label column and, for pairs of texts, the second text column."""

    text: str
    label: str
    pair: str | None = None

    @property
    def names(self) -> list[str]:
        """The columns that are read, that of the label last."""
        return [self.text, *([self.pair] if self.pair is not None else []), self.label]


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
            return _unlabelled(error) if column == columns.label else error
    text, label = fields[columns.text], fields[columns.label]
    if columns.pair is None:
        return checked_row(place, text, label, class_names=class_names)
    if fault := text_fault(fields[columns.pair], "second text"):
        return bad_row(place, *fault)
    return checked_row(place, text, label, class_names=class_names, pair=str(fields[columns.pair]))


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


def require_columns(names: Sequence[str], columns: Columns, *, where: str) -> None:
    """Check that all columns exist once.

    Raises:
        NoLabelColumn: only the column of the labels is missing.
        DataError: a column is missing or exists twice; the message lists the columns.
    """
    pair_flag = ["--pair_column"] if columns.pair is not None else []
    flags = dict(zip(["--text_column", *pair_flag, "--label_column"], columns.names, strict=True))
    missing = {flag: column for flag, column in flags.items() if column not in names}
    if missing:
        problem = f"no column {' and none '.join(map(repr, missing.values()))} among {listed(names)}"
        remedy = f"name {'it' if len(missing) == 1 else 'them'} with {' and '.join(missing)}"
        kind = NoLabelColumn if list(missing) == ["--label_column"] else DataError
        raise kind(problem, where=where, remedy=remedy)
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
    entries = list(names) if isinstance(names, list | tuple) else [None]
    valid = all(isinstance(name, str | int) and not label_fault(name, ()) for name in entries)
    strings = tuple(map(str, entries))
    if not valid or len(set(strings)) < len(strings):
        problem, expected = f"its label names are {listed([names])}", "a list of different names"
        raise DataError(problem, where=where, expected=expected)
    return strings


def _unlabelled(error: DataError) -> UnlabelledRow:
    return UnlabelledRow(error.found, where=error.where, expected=error.expected, remedy=error.remedy)
