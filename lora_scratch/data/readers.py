"""One reader for each file format: .csv, .tsv, .jsonl, .txt (`text;label`, no header) and .parquet.

A reader yields every row of its file, good ones as `Row` and bad ones as the error they are, so the number of rows that go
in is the number that come out. Blank lines at the end of a file are no rows; a blank line in the middle is a bad one.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

from ..errors import DataError
from .rows import Columns, Row, Table, bad_row, checked_class_names, checked_row, listed, require_columns, shown

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")
FIELD_LIMIT = 64 * 2**20  # characters; csv's own limit of 131,072 is less than a long document has

Content = TypeVar("Content")


def open_table(path: Path, columns: Columns) -> Table:
    """The rows of a local file, read as they are asked for.

    Raises:
        DataError: no regular file, an unknown extension, an unreadable file, or a column that is not there.
    """
    if not os.path.isfile(path):  # os.path answers False where Path raises: NUL in the name, a name too long
        raise DataError("not a regular file" if os.path.exists(path) else "there is no such file", where=str(path))
    if path.suffix not in EXTENSIONS:
        raise DataError(
            f"unknown file extension {path.suffix!r}", where=str(path), expected=f"one of {' '.join(EXTENSIONS)}"
        )
    if path.suffix == ".parquet":
        return _parquet(path, columns)
    readers: dict[str, Callable[[str, TextIO, Columns], Iterator[Row | DataError]]]
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".txt": _txt}
    return Table(_read_text(path, columns, readers[path.suffix]))


def _read_text(
    path: Path, columns: Columns, reader: Callable[[str, TextIO, Columns], Iterator[Row | DataError]]
) -> Iterator[Row | DataError]:
    try:
        with open(path, "rb") as head:
            if head.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise DataError("the file is UTF-16", where=str(path), expected="UTF-8")
        # surrogateescape: a stray byte is the fault of its row, not the end of the file (rows.py finds it)
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from reader(str(path), file, columns)
    except OSError as error:
        raise DataError(f"the file could not be read ({error.strerror})", where=str(path)) from error


def _txt(path: str, file: TextIO, columns: Columns) -> Iterator[Row | DataError]:
    for number, line in _without_trailing_blanks(_lines(file)):
        text, semicolon, label = (line or "").rpartition(";")
        if semicolon:
            yield checked_row(f"{path}:{number}", text, label)
        else:
            yield bad_row(
                f"{path}:{number}", "the line is empty" if line is None else f"no ';' in {shown(line)}", "text;label"
            )


def _jsonl(path: str, file: TextIO, columns: Columns) -> Iterator[Row | DataError]:
    for number, line in _without_trailing_blanks(_lines(file)):
        yield _json_row(f"{path}:{number}", line, columns)


def _json_row(place: str, line: str | None, columns: Columns) -> Row | DataError:
    if line is None:
        return bad_row(place, "the line is empty", "a JSON object")
    try:
        fields = json.loads(line, object_pairs_hook=_json_object)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more than 4,300 digits
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


def _csv(path: str, file: TextIO, columns: Columns) -> Iterator[Row | DataError]:
    records: Iterator[tuple[int, list[str] | str | None]]
    records = _without_trailing_blanks(_csv_records(file, delimiter="\t" if path.endswith(".tsv") else ","))
    first, header = next(records, (1, []))
    if not isinstance(header, list):
        raise DataError(f"broken header: {header or 'the line is empty'}", where=f"{path}:{first}", expected="column names")
    if not header:
        return
    require_columns(header, columns, where=f"{path}:{first}")
    for number, record in records:
        place = f"{path}:{number}"
        if not isinstance(record, list):
            yield bad_row(place, record or "the line is empty")
        elif len(record) != len(header):
            yield bad_row(place, f"{len(record)} fields", f"{len(header)} as in the header")
        else:
            yield checked_row(place, record[header.index(columns.text)], record[header.index(columns.label)])


def _csv_records(file: TextIO, *, delimiter: str) -> Iterator[tuple[int, list[str] | str | None]]:
    """(line where it starts, fields) of every record; None for a blank line; what is wrong for a broken record.

    A broken record of several lines (a quote that is never closed) comes out once for every line: each could be a row.
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
            lines = range(first, reader.line_num + 1)
            yield from ((line, f"broken quoting in lines {first} to {lines[-1]} ({error})") for line in lines)
        else:
            yield first, fields or None


def _lines(file: TextIO) -> Iterator[tuple[int, str | None]]:
    """(number, line without its ending); None for a blank line."""
    for number, line in enumerate(file, start=1):
        yield number, line.rstrip("\r\n") if line.strip() else None


def _without_trailing_blanks(lines: Iterable[tuple[int, Content | None]]) -> Iterator[tuple[int, Content | None]]:
    blanks: list[int] = []
    for number, content in lines:
        if content is None:
            blanks.append(number)
            continue
        yield from ((blank, None) for blank in blanks)
        blanks.clear()
        yield number, content


def _parquet(path: Path, columns: Columns) -> Table:
    import pyarrow as pa  # slow to import, and needed for this format alone
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)  # where the writer left checksums
        schema = file.schema_arrow
        names = list(schema.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken_parquet(path, error) from error
    require_columns(names, columns, where=str(path))
    class_names = _class_names(schema, columns.label, where=str(path))
    return Table(_parquet_rows(path, file, columns, class_names), class_names)


def _parquet_rows(path: Path, file: Any, columns: Columns, class_names: tuple[str, ...]) -> Iterator[Row | DataError]:
    """Rows are numbered from 1: a parquet file has no lines."""
    import pyarrow as pa

    number = 0
    try:
        for batch in file.iter_batches(columns=[columns.text, columns.label]):
            for text, label in zip(batch[columns.text], batch[columns.label], strict=True):
                number += 1
                yield _parquet_row(f"{path}:{number}", text, label, class_names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken_parquet(path, error) from error
    if number != file.metadata.num_rows:
        raise _broken_parquet(path, ValueError(f"it holds {number} rows and says {file.metadata.num_rows}"))


def _parquet_row(place: str, text: Any, label: Any, class_names: tuple[str, ...]) -> Row | DataError:
    try:
        return checked_row(place, text.as_py(), label.as_py(), class_names=class_names)
    except UnicodeDecodeError as error:
        return bad_row(place, f"not UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start + 1}", "UTF-8")
    except (ValueError, OverflowError) as error:  # a date that Python has no object for
        return bad_row(place, f"a value that can't be read ({error})", "a string, and a string or an integer")


def _class_names(schema: Any, label_column: str, *, where: str) -> tuple[str, ...]:
    """The names of a ClassLabel column, which `datasets` writes into the schema's metadata; empty without them.

    Raises:
        DataError: names that are no labels, or one twice: rows would be numbered wrongly.
    """
    try:
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"][label_column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return checked_class_names(names, where=where)


def _broken_parquet(path: Path, error: Exception) -> DataError:
    return DataError(f"not a readable parquet file ({str(error)[:200]})", where=str(path))
