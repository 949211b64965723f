"""Readers of .csv, .tsv, .jsonl, .txt (`text;label`, no header) and .parquet.

A reader yields every row of its file: a good one as `Row`, a bad one as an error. Blank lines at
the end of a file are no rows; a blank line in the middle is a bad one.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

from ..errors import DataError
from .rows import Columns, Row, Rows, Table, bad_row, checked_class_names, checked_row, listed, require_columns, shown

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")
EMPTY = "the line is empty"
FIELD_LIMIT = 64 * 2**20  # characters; csv's limit of 131,072 is too small for long documents

Content = TypeVar("Content")
Reader = Callable[[str, TextIO, Columns], Rows]


def open_table(path: Path, columns: Columns) -> Table:
    """Return the rows of a local file, which are read while iterating.

    Raises:
        DataError: no regular file, an unknown extension, an unreadable file, or no such column.
    """
    where = str(path)
    if not os.path.isfile(path):  # Path.is_file raises for a NUL in the name or a long name
        exists = os.path.exists(path)
        raise DataError("not a regular file" if exists else "there is no such file", where=where)
    if path.suffix not in EXTENSIONS:
        problem = f"unknown file extension {path.suffix!r}"
        raise DataError(problem, where=where, expected=f"one of {' '.join(EXTENSIONS)}")
    if path.suffix == ".parquet":
        return _parquet(path, columns)
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".txt": _txt}
    return Table(_read_text(path, columns, readers[path.suffix]))


def _read_text(path: Path, columns: Columns, reader: Reader) -> Rows:
    try:
        with open(path, "rb") as head:
            if head.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise DataError("the file is UTF-16", where=str(path), expected="UTF-8")
        # surrogateescape: a bad byte makes its row bad (rows.py), not the file
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from reader(str(path), file, columns)
    except OSError as error:
        problem = f"the file could not be read ({error.strerror})"
        raise DataError(problem, where=str(path)) from error


def _txt(path: str, file: TextIO, columns: Columns) -> Rows:
    for number, line in _without_trailing_blanks(_lines(file)):
        text, semicolon, label = (line or "").rpartition(";")
        if semicolon:
            yield checked_row(f"{path}:{number}", text, label)
        else:
            problem = EMPTY if line is None else f"no ';' in {shown(line)}"
            yield bad_row(f"{path}:{number}", problem, "text;label")


def _jsonl(path: str, file: TextIO, columns: Columns) -> Rows:
    for number, line in _without_trailing_blanks(_lines(file)):
        yield _json_row(f"{path}:{number}", line, columns)


def _json_row(place: str, line: str | None, columns: Columns) -> Row | DataError:
    if line is None:
        return bad_row(place, EMPTY, "a JSON object")
    try:
        fields = json.loads(line, object_pairs_hook=_json_object)
    except (ValueError, RecursionError) as error:  # also a number of 4,300 digits
        return bad_row(place, f"malformed JSON ({error})", "a JSON object on one line")
    if not isinstance(fields, dict):
        return bad_row(place, f"JSON of type {type(fields).__name__}", "a JSON object")
    for column in (columns.text, columns.label):
        if column not in fields:
            return bad_row(place, f"no {column!r} among {listed(list(fields))}")
    return checked_row(place, fields[columns.text], fields[columns.label])


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return fields


def _csv(path: str, file: TextIO, columns: Columns) -> Rows:
    records = _csv_records(file, delimiter="\t" if path.endswith(".tsv") else ",")
    records = _without_trailing_blanks(records)
    first, header = next(records, (1, []))
    where = f"{path}:{first}"
    if not isinstance(header, list):
        raise DataError(f"broken header: {header or EMPTY}", where=where, expected="column names")
    if not header:
        return
    require_columns(header, columns, where=where)
    text, label = header.index(columns.text), header.index(columns.label)
    for number, record in records:
        place = f"{path}:{number}"
        if not isinstance(record, list):
            yield bad_row(place, record or EMPTY)
        elif len(record) != len(header):
            yield bad_row(place, f"{len(record)} fields", f"{len(header)} as in the header")
        else:
            yield checked_row(place, record[text], record[label])


def _csv_records(file: TextIO, *, delimiter: str) -> Iterator[tuple[int, list[str] | str | None]]:
    """Yield (first line, fields) of every record; for fields, None if blank, a reason if broken.

    A broken record of several lines (a quote that is never closed) is yielded once for every line.
    """
    csv.field_size_limit(max(csv.field_size_limit(), FIELD_LIMIT))
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"broken quoting in lines {first} to {reader.line_num} ({error})"
            yield from ((line, reason) for line in range(first, reader.line_num + 1))
        else:
            yield first, fields or None


def _lines(file: TextIO) -> Iterator[tuple[int, str | None]]:
    """Yield (number, line without its ending); None for a blank line."""
    for number, line in enumerate(file, start=1):
        yield number, line.rstrip("\r\n") if line.strip() else None


def _without_trailing_blanks(
    lines: Iterable[tuple[int, Content | None]],
) -> Iterator[tuple[int, Content | None]]:
    blanks: list[int] = []
    for number, content in lines:
        if content is None:
            blanks.append(number)
            continue
        yield from ((blank, None) for blank in blanks)
        blanks.clear()
        yield number, content


def _parquet(path: Path, columns: Columns) -> Table:
    import pyarrow as pa  # slow to import
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        schema = file.schema_arrow
        names = list(schema.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken_parquet(path, error) from error
    require_columns(names, columns, where=str(path))
    class_names = _class_names(schema, columns.label, where=str(path))
    return Table(_parquet_rows(path, file, columns, class_names), class_names)


def _parquet_rows(path: Path, file: Any, columns: Columns, names: tuple[str, ...]) -> Rows:
    """Yield the rows, numbered from 1."""
    import pyarrow as pa

    number = 0
    try:
        for batch in file.iter_batches(columns=[columns.text, columns.label]):
            for text, label in zip(batch[columns.text], batch[columns.label], strict=True):
                number += 1
                yield _parquet_row(f"{path}:{number}", text, label, names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken_parquet(path, error) from error
    if number != (declared := file.metadata.num_rows):
        raise _broken_parquet(path, ValueError(f"it holds {number} rows and says {declared}"))


def _parquet_row(place: str, text: Any, label: Any, names: tuple[str, ...]) -> Row | DataError:
    try:
        return checked_row(place, text.as_py(), label.as_py(), class_names=names)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        return bad_row(place, f"not UTF-8: byte 0x{byte:02x} at byte {error.start + 1}", "UTF-8")
    except (ValueError, OverflowError) as error:  # a date that Python has no object for
        problem = f"a value that can't be read ({error})"
        return bad_row(place, problem, "a string, and a string or an integer")


def _class_names(schema: Any, label_column: str, *, where: str) -> tuple[str, ...]:
    """Return the names of a ClassLabel column, from the metadata that `datasets` writes, if any."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label_column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return checked_class_names(names, where=where)


def _broken_parquet(path: Path, error: Exception) -> DataError:
    return DataError(f"not a readable parquet file ({str(error)[:200]})", where=str(path))
