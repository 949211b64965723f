"""Read the records of .csv and .tsv files, and notice a quote that swallows whole rows.

A quote that opens a field and closes lines later makes one record of all lines between. It is
legal CSV, and it is how a text with line breaks is written. Only the lines themselves tell: a
line inside such a record that alone looks like a row of the file was most likely one.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

FIELD_LIMIT = 64 * 2**20  # characters; csv's limit of 131,072 is too small for long documents

LooksLikeRow = Callable[[list[str]], bool]


@dataclass(frozen=True)
class Record:
    """One record.

    Args:
        first: the number of its first line, from 1.
        lines: its lines as they are in the file.
        fields: its fields; empty for a blank line and a broken record.
        problem: why it is broken; empty if it is not.
    """

    first: int
    lines: tuple[str, ...]
    fields: list[str]
    problem: str = ""

    @property
    def last(self) -> int:
        """The number of its last line."""
        return self.first + len(self.lines) - 1


@dataclass(frozen=True)
class Dialect:
    """How a file separates its fields, and whether a quote is more than a character."""

    delimiter: str
    quoted: bool = True

    def records(self, lines: Iterable[str]) -> Iterator[Record]:
        """Yield the records. A broken one (a quote that is never closed) has all its lines."""
        csv.field_size_limit(max(csv.field_size_limit(), FIELD_LIMIT))
        taken: list[str] = []
        reader = self._reader(_noted(lines, taken))
        first = 1
        while True:
            fields, problem = [], ""
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem = f"broken quoting in lines {first} to {reader.line_num} ({error})"
            yield Record(first, tuple(taken), fields, problem)
            first += len(taken)
            taken.clear()

    def fields_alone(self, line: str) -> list[str]:
        """Return the fields of a line that is a record of its own, none if its quotes do not pair."""
        try:
            return next(self._reader([line]), [])
        except csv.Error:
            return []

    def _reader(self, lines: Iterable[str]) -> Any:
        if self.quoted:
            return csv.reader(lines, delimiter=self.delimiter, strict=True)
        return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=True)


def swallowed_lines(record: Record, dialect: Dialect, looks_like_row: LooksLikeRow) -> list[int]:
    """Return the lines of a record that alone look like rows, where they are too many for one record.

    The first and the last line hold the quotes, and one of them can look like a row in a text
    with line breaks. So both must, or a line between them.
    """
    if len(record.lines) < 2:
        return []
    ends = (0, len(record.lines) - 1)
    fields = [
        line.rstrip("\r\n").split(dialect.delimiter) if number in ends else dialect.fields_alone(line)
        for number, line in enumerate(record.lines)
    ]
    rows = [number for number, each in enumerate(fields) if looks_like_row(each)]
    is_text = all(number in ends for number in rows) and len(rows) < 2
    return [] if is_text else [record.first + number for number in rows]


def unquoted_reason(file: TextIO, dialect: Dialect) -> str:
    """Return why the quotes of a tab file are characters of its texts; empty if they quote."""
    header: list[str] = []

    def looks_like_row(fields: list[str]) -> bool:
        """Return whether a line has as many fields as the header."""
        return len(fields) == len(header)

    for record in dialect.records(file):
        header = header or record.fields
        if record.problem:
            return f"the quotes in lines {record.first} to {record.last} do not pair"
        if swallowed_lines(record, dialect, looks_like_row):
            return f"a quote would make one row of lines {record.first} to {record.last}"
    return ""


def _noted(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line
