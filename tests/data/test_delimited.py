"""Laws of lora_scratch/data/delimited.py: a quote never makes rows disappear without a word."""

from pathlib import Path

import pytest

from lora_scratch.data import load_splits, readers
from lora_scratch.data.delimited import Dialect
from lora_scratch.data.readers import open_table
from lora_scratch.data.rows import Columns, Row
from lora_scratch.errors import DataError

COLUMNS = Columns("text", "label")
PLAIN = [f"row {number} of the file,{'good' if number % 2 else 'bad'}" for number in range(40)]


def written(path: Path, lines: list[str], *, header: str = "text,label") -> Path:
    separated = [line if path.suffix == ".csv" else line.replace(",", "\t") for line in [header, *lines]]
    path.write_text("".join(f"{line}\n" for line in separated))
    return path


def outcome(path: Path, columns: Columns = COLUMNS) -> tuple[list[str], list[str]]:
    """The texts of good rows, and the messages of bad ones."""
    rows = list(open_table(path, columns).rows)
    return [row.text for row in rows if isinstance(row, Row)], [str(row) for row in rows if isinstance(row, DataError)]


@pytest.mark.parametrize("last", [12, 16, 39])
def test_stray_quotes_of_a_comma_file_are_errors_that_name_every_line(tmp_path: Path, last: int) -> None:
    """A quote before row 11 and one at the end of a later text make one record of all rows between."""
    lines = list(PLAIN)
    lines[11] = '"' + lines[11]
    lines[last] = lines[last].replace(",", '",')
    good, bad = outcome(written(tmp_path / "a.csv", lines))
    assert len(good) + len(bad) == 40
    assert len(bad) == last - 11 + 1
    alone = ", ".join(map(str, range(13, last + 3)[:20]))
    message = f"a quote makes one row of lines 13 to {last + 2}, of which {alone}"
    assert all(message in error for error in bad)
    assert [int(error.partition("a.csv:")[2].partition(":")[0]) for error in bad] == list(range(13, last + 3))
    with pytest.raises(DataError, match=f"write a quote within a text twice .* in lines 13 and {last + 2}"):
        load_splits(str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    "text",
    [
        '"well, hello\nand, bye"',
        '"one\ntwo\nthree, four\nfive"',
        '"he said ""no"", twice\nand left"',
        '"first, line\n\nlast line"',
    ],
)
def test_text_with_line_breaks_is_one_row_of_a_comma_file(tmp_path: Path, text: str) -> None:
    """Commas in its lines are no fields of rows, since no label follows them."""
    good, bad = outcome(written(tmp_path / "a.csv", [*PLAIN, f"{text},good"]))
    assert not bad
    assert good[-1] == text[1:-1].replace('""', '"')
    labels_first = [",".join(reversed(line.split(","))) for line in PLAIN]
    good, bad = outcome(written(tmp_path / "b.csv", [*labels_first, f"good,{text}"], header="label,text"))
    assert not bad
    assert good[-1] == text[1:-1].replace('""', '"')


def test_labels_are_collected_once_where_every_text_has_line_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for every record: the time would grow with the square of the rows."""
    calls = []
    collect = readers._labels_of_lines

    def counted(path: Path, dialect: Dialect, column: str) -> set[str]:
        calls.append(column)
        return collect(path, dialect, column)

    monkeypatch.setattr(readers, "_labels_of_lines", counted)
    good, bad = outcome(written(tmp_path / "a.csv", [f'"one {i}\ntwo",good' for i in range(30)]))
    assert (len(good), len(bad), len(calls)) == (30, 0, 1)


def test_line_that_holds_another_rows_score_alone_is_noticed(tmp_path: Path) -> None:
    """Scores differ from row to row: between numbers, any number is a label."""
    lines = [f"row {number},{number / 7:.3f}" for number in range(30)]
    lines[4], lines[8] = f'"{lines[4]}', lines[8].replace(",", '",')
    good, bad = outcome(written(tmp_path / "a.csv", lines))
    assert (len(good), len(bad)) == (25, 5)


@pytest.mark.parametrize(
    "stray",
    [
        {3: '"an opening quote,good', 9: 'a closing quote",bad'},
        {3: '"an opening quote,good'},
        {3: '"Yes" he said,good'},
        {3: '"an opening quote,good', 4: 'a closing quote",bad'},
    ],
    ids=["pair", "open", "inner", "adjacent"],
)
def test_tab_file_whose_quotes_do_not_pair_is_read_as_it_stands(tmp_path: Path, stray: dict[int, str]) -> None:
    """GLUE's files are never quoted: every line is a row, a quote is a character, and one line says so."""
    lines = [stray.get(number, line) for number, line in enumerate(PLAIN)]
    path = written(tmp_path / "a.tsv", lines)
    good, bad = outcome(path)
    assert not bad
    assert good == [line.split(",")[0] for line in lines]
    (note,) = open_table(path, COLUMNS).notes
    assert f"{path} is read without quoting, a quote is a character of its text" in note
    assert note in load_splits(str(path)).notes


def test_tab_file_whose_quotes_pair_is_quoted(tmp_path: Path) -> None:
    """As a spreadsheet writes it: tabs, line breaks and doubled quotes in quoted fields."""
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"a\tb"\tx\n"two\nlines"\ty\n"he said ""no"""\tx\n"three\nshort\nlines"\ty\n')
    assert outcome(path) == (["a\tb", "two\nlines", 'he said "no"', "three\nshort\nlines"], [])
    assert open_table(path, COLUMNS).notes == ()


def test_tab_files_of_a_folder_are_quoted_alike(tmp_path: Path) -> None:
    """Else a text that is quoted as a whole would be another text in the test rows than in train."""
    train = [f"text {i}\t{i % 2}" for i in range(20)] + ['"Yes" he said\t1', '"all of it"\t0']
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *train]))
    (tmp_path / "test.tsv").write_text('text\tlabel\n"all of it"\t0\n')
    splits = load_splits(str(tmp_path))
    assert splits.test[0].text == '"all of it"'
    assert sum("train.tsv is read without quoting" in note for note in splits.notes) == 1
