"""Read the header of a .csv or .tsv file: its first record, but for a kind of file that is known to have none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .delimited import Dialect, Record
from .layouts import COLA, is_cola
from .text_files import open_text


@dataclass(frozen=True)
class Header:
    """The names of the columns. `is_row`: the file has no header, and its first record is a row."""

    names: list[str]
    is_row: bool = False

    def rows(self, records: Iterator[Record]) -> Iterator[Record]:
        """Return the records below the header."""
        if not self.is_row:
            next(records, None)
        return records


def read_header(path: Path, dialect: Dialect) -> Header:
    """Return the names of the columns.

    Raises:
        DataError: the file is empty, or its first record is broken.
    """
    with open_text(path) as file:
        record = next(dialect.records(file), None)
    if record is None:
        raise DataError("the file is empty", where=str(path), expected="a header with the column names")
    if not record.fields:
        problem = f"broken header: {record.problem or 'the line is empty'}"
        raise DataError(problem, where=f"{path}:1", expected="column names")
    if dialect.delimiter == "\t" and is_cola(record.fields):
        return Header(list(COLA), is_row=True)
    return Header(record.fields)
