"""Open a table to classify: .csv, .tsv, .jsonl, .json (the first four also as .gz) or .parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DataError
from ..runtime.paths import path_fault, shown_path
from .cells import is_blank, number_of
from .delimited import Dialect, Record, swallowed_lines
from .headers import Header, read_header
from .parquet_records import ParquetTable
from .readers import file_kind, unquoted_tsv
from .records import Chunk, Fields, InputTable, TextColumns, chunked, readable
from .rows import bad_row
from .text_files import open_text

EMPTY = "the line is empty"
SAMPLE_ROWS = 1000
ONE_TEXT = "remove the quote, or write the table as .jsonl or .parquet if these lines are one text"
Line = TypeVar("Line")
Found = tuple[str, Fields | DataError]  # (place, the record, or what is wrong with it)


def is_table(path: str) -> bool:
    """Return whether the file is a table by its name, and not texts."""
    return file_kind(Path(path)) not in ("", ".txt")


def check_table(path: Path) -> None:
    """Raise DataError unless the file is there."""
    if fault := path_fault(path):
        raise DataError(fault.found, where=shown_path(path), expected=fault.expected)
    if not os.path.isfile(path):
        problem = "not a regular file" if os.path.exists(path) else "no such file"
        raise DataError(problem, where=str(path))


def open_records(path: Path, read: TextColumns) -> InputTable:
    """Return the records of a table, with all their columns, in their order.

    Raises:
        DataError: no regular file, an unreadable file, or no such column.
    """
    check_table(path)
    kind = file_kind(path)
    if kind == ".parquet":
        return ParquetTable(path, read)
    return JsonTable(path, read) if kind in (".jsonl", ".json") else DelimitedTable(path, read)


class DelimitedTable(InputTable):
    """A .csv or .tsv file. A tab file whose quotes do not pair is read without quoting, as by train."""

    def __init__(self, path: Path, read: TextColumns) -> None:
        reason = unquoted_tsv(path)
        super().__init__(str(path), read, notes=[reason] if reason else [], quoted=not reason)
        self._path = path
        self._dialect = Dialect("\t" if file_kind(path) == ".tsv" else ",", quoted=not reason)
        read.require(self.columns, where=f"{path}:1", first_line=True)

    @cached_property
    def _header(self) -> Header:
        return read_header(self._path, self._dialect)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The fields of the first line, if it is a header."""
        return tuple(self._header.names)

    def chunks(self) -> Iterator[Chunk]:
        """Yield all records; one that swallowed other rows is an error for each of its lines."""
        return chunked(self._found(), self.read)

    def _found(self) -> Iterator[Found]:
        with open_text(self._path) as file:
            records = self._header.rows(self._dialect.records(file))
            for record in without_blank_end(records, lambda record: not (record.fields or record.problem)):
                yield from self._by_column(record)

    def _by_column(self, record: Record) -> Iterator[Found]:
        place = f"{self.place}:{record.first}"
        if record.problem or (swallowed := self._swallowed(record)):
            for number in range(record.first, record.last + 1):
                line = f"{self.place}:{number}"
                yield line, bad_row(line, record.problem or swallowed, remedy="" if record.problem else ONE_TEXT)
        elif len(record.fields) != len(self.columns):
            found = f"{len(record.fields)} fields" if record.fields else EMPTY
            yield place, bad_row(place, found, f"{len(self.columns)} fields as in the header")
        else:
            yield place, dict(zip(self.columns, record.fields, strict=True))

    def _swallowed(self, record: Record) -> str:
        """Return what is wrong with a record of several lines, if a line of it alone looks like a row."""
        if len(record.lines) == 1:
            return ""
        lines = swallowed_lines(record, self._dialect, self._looks_like_row)
        some = ", ".join(map(str, lines[:20])) + (", ..." if len(lines) > 20 else "")
        problem = f"a quote makes one row of lines {record.first} to {record.last}, of which {some} alone look like rows"
        return problem if lines else ""

    def _looks_like_row(self, fields: list[str]) -> bool:
        """Return whether a line has the header's fields and, between commas, what other rows have in their other columns."""
        if len(fields) != len(self.columns):
            return False
        if self._dialect.delimiter == "\t":
            return True
        cells = {name: cell.strip() for name, cell in zip(self.columns, fields, strict=True)}
        known = self._known_cells.items()
        return bool(known) and all(cells[name] in cell if cell else _is_number(cells[name]) for name, cell in known)

    @cached_property
    def _known_cells(self) -> dict[str, set[str]]:
        """The cells of the columns without texts in the first records of one line; no cells if all are numbers."""
        with open_text(self._path) as file:
            records = islice(self._header.rows(self._dialect.records(file)), SAMPLE_ROWS)
            rows = [r.fields for r in records if len(r.lines) == 1 and len(r.fields) == len(self.columns)]
        by_name = zip(self.columns, zip(*rows, strict=True), strict=False)
        cells = {name: {cell.strip() for cell in column} for name, column in by_name if name not in self.read.names}
        return {name: set() if all(map(_is_number, known)) else known for name, known in cells.items() if known != {""}}


class JsonTable(InputTable):
    """A file with one JSON object a line, or a .json file with a list of objects, which is read as a whole."""

    def __init__(self, path: Path, read: TextColumns) -> None:
        super().__init__(str(path), read)
        self._path = path

    def chunks(self) -> Iterator[Chunk]:
        """Yield all objects."""
        return chunked(self._found(), self.read)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Every key, in the order of the first object that has it. Reads the file once."""
        keys: dict[str, None] = {}
        for _, fields in self._found():
            keys.update(dict.fromkeys(map(readable, fields) if isinstance(fields, dict) else ()))
        return tuple(keys)

    @cached_property
    def schema(self) -> Any:
        """Types that hold every value. Reads the file once."""
        import pyarrow as pa  # slow to import

        schema = pa.schema([])
        try:
            for chunk in self.chunks():
                keys = dict.fromkeys(key for fields in chunk.objects for key in fields)
                part = pa.table({key: [fields.get(key) for fields in chunk.objects] for key in keys})
                schema = pa.unify_schemas([schema, part.schema], promote_options="permissive")
        except (pa.ArrowException, OverflowError) as error:
            problem, remedy = f"no column type holds its values ({error})", "write to a .jsonl file"
            raise DataError(problem, where=self.place, remedy=remedy) from error
        return pa.schema([schema.field(name) for name in self.columns])

    def _found(self) -> Iterator[Found]:
        whole = self._path.name.removesuffix(".gz").endswith(".json") and self._holds_a_list()
        entries = self._list() if whole else self._lines()
        for place, entry in entries:
            bad = f"JSON of type {type(entry).__name__}"
            yield place, entry if isinstance(entry, dict | DataError) else bad_row(place, bad, "a JSON object")

    def _lines(self) -> Iterator[tuple[str, Any]]:
        with open_text(self._path) as file:
            lines = without_blank_end(enumerate(file, 1), lambda line: is_blank(line[1]))
            for number, line in lines:
                yield f"{self.place}:{number}", _parsed(f"{self.place}:{number}", line)

    def _list(self) -> Iterator[tuple[str, Any]]:
        with open_text(self._path) as file:
            entries = _parsed(self.place, file.read())
        if isinstance(entries, DataError):
            raise entries
        return ((f"{self.place}:{number}", entry) for number, entry in enumerate(entries, 1))

    def _holds_a_list(self) -> bool:
        with open_text(self._path) as file:
            first = next((line for line in file if line.strip()), "")
        return first.lstrip().startswith("[")


def without_blank_end(lines: Iterable[Line], is_nothing: Callable[[Line], bool]) -> Iterator[Line]:
    """Yield all but the blank ones at the end."""
    blanks: list[Line] = []
    for line in lines:
        if is_nothing(line):
            blanks.append(line)
            continue
        yield from blanks
        blanks.clear()
        yield line


def _is_number(cell: str) -> bool:
    return number_of(cell) is not None


def _parsed(place: str, text: str) -> Any:
    if is_blank(text):
        return bad_row(place, EMPTY, "a JSON object")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:  # also a number of 4,300 digits
        return bad_row(place, f"malformed JSON ({error})", "a JSON object on one line")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return fields
