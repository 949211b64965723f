"""Write records with their answers: JSON lines, .csv, .tsv or .parquet. A file is whole or absent.

Input columns come first, in their order and with their values; the answer's columns follow. Text
cells have no types: nothing is an empty cell, `true` and `false` are spelled so, a list is JSON.
"""

from __future__ import annotations

import csv
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TextIO

from ..data.records import Chunk, InputTable
from ..errors import ConfigError, DataError
from ..runtime.atomic import new_file
from .answers import BOOLEAN, NUMBER, STRING, STRINGS, WHOLE, Answer, AnswerFormat, json_value

ROW_GROUP, ROW_GROUP_BYTES = 4096, 2**23  # of a .parquet file that are written at once, whichever comes first
JSON_LINES = ".jsonl"
FORMS = (JSON_LINES, ".csv", ".tsv", ".parquet")

Answers = Sequence[Answer | DataError]


def output_form(path: str | None) -> str:
    """Return the extension that says how to write; JSON lines for standard output.

    Raises:
        ConfigError: another extension.
    """
    form = JSON_LINES if path is None else Path(path).suffix.lower()
    if form not in FORMS:
        raise ConfigError(f"found the extension {form!r}", where=f"--output {path}", expected=" or ".join(FORMS))
    return form


def open_stream(path: str | None) -> AbstractContextManager[TextIO]:
    """Return standard output, or a new file that appears when it is whole."""
    return nullcontext(sys.stdout) if path is None else new_file(Path(path))


@contextmanager
def open_output(path: str | None, table: InputTable, answers: AnswerFormat) -> Iterator[Writer]:
    """Yield a writer to standard output, or to a new file that appears when it is whole.

    Raises:
        DataError: the table has a column with the name of an added one.
    """
    form = output_form(path)
    with open_stream(path) as file:
        if form == JSON_LINES:
            yield JsonWriter(file, table, answers)
            return
        check_names(table.columns, answers, where=table.place)
        if form == ".parquet":
            with _whole_or_gone(ParquetWriter(file, table, answers)) as parquet:
                yield parquet
        else:
            yield CsvWriter(file, table, answers, delimiter="\t" if form == ".tsv" else ",")


def check_names(names: Sequence[str], answers: AnswerFormat, *, where: str) -> None:
    """Raise DataError if one of the names is that of an added column."""
    if taken := [name for name in answers.columns if name in names]:
        remedy = f"rename the input's, or name the added columns otherwise: --prefix predicted_ makes predicted_{taken[0]}"
        problem = f"the input has a column {taken[0]!r} already, which would be overwritten"
        raise DataError(problem, where=where, remedy=remedy)


class Writer(ABC):
    """Writes chunks with their answers."""

    def __init__(self, file: TextIO, table: InputTable, answers: AnswerFormat) -> None:
        self._file, self._table, self._answers = file, table, answers

    @abstractmethod
    def write(self, chunk: Chunk, answers: Answers) -> None:
        """Write the chunk's records, each with its answer. Raises DataError for a value that can't be written."""


class JsonWriter(Writer):
    """One JSON object a line."""

    def write(self, chunk: Chunk, answers: Answers) -> None:
        """Write the objects."""
        for place, fields, answer in zip(chunk.places, chunk.objects, answers, strict=True):
            added = self._answers.as_json(answer, place)
            if taken := [name for name in added if name in fields]:
                check_names(taken, self._answers, where=place)
            try:
                line = json.dumps({**json_value(fields), **added}, allow_nan=False)
            except DataError as error:
                raise DataError(error.found, where=place, expected=error.expected, remedy=error.remedy) from error
            self._file.write(line + "\n")


class CsvWriter(Writer):
    """A line for every record, below a header. The lines of a tab file that had no quoting get none."""

    def __init__(self, file: TextIO, table: InputTable, answers: AnswerFormat, *, delimiter: str) -> None:
        super().__init__(file, table, answers)
        unquoted = delimiter == "\t" and not table.quoted
        quotes: Any = {"quoting": csv.QUOTE_NONE, "quotechar": None} if unquoted else {"quoting": csv.QUOTE_MINIMAL}
        self._writer = csv.writer(_Lines(file), delimiter=delimiter, **quotes)
        self._writer.writerow([*table.columns, *answers.columns])

    def write(self, chunk: Chunk, answers: Answers) -> None:
        """Write the lines."""
        for place, fields, answer in zip(chunk.places, chunk.objects, answers, strict=True):
            values = [fields.get(name) for name in self._table.columns]
            added = self._answers.as_columns(answer, place).values()
            try:
                self._writer.writerow([cell(value) for value in (*values, *added)])
            except csv.Error as error:
                remedy = "write to a .csv or .jsonl file"
                raise DataError(f"can't be written without quotes ({error})", where=place, remedy=remedy) from error


class ParquetWriter(Writer):
    """A .parquet file. The input's columns keep their types; those without a type are strings."""

    def __init__(self, file: TextIO, table: InputTable, answers: AnswerFormat) -> None:
        import pyarrow as pa  # slow to import
        import pyarrow.parquet as pq

        super().__init__(file, table, answers)
        types = {STRING: pa.string(), NUMBER: pa.float64(), BOOLEAN: pa.bool_(), WHOLE: pa.int64()}
        types[STRINGS] = pa.list_(pa.string())
        self._added = pa.schema([(name, types[kind]) for name, kind in answers.columns.items()])
        self._schema = pa.schema([*table.schema, *self._added], metadata=table.schema.metadata)
        self._writer = pq.ParquetWriter(file.buffer, self._schema)
        self._waiting: list[Any] = []

    def write(self, chunk: Chunk, answers: Answers) -> None:
        """Write the records, as soon as they are enough for a row group."""
        import pyarrow as pa

        rows = [self._answers.as_columns(answer, place) for place, answer in zip(chunk.places, answers, strict=True)]
        added = pa.RecordBatch.from_pylist(rows, self._added)
        batch = chunk.batch
        if batch is None:
            batch = pa.RecordBatch.from_pylist(chunk.objects, self._table.schema)
        self._waiting.append(pa.RecordBatch.from_arrays([*batch.columns, *added.columns], schema=self._schema))
        rows, size = (sum(getattr(part, kind) for part in self._waiting) for kind in ("num_rows", "nbytes"))
        if rows >= ROW_GROUP or size >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write the rest."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Write the end of a file that will be removed. Otherwise pyarrow does so later, and complains on stderr."""
        with suppress(Exception):
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
            self._waiting.clear()


@contextmanager
def _whole_or_gone(writer: ParquetWriter) -> Iterator[ParquetWriter]:
    try:
        yield writer
        writer.close()
    except BaseException:
        writer.abandon()
        raise


class _Lines:
    """Ends lines with LF. With CR LF `csv` puts quotes around either of both, and with LF alone not around CR."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        """Write one record."""
        self._file.write(line.removesuffix("\r\n") + "\n")


def cell(value: Any) -> str:
    """Return a value as a cell of a text table."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    plain = json_value(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, allow_nan=False)
