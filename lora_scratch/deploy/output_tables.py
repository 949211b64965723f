"""Write records with their answers: JSON lines, .csv, .tsv or .parquet. A file is whole or absent.

Input columns come first, in their order and with their values; the answer's columns follow. Text
cells have no types: nothing is an empty cell, `true` and `false` are spelled so, a list is JSON.
"""

from __future__ import annotations

import csv
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO

from ..data.cells import shown
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
        check_names(table.columns, answers.columns, prefix=answers.prefix, where=table.place)
        if form == ".parquet":
            with _whole_or_gone(ParquetWriter(file, table, answers)) as parquet:
                yield parquet
        else:
            yield CsvWriter(file, table, answers, delimiter="\t" if form == ".tsv" else ",")


def check_names(names: Collection[str], added: Iterable[str], *, prefix: str, where: str) -> None:
    """Raise DataError if one of the input's names is that of an added column, which begins with the prefix."""
    if taken := [name for name in added if name in names]:
        longer = f"--prefix predicted_{prefix} makes predicted_{taken[0]}"
        remedy = f"rename the input's, or name the added columns otherwise: {longer}"
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
            check_names(fields, added, prefix=self._answers.prefix, where=place)
            plain = {name: _converted(json_value, value, place, name) for name, value in fields.items()}
            self._file.write(json.dumps({**plain, **added}, allow_nan=False) + "\n")


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
            cells = [_converted(cell, fields.get(name), place, name) for name in self._table.columns]
            added = self._answers.as_columns(answer, place).values()
            try:
                self._writer.writerow([*cells, *map(cell, added)])
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
        _check_types(table.schema, table.place)
        self._writer = pq.ParquetWriter(file.buffer, self._schema)
        self._waiting: list[Any] = []

    def write(self, chunk: Chunk, answers: Answers) -> None:
        """Write the records, as soon as they are enough for a row group."""
        import pyarrow as pa

        rows = [self._answers.as_columns(answer, place) for place, answer in zip(chunk.places, answers, strict=True)]
        added = pa.RecordBatch.from_pylist(rows, self._added)
        columns = self._columns(chunk) if chunk.batch is None else chunk.batch.columns
        self._waiting.append(pa.RecordBatch.from_arrays([*columns, *added.columns], schema=self._schema))
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

    def _columns(self, chunk: Chunk) -> list[Any]:
        """Return the values as arrays of the schema's types. Raises DataError for one that its type does not hold."""
        import pyarrow as pa

        columns = []
        for field in self._table.schema:
            with _in_parquet(f"{chunk.places[0]} to {chunk.places[-1]}", field.name):
                columns.append(pa.array([fields.get(field.name) for fields in chunk.objects], field.type))
        return columns

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            with _in_parquet(self._table.place):
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


def _check_types(schema: Any, place: str) -> None:
    """Raise DataError for a nested type that .parquet does not hold, or that no reader takes since it is too deep."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for field in schema:
        if pa.types.is_nested(field.type):
            with _in_parquet(place, field.name):
                pq.write_table(pa.schema([field]).empty_table(), content := BytesIO())
                pq.read_schema(content)


@contextmanager
def _in_parquet(place: str, column: str | None = None) -> Iterator[None]:
    """Raise what pyarrow says of values that it can't write as a DataError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        name = "a column" if column is None else f"column {shown(column)}"
        problem, remedy = f"{name} can't be written to .parquet ({error})", "write to a .jsonl file, which keeps such cells"
        raise DataError(problem, where=place, remedy=remedy) from error


def _converted(convert: Callable[[Any], Any], value: Any, place: str, name: str) -> Any:
    """Return `convert(value)`. Raises DataError with the place and the column for a value that has no other form."""
    try:
        return convert(value)
    except DataError as error:
        problem = f"column {shown(name)} holds bytes"
        raise DataError(problem, where=place, expected=error.expected, remedy=error.remedy) from error


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
