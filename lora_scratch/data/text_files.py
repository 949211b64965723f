"""Open a text file as people have it: UTF-8 with or without a mark, UTF-16 with one, gzip of either."""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar, cast

from ..errors import DataError
from .cells import is_blank

MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
UTF32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
# which of the first four bytes are zero in UTF-16 of letters without marks
UNMARKED: dict[tuple[bool, ...], str] = {
    (False, True, False, True): "UTF-16LE",
    (True, False, True, False): "UTF-16BE",
}
CR_REMEDY = r"convert it: tr '\r' '\n' < FILE > NEW"

Content = TypeVar("Content")
Place = TypeVar("Place")


@contextmanager
def open_text(path: Path | None, *, newline: str = "") -> Iterator[TextIO]:
    """Open a text file for reading; a byte that is not UTF-8 becomes a lone surrogate of its row.

    Args:
        path: of the file; None for standard input.
        newline: what alone ends a line; if empty, \\n, \\r and \\r\\n do.

    Raises:
        DataError: it can't be read, here or while the caller iterates over its lines.
    """
    where = "standard input" if path is None else str(path)
    try:
        with _open_bytes(path) as content:
            encoding = _encoding(content.peek(4)[:4], where)
            # surrogateescape: a bad byte makes its row bad (cells.py), not the file
            errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
            with io.TextIOWrapper(content, encoding, errors=errors, newline=newline) as file:
                yield file
    except UnicodeDecodeError as error:
        raise DataError(f"the file is broken UTF-16 ({error.reason})", where=where, expected="UTF-8") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the gzip file is broken ({error})", where=where) from error
    except OSError as error:
        raise DataError(f"the file could not be read ({error.strerror or error})", where=where) from error


def _encoding(start: bytes, where: str) -> str:
    """Return the encoding that the first bytes say. Raises DataError for one that is not read."""
    unread = "UTF-32" if start in UTF32_MARKS else UNMARKED.get(tuple(byte == 0 for byte in start))
    if unread:
        found = f"the file is {unread}" if unread == "UTF-32" else f"the file looks like {unread} without its mark"
        raise DataError(found, where=where, expected="UTF-8", remedy=f"convert it: iconv -f {unread} -t UTF-8 FILE > NEW")
    return MARKS.get(start[:2], "utf-8-sig")


def _open_bytes(path: Path | None) -> io.BufferedReader:
    if path is None and sys.stdin is None:  # its number may be that of another file by now
        raise DataError("is closed", where="standard input", remedy="pass --file FILE")
    if path is None:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    return cast("io.BufferedReader", gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")


def lines_of(file: TextIO) -> Iterator[tuple[int, str | None]]:
    """Yield (number, line without its ending); None for a blank line.

    Raises:
        DataError: the lines end with \\r alone, and were not split there.
    """
    for number, line in enumerate(file, start=1):
        if number == 1:
            check_line_ends(line, where=str(file.name))
        yield number, None if is_blank(line) else without_end(line)


def without_end(line: str) -> str:
    """Return a line without the \\n or \\r\\n that ends it."""
    return line.removesuffix("\n").removesuffix("\r")


def check_line_ends(first: str, *, where: str) -> None:
    """Check that a file of texts is no single line because its lines end with \\r alone.

    Raises:
        DataError: they do.
    """
    if not first.endswith("\n") and "\r" in without_end(first):
        raise DataError("its lines end with a carriage return alone", where=where, expected="line feeds", remedy=CR_REMEDY)


def without_trailing_blanks(lines: Iterable[tuple[Place, Content | None]]) -> Iterator[tuple[Place, Content | None]]:
    """Yield the lines again but for blank ones at the end, which are no rows."""
    blanks: list[Place] = []
    for number, content in lines:
        if content is None:
            blanks.append(number)
            continue
        yield from ((blank, None) for blank in blanks)
        blanks.clear()
        yield number, content
