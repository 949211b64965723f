"""Read texts to classify from a file or standard input, one text a line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from ..errors import DataError
from ..runtime.paths import path_fault, shown_path
from .cells import is_blank
from .readers import SPREADSHEETS, file_kind
from .rows import checked_text
from .text_files import check_line_ends, open_text, without_end

STANDARD_INPUT = "-"


def read_texts(path: str, *, progress: str = "") -> Iterator[str | DataError]:
    """Return an iterator over the lines of a file (`-`: standard input), or errors for bad lines.

    UTF-8, or UTF-16 with its mark. Lines end at \\n or \\r\\n. Blank lines at the end are no texts; one in the
    middle is bad.

    Args:
        progress: the text of the progress bar, in bytes; no bar if empty.

    Raises:
        DataError: no such file, a table, or it can't be read.
    """
    if bad_path := path_fault(path):
        raise DataError(bad_path.found, where=shown_path(path), expected=bad_path.expected)
    if path != STANDARD_INPUT and not os.path.isfile(path):
        fault = "this is a folder" if os.path.isdir(path) else "no such file"
        raise DataError(fault, where=path, expected="a UTF-8 file with one text a line")
    _refuse_table(path)
    return _lines(path, progress)


def _refuse_table(path: str) -> None:
    """Raise DataError for a file whose lines are no texts."""
    expected = "a file with one text a line"
    if file_kind(Path(path)) not in ("", ".txt"):
        remedy = "name its columns: --text_column, and --pair_column for pairs"
        raise DataError("is a table", where=path, expected=expected, remedy=remedy)
    if Path(path).suffix.lower() == ".ndjson":
        raise DataError("is a table", where=path, expected=expected, remedy="name it .jsonl")
    if Path(path).suffix.lower() in SPREADSHEETS:
        remedy = "open it in its program and save the sheet as CSV (UTF-8)"
        raise DataError("is a spreadsheet", where=path, expected=expected, remedy=remedy)
    if Path(path).suffix.lower() == ".gz":
        raise DataError(
            "is compressed", where=path, expected=expected, remedy=f"gunzip -c {shlex.quote(path)} | predict ADAPTER -"
        )


def _lines(path: str, progress: str) -> Iterator[str | DataError]:
    stdin = path == STANDARD_INPUT
    name, size = ("standard input", None) if stdin else (path, os.path.getsize(path))
    bar = tqdm(total=size, desc=progress, unit="B", unit_scale=True, disable=not progress)
    with open_text(None if stdin else Path(path), newline="\n") as file, bar:
        yield from _checked(file, name, bar)


def _checked(file: TextIO, name: str, bar: Any) -> Iterator[str | DataError]:
    blank: list[str | DataError] = []
    for number, read in enumerate(file, 1):
        bar.update(len(read) if bar.total is None else file.buffer.tell() - bar.n)
        if number == 1:
            check_line_ends(read, where=name)
        line = without_end(read)
        text = checked_text(f"{name}:{number}", line)
        if is_blank(line):
            blank.append(text)
            continue
        yield from blank
        blank.clear()
        yield text
