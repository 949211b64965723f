"""Texts to classify, one a line of a file or of standard input: each comes out in its place, or what is wrong with it."""

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
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")  # whose lines are no texts


def read_texts(path: str, *, progress: str = "") -> Iterator[str | DataError]:
    """The lines of a file (`-`: standard input) without their ends, one at a time; lines end at \\n or \\r\\n alone.

    Blank lines at the end are no texts; one in the middle is a bad one, and keeps its place.

    Args:
        progress: what a bar of the bytes that have been read says; no bar if empty.

    Raises:
        DataError: no such file, a table, or it can't be read.
    """
    if fault := path_fault(path):
        raise DataError(fault.found, where=shown_path(path), expected=fault.expected)
    if path != STANDARD_INPUT and not os.path.isfile(path):
        raise DataError("no such file", where=path, expected="a UTF-8 file with one text a line")
    if Path(path).suffix.lower() in TABLES:
        raise DataError(
            "is a table", where=path, expected="a file with one text a line", remedy="write its text column to a .txt file"
        )
    return _lines(path, progress)


def _lines(path: str, progress: str) -> Iterator[str | DataError]:
    stdin = path == STANDARD_INPUT
    name, size = ("standard input", None) if stdin else (path, os.path.getsize(path))
    bar = tqdm(total=size, desc=progress, unit="B", unit_scale=True, disable=not progress)
    try:
        with open(sys.stdin.fileno() if stdin else path, "rb", closefd=not stdin) as file, bar:
            yield from _checked(_counted(file, bar), name)
    except OSError as error:
        raise DataError(f"could not be read ({error.strerror})", where=name) from error


def _counted(lines: Iterable[bytes], bar: Any) -> Iterator[bytes]:
    for line in lines:
        bar.update(len(line))
        yield line


def _checked(lines: Iterable[bytes], name: str) -> Iterator[str | DataError]:
    blank: list[str | DataError] = []
    for number, raw in enumerate(lines, 1):
        # surrogateescape: a stray byte is the fault of its line, which says so
        letters = raw.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape")
        line = letters.removesuffix("\n").removesuffix("\r")
        text = checked_text(f"{name}:{number}", line)
        if not line.strip():
            blank.append(text)
            continue
        yield from blank
        blank.clear()
        yield text
