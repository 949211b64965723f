"""Read texts to classify from a file or standard input, one text a line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import DataError
from ..runtime.paths import path_fault, shown_path
from .rows import checked_text

STANDARD_INPUT = "-"
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")  # lines of these files are no texts


def read_texts(path: str, *, progress: str = "") -> Iterator[str | DataError]:
    """Return an iterator over the lines of a file (`-`: standard input), or errors for bad lines.

    Lines end at \\n or \\r\\n. Blank lines at the end are no texts; one in the middle is bad.

    Args:
        progress: the text of the progress bar, in bytes; no bar if empty.

    Raises:
        DataError: no such file, a table, or it can't be read.
    """
    if fault := path_fault(path):
        raise DataError(fault.found, where=shown_path(path), expected=fault.expected)
    if path != STANDARD_INPUT and not os.path.isfile(path):
        raise DataError("no such file", where=path, expected="a UTF-8 file with one text a line")
    if Path(path).suffix.lower() in TABLES:
        expected, remedy = "a file with one text a line", "write its text column to a .txt file"
        raise DataError("is a table", where=path, expected=expected, remedy=remedy)
    return _lines(path, progress)


def _lines(path: str, progress: str) -> Iterator[str | DataError]:
    stdin = path == STANDARD_INPUT
    name, size = ("standard input", None) if stdin else (path, os.path.getsize(path))
    bar = tqdm(total=size, desc=progress, unit="B", unit_scale=True, disable=not progress)
    try:
        with open(sys.stdin.fileno() if stdin else path, "rb", closefd=not stdin) as file, bar:
            yield from _checked(file, name, bar)
    except OSError as error:
        raise DataError(f"could not be read ({error.strerror})", where=name) from error


def _checked(lines: Iterable[bytes], name: str, bar: Any) -> Iterator[str | DataError]:
    blank: list[str | DataError] = []
    for number, raw in enumerate(lines, 1):
        bar.update(len(raw))
        # surrogateescape: a bad byte makes its line bad, not the file
        encoding = "utf-8-sig" if number == 1 else "utf-8"
        line = raw.decode(encoding, errors="surrogateescape").removesuffix("\n").removesuffix("\r")
        text = checked_text(f"{name}:{number}", line)
        if not line.strip():
            blank.append(text)
            continue
        yield from blank
        blank.clear()
        yield text
