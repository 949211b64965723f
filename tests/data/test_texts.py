"""Laws of lora_scratch/data/texts.py: every line comes out in its place, as a text or as what is wrong with it."""

import os
import sys
from functools import partial
from pathlib import Path

import pytest

from lora_scratch.data import read_texts
from lora_scratch.data.columns import Columns
from lora_scratch.data.readers import open_table
from lora_scratch.deploy.named_rows import read_named_rows
from lora_scratch.errors import DataError


def read(path):
    """Texts, and the messages of bad ones from the line number on."""
    return [str(t).removeprefix(f"{path}:") if isinstance(t, DataError) else t for t in read_texts(str(path))]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"one", ["one"]),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n", ["one", "\ufefftwo"]),
        (b"one\n\n \n\t\r\n", ["one"]),
        ("one\n\u200b\n\ufeff\u2060\r\n".encode(), ["one"]),
        ("a\rb\x0bc\x0cd\x1ce\x85f\u2028g\n".encode(), ["a\rb\x0bc\x0cd\x1ce\x85f\u2028g"]),
        ("مرحبا\n👩‍👩‍👧\n<script>\n\x1b[2J".encode(), ["مرحبا", "👩‍👩‍👧", "<script>", "\x1b[2J"]),
        (b"a" * 10**6, ["a" * 10**6]),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_texts_are_the_lines_as_they_are(tmp_path, content, expected):
    """Only a line end and a byte order mark at the start are no part of a text; blank lines at the end are none."""
    (tmp_path / "texts.txt").write_bytes(content)
    assert read(tmp_path / "texts.txt") == expected


def test_bad_texts_keep_their_place(tmp_path):
    """Blank in the middle, NUL, bytes that are no UTF-8: each is an error that names its line, and the rest is there."""
    path = tmp_path / "texts.txt"
    path.write_bytes(b"one\n\n \nnul\0\ncaf\xe9\n\xed\xa0\x80\nlast\n")
    found = read(path)
    assert [found[0], found[-1]] == ["one", "last"]
    starts = ["2: the text is empty", "3: the text is empty", "4: the text holds a NUL byte at character 4"]
    starts += ["5: the text is not UTF-8: byte 0xe9 at character 4", "6: the text is not UTF-8: byte 0xed at character 1"]
    assert [text.partition(";")[0] for text in found[1:-1]] == starts


def test_a_text_that_shows_nothing_is_empty(tmp_path):
    """It has no tokens, as a blank one has none."""
    path = tmp_path / "texts.txt"
    path.write_text("\ufeff\u200b\n\u2060\x1b\nlast\n", encoding="utf-8")
    assert [text.partition(";")[0] for text in read(path)] == ["1: the text is empty", "2: the text is empty", "last"]


@pytest.mark.parametrize("content", [b"one\rtwo\r", b"one\rtwo", b"\xef\xbb\xbfone\r\rtwo\r"])
def test_a_file_without_line_feeds_is_not_taken_for_one_text(tmp_path, content):
    """Old programs end lines with a carriage return alone; in a file with line feeds one is a part of a text."""
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"texts\.txt: its lines end with a carriage return alone; .* tr '\\r' '\\n' < FILE"):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_texts_of_windows_are_read_as_tables_are(tmp_path, encoding):
    """UTF-16 says itself what it is, in either order of bytes; a line ends at its line feed there too."""
    path = tmp_path / "texts.txt"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes(f"{mark}café ☕\r\n\u0a0a second\r\n\r\n".encode(encoding))
    assert read(path) == ["café ☕", "\u0a0a second"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one\ntwo".encode("utf-16-le"), "looks like UTF-16LE without its mark; expected UTF-8; .* iconv -f UTF-16LE"),
        ("one\ntwo".encode("utf-16-be"), "looks like UTF-16BE without its mark; expected UTF-8; .* iconv -f UTF-16BE"),
        ("one\ntwo".encode("utf-32"), "is UTF-32; expected UTF-8; .* iconv -f UTF-32"),
        ("one\n".encode("utf-16")[:-1], "is broken UTF-16"),
        (b"caf\xe9;x\n", r"texts\.txt:1: .* byte 0xe9 at character 4; .* \(the byte is 'é' in cp1252\): iconv -f CP1252"),
    ],
    ids=["le", "be", "32", "cut", "cp1252"],
)
@pytest.mark.parametrize("rows_of", [read_texts, lambda path: open_table(Path(path), Columns("text", "label")).rows])
def test_other_encodings_name_the_way_out(tmp_path, content, message, rows_of):
    """The same line for texts and for the rows of a training."""
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        raise_errors(rows_of(str(path)))


def raise_errors(rows):
    for row in rows:
        if isinstance(row, DataError):
            raise row


@pytest.mark.parametrize(
    ("make", "fault"),
    [(None, "no such file"), (os.mkdir, "this is a folder"), (os.mkfifo, "no such file")],
    ids=["nothing", "folder", "pipe"],
)
def test_what_is_no_file_is_refused_at_once(tmp_path, make, fault):
    """Before the first text is asked for, and a pipe is not waited on."""
    if make:
        make(tmp_path / "texts.txt")
    with pytest.raises(DataError, match=rf"texts\.txt: {fault}; expected a UTF-8 file with one text a line"):
        read_texts(str(tmp_path / "texts.txt"))


REFUSED = {
    **dict.fromkeys(["csv", "TSV", "jsonl", "json", "parquet", "csv.gz"], "is a table; .* name its columns: --text_column"),
    "ndjson": "is a table; .*name it .jsonl",
    **dict.fromkeys(["xlsx", "ODS"], "is a spreadsheet; .* save the sheet as CSV"),
    **dict.fromkeys(["txt.gz", "gz"], r"is compressed; .* gunzip -c .*rows\..*gz \| predict ADAPTER -"),
}


@pytest.mark.parametrize("ending", REFUSED)
def test_a_file_whose_lines_are_no_texts_is_refused(tmp_path, ending):
    """A header and labels would be classified too, without a word."""
    path = tmp_path / f"rows.{ending}"
    path.write_text("text,label\n")
    with pytest.raises(DataError, match=REFUSED[ending]):
        read_texts(str(path))


@pytest.mark.parametrize("read", [read_texts, partial(read_named_rows, adapters=["base"])], ids=["texts", "rows"])
def test_a_closed_standard_input_is_one_line(read, monkeypatch):
    """Python gives None for it."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input: is closed; pass --file FILE"):
        list(read("-"))
