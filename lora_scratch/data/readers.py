"""Readers of .csv, .tsv, .jsonl, .json (a list), .txt (`text;label`, no header) and .parquet; text files also as .gz.

A reader yields every row of its file: a good one as `Row`, a bad one as an error. Blank lines at
the end of a file are no rows; a blank line in the middle is a bad one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DataError
from .cells import number_of
from .columns import truth
from .delimited import Dialect, Record, swallowed_lines, unquoted_reason
from .headers import read_header
from .json_files import EMPTY, Fields, holds_a_list, read_json_list, read_jsonl
from .layouts import COLA, MRPC_TEXTS
from .parquet import open_parquet, parquet_names
from .rows import Columns, Rows, Table, bad_row, checked_row, require_columns, row_of, shown
from .text_files import lines_of, open_text, without_trailing_blanks

TEXT_KINDS = (".csv", ".tsv", ".jsonl", ".json", ".txt")
EXTENSIONS = (*TEXT_KINDS, ".parquet")
SPREADSHEETS = (".xlsx", ".xls", ".ods")
SAMPLE_ROWS = 100
FEW_WORDS = 3  # a column of texts has at least so many words in most rows


def file_kind(path: Path) -> str:
    """Return the extension that says how to read the file: `.csv` for `rows.csv.gz`; empty for no data file."""
    name = path.name.removesuffix(".gz")
    kind = ".tsv" if name.startswith(MRPC_TEXTS) else Path(name).suffix.lower()
    return kind if kind in (TEXT_KINDS if name != path.name else EXTENSIONS) else ""


def file_stem(path: Path) -> str:
    """Return the name without the extension: `train` for `train.csv.gz`."""
    return Path(path.name.removesuffix(".gz")).stem


def open_table(path: Path, columns: Columns, *, quoted: bool | None = None, class_names: tuple[str, ...] = ()) -> Table:
    """Return the rows of a local file, which are read while iterating.

    Args:
        class_names: the label names that stand for the numbers from 0 on; a parquet file can declare its own.
        quoted: whether a quote in a .tsv quotes; None to decide by its quotes.

    Raises:
        DataError: no regular file, an unknown extension, an unreadable file, or no such column.
    """
    kind = _checked_kind(path)
    if kind == ".parquet":
        return open_parquet(path, columns, unused_texts=unused_texts, class_names=class_names)
    if kind == ".txt":
        return _open_txt(path, columns)
    reason = unquoted_tsv(path) if quoted is None and kind == ".tsv" else ""
    dialect = _dialect(kind, quoted=quoted is not False and not reason)
    if dialect is not None:
        require_columns(read_header(path, dialect).names, columns, where=f"{path}:1", first_line=True)
    sample = [fields for _, fields in islice(_records(path, kind, dialect), SAMPLE_ROWS) if isinstance(fields, dict)]
    rows = _delimited_rows(path, dialect, columns, class_names) if dialect else None
    rows = rows or _rows(_records(path, kind, None), columns, class_names)
    notes = (reason,) if reason else ()
    return Table(rows, class_names, notes, unused_texts(sample, columns))


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a file; none of a .txt, and none where the file can't be read."""
    kind = file_kind(path)
    try:
        if kind == ".parquet":
            return parquet_names(path)
        if dialect := _dialect(kind, quoted=True):
            return read_header(path, dialect).names
        fields = next(_records(path, kind, None))[1] if kind in (".jsonl", ".json") else {}
    except (DataError, StopIteration):  # opening the rows says what is wrong
        return []
    return list(fields) if isinstance(fields, dict) else []


def unquoted_tsv(path: Path) -> str:
    """Return a line that says why the quotes of a .tsv file do not quote; empty if they do, or for another file."""
    if file_kind(path) != ".tsv":
        return ""
    if read_header(path, Dialect("\t", quoted=False)).is_row:
        reason = f"it is GLUE's CoLA, with the columns {', '.join(COLA)} and no header"
    else:
        with open_text(path) as file:
            reason = unquoted_reason(file, Dialect("\t"))
    return f"{path} is read without quoting, a quote is a character of its text: {reason}" if reason else ""


def _checked_kind(path: Path) -> str:
    where = str(path)
    if not os.path.isfile(path):  # Path.is_file raises for a NUL in the name or a long name
        exists = os.path.exists(path)
        raise DataError("not a regular file" if exists else "there is no such file", where=where)
    if kind := file_kind(path):
        return kind
    expected = f"one of {' '.join(EXTENSIONS)}, or .gz of a text file"
    if path.suffix.lower() in SPREADSHEETS:
        remedy = "open it in its program and save the sheet as CSV (UTF-8)"
        raise DataError("a spreadsheet", where=where, expected=expected, remedy=remedy)
    raise DataError(f"unknown file extension {path.suffix!r}", where=where, expected=expected)


def _dialect(kind: str, *, quoted: bool) -> Dialect | None:
    delimiter = {".csv": ",", ".tsv": "\t"}.get(kind)
    return Dialect(delimiter, quoted) if delimiter else None


def _open_txt(path: Path, columns: Columns) -> Table:
    if columns.pair is not None:
        remedy = "write the pairs to a .csv or .jsonl file"
        raise DataError("a .txt file has one text a line, and no second one", where=str(path), remedy=remedy)
    return Table(_txt(path))


def _txt(path: Path) -> Rows:
    with open_text(path, newline="\n") as file:
        for number, line in without_trailing_blanks(lines_of(file)):
            text, semicolon, label = (line or "").rpartition(";")
            if semicolon:
                yield checked_row(f"{path}:{number}", text, label)
            else:
                problem = EMPTY if line is None else f"no ';' in {shown(line)}"
                remedy = "call it .tsv, if it is a table with tabs and a header" if "\t" in text + label else ""
                yield bad_row(f"{path}:{number}", problem, "text;label", remedy)


def _rows(records: Iterable[Fields], columns: Columns, class_names: tuple[str, ...]) -> Rows:
    for place, fields in records:
        yield row_of(place, fields, columns, class_names=class_names) if isinstance(fields, dict) else fields


def _records(path: Path, kind: str, dialect: Dialect | None) -> Iterator[Fields]:
    """Yield every record as (place, its fields by column)."""
    if dialect is not None:
        return ((f"{path}:{record.first}", fields) for record, fields in _delimited(path, dialect))
    return read_json_list(path) if kind == ".json" and holds_a_list(path) else read_jsonl(path)


def _delimited(path: Path, dialect: Dialect) -> Iterator[tuple[Record, dict[str, Any] | DataError]]:
    """Yield every record after the header with its fields by column; a broken one once for each of its lines."""
    header = read_header(path, dialect)
    with open_text(path) as file:
        records = header.rows(dialect.records(file))
        numbered = ((record, record if record.fields or record.problem else None) for record in records)
        for blank_or_record, record in without_trailing_blanks(numbered):
            yield from _by_column(str(path), blank_or_record, record, header.names)


def _by_column(
    path: str, blank: Record, record: Record | None, header: list[str]
) -> Iterator[tuple[Record, dict[str, Any] | DataError]]:
    if record is None:
        yield blank, bad_row(f"{path}:{blank.first}", EMPTY)
    elif record.problem:
        yield from _every_line(path, record, record.problem)
    elif len(record.fields) != len(header):
        problem = f"{len(record.fields)} fields"
        yield record, bad_row(f"{path}:{record.first}", problem, f"{len(header)} as in the header")
    else:
        yield record, dict(zip(header, record.fields, strict=True))


def _every_line(path: str, record: Record, problem: str, remedy: str = "") -> Iterator[tuple[Record, DataError]]:
    for number, line in enumerate(record.lines, start=record.first):
        error = bad_row(f"{path}:{number}", problem, remedy=remedy)
        yield Record(number, (line,), []), error


def _delimited_rows(path: Path, dialect: Dialect, columns: Columns, class_names: tuple[str, ...]) -> Rows:
    """Yield the rows; a record that swallowed other rows is an error for each of its lines."""
    header = read_header(path, dialect).names
    positions = [header.index(label) for label in columns.labels]
    labels: set[str] | None = None  # read when the first record of several lines needs them

    def looks_like_row(fields: list[str]) -> bool:
        """Return whether a line has the header's fields and, between commas, a label of the file."""
        if len(fields) != len(header):
            return False
        if dialect.delimiter == "\t":
            return True
        cells = [fields[position].strip() for position in positions]
        return _is_label(cells[0], labels or set()) if columns.of_classes else None not in map(truth, cells)

    for record, fields in _delimited(path, dialect):
        if len(record.lines) > 1 and not record.problem:
            labels = _labels_of_lines(path, dialect, columns.labels[0]) if labels is None else labels
            if lines := swallowed_lines(record, dialect, looks_like_row):
                for _, error in _every_line(str(path), record, *_swallowed(record, lines)):
                    yield error
                continue
        if isinstance(fields, dict):
            if name := columns.of_classes:
                fields[name] = _class_number(fields[name], class_names)
            yield row_of(f"{path}:{record.first}", fields, columns, class_names=class_names)
        else:
            yield fields


def _class_number(label: str, class_names: tuple[str, ...]) -> str | int:
    """Return the number that a text cell spells, where numbers stand for names."""
    is_number = class_names and label not in class_names and re.fullmatch("-?[0-9]{1,9}", label.strip())
    return int(label) if is_number else label


def _labels_of_lines(path: Path, dialect: Dialect, column: str) -> set[str]:
    """Return the labels of the records that have one line."""
    records = (fields for record, fields in _delimited(path, dialect) if len(record.lines) == 1)
    return {fields[column].strip() for fields in records if isinstance(fields, dict)}


def _is_label(name: str, labels: set[str]) -> bool:
    return bool(name) and (name in labels or (number_of(name) is not None and all(map(_is_score, labels))))


def _is_score(name: str) -> bool:
    return number_of(name) is not None


def _swallowed(record: Record, lines: list[int]) -> tuple[str, str]:
    some = ", ".join(map(str, lines[:20])) + (", ..." if len(lines) > 20 else "")
    problem = f"a quote makes one row of lines {record.first} to {record.last}, of which {some} alone look like rows"
    remedy = f'write a quote within a text twice ("") and the text between quotes, or remove it in lines {record.first}'
    return problem, f"{remedy} and {record.last}; --skip_bad_rows leaves these lines out"


def unused_texts(sample: Iterable[dict[str, Any]], columns: Columns) -> tuple[str, ...]:
    """Return the columns that are not read and hold texts of several words in most rows of the sample."""
    rows = list(sample)
    names = [name for name in (rows[0] if rows else ()) if name not in columns.names]
    return tuple(name for name in names if 2 * sum(_is_text(row.get(name)) for row in rows) > len(rows))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(re.findall(r"[^\W\d_]{2,}", value[:400])) >= FEW_WORDS
