"""500 damaged data files of every format: rows in = rows used + rows reported, or one typed error for the whole file.

    pytest -m torture tests/torture/test_data_files.py -s       the counts by kind

How many rows go in is counted here by other means than the reader's: by the lines of the file, by its own word for parquet.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar
from unicodedata import category

import pyarrow.parquet as pq
import pytest
from support.alarm import no_hang
from support.damage import told
from support.data_damage import FORMATS, damage_data, good_file

from lora_scratch.data import load_splits
from lora_scratch.data.readers import open_table, unquoted_tsv
from lora_scratch.data.rows import Columns, Row
from lora_scratch.errors import DataError

SHORT, FULL = 60, 500
COLUMNS = Columns("text", "label")
ONE_ERROR = "one error for the file"

Result = TypeVar("Result")


def physical_lines(path: Path) -> list[str]:
    """The lines with their ends, without blank ones at the end; a byte that is no UTF-8 stands as a surrogate."""
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = content.decode("utf-16")
    else:
        text = content.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    ends = r"[^\n]*\n|[^\n]+\Z" if path.suffix == ".txt" else r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z"
    found = re.findall(ends, text)
    while found and all(category(letter) in ("Cc", "Cf", "Zl", "Zp", "Zs") for letter in found[-1].replace("\0", "x")):
        found.pop()
    return found


def check_rows(path: Path, rows: list[Row | DataError]) -> None:
    """Every row of the file has come out once, in order, with its own content."""
    if path.suffix == ".parquet":
        assert len(rows) == pq.read_metadata(path).num_rows
        assert [number(row) for row in rows] == list(range(1, len(rows) + 1))
        return
    found = physical_lines(path)
    if path.suffix in (".csv", ".tsv"):
        quoting = csv.QUOTE_NONE if unquoted_tsv(path) else csv.QUOTE_MINIMAL
        check_records(found, rows, delimiter="," if path.suffix == ".csv" else "\t", quoting=quoting)
        return
    assert [number(row) for row in rows] == list(range(1, len(found) + 1))
    for row, line in zip(rows, found, strict=True):
        if isinstance(row, Row):
            text = (
                json.loads(line)["text"]
                if path.suffix == ".jsonl"
                else line.removesuffix("\n").removesuffix("\r").rpartition(";")[0]
            )
            assert row.text == text


def check_records(found: list[str], rows: list[Row | DataError], *, delimiter: str, quoting: Literal[0, 3]) -> None:
    """The rows start at rising lines; a good row is the one record of all lines up to the next row."""
    starts = [number(row) for row in rows]
    assert starts == sorted(set(starts))
    header = next(csv.reader(io.StringIO("".join(found), newline=""), delimiter=delimiter, quoting=quoting), [])
    for row, start, end in zip(rows, starts, [*starts, len(found) + 1][1:], strict=True):
        if isinstance(row, DataError):
            assert end == start + 1 or "broken" not in row.found, "a broken record passes over lines"
        span = "".join(found[start - 1 : end - 1])
        records = list(csv.reader(io.StringIO(span, newline=""), delimiter=delimiter, quoting=quoting))
        assert len(records) <= 1, f"lines {start} to {end - 1} hold {len(records)} records and give one row"
        if isinstance(row, Row):
            assert row.text == records[0][header.index("text")]
    before = "".join(found[: starts[0] - 1]) if starts else "".join(found)
    records = list(csv.reader(io.StringIO(before, newline=""), delimiter=delimiter, quoting=quoting))
    assert len(records) <= 1, "lines before the first row"


def check_checksums(path: Path, good: list[tuple[str, str]]) -> None:
    """Where a parquet file carries checksums, what is read is what was written."""
    found = [(row.text, row.label) if isinstance(row, Row) else row for row in open_table(path, COLUMNS).rows]
    assert found == good, "other rows than those that were written"


def number(row: Row | DataError) -> int:
    """The line, or row, that it names."""
    return int((row.place if isinstance(row, Row) else row.where).rpartition(":")[2])


def attempt(read: Callable[[], Result]) -> Result | DataError:
    """What it gives, or the error that it raises: any other error is a defect."""
    try:
        return read()
    except DataError as error:
        return error


def outcome(path: Path) -> str:
    """What came of reading the file; the laws hold, else AssertionError."""
    rows = attempt(lambda: list(open_table(path, COLUMNS).rows))
    if isinstance(rows, list):
        check_rows(path, rows)
    lenient, strict = attempt(lambda: load_splits(str(path), skip_bad_rows=True)), attempt(lambda: load_splits(str(path)))
    if isinstance(lenient, DataError):
        assert str(path) in str(lenient)
        assert len(str(lenient)) < 1000 + len(str(path))
        assert isinstance(strict, DataError)
        return ONE_ERROR
    used = len(lenient.train) + len(lenient.validation) + len(lenient.test)
    assert isinstance(rows, list)
    assert used + len(lenient.skipped) == len(rows), f"{len(rows)} rows in, {used} used, {len(lenient.skipped)} reported"
    assert all(re.match(re.escape(str(path)) + r":\d+: ", line) and "\n" not in line for line in lenient.skipped)
    assert isinstance(strict, DataError) == bool(lenient.skipped), "without --skip_bad_rows a bad row is an error"
    return "some rows reported" if lenient.skipped else "all rows used"


def run(tmp_path: Path, seeds: range) -> Counter[str]:
    """Damage and read for every seed; the counts by outcome."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for seed in seeds:
        path = good_file(tmp_path, FORMATS[seed % len(FORMATS)])
        good = [(row.text, row.label) for row in open_table(path, COLUMNS).rows]
        what = damage_data(path, random.Random(seed))  # noqa: S311
        try:
            with no_hang():
                found = outcome(path)
                counts[f"{found:<25} {path.suffix:<9} {what.partition(':')[0]}"] += 1
                if path.suffix == ".parquet" and what.startswith("bytes") and found != ONE_ERROR:
                    check_checksums(path, good)
        except Exception as error:
            failures.append(f"{path.name}, seed {seed}, {what}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
    assert not failures, "\n".join([f"{len(failures)} of {len(seeds)}:", *failures[:40]])
    return counts


@pytest.mark.parametrize("kind", FORMATS)
def test_undamaged_file_loses_nothing(tmp_path, kind):
    """The laws hold for the good files, and all their rows are used."""
    assert outcome(good_file(tmp_path, kind)) == "all rows used"


def test_damaged_data_file_loses_no_row_in_silence_in_a_short_sample(tmp_path):
    """The sample of the torture below that runs with the ordinary suite."""
    run(tmp_path, range(SHORT))


@pytest.mark.torture
def test_damaged_data_file_loses_no_row_in_silence(tmp_path, capsys):
    """500 files: no traceback, no hang, rows in = rows used + rows reported."""
    counts = run(tmp_path, range(FULL))
    with capsys.disabled():
        print(told(counts))
