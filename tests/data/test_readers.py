"""Laws of lora_scratch/data/readers.py and rows.py: every row comes out, as a row or as an error with its place."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lora_scratch.data.parquet import _parquet_rows
from lora_scratch.data.readers import open_table
from lora_scratch.data.rows import Columns, Row, checked_row
from lora_scratch.errors import DataError

COLUMNS = Columns("text", "label")
Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file below tmp_path."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def read(path: Path) -> list[tuple[str, str] | str]:
    """Good rows as (text, label), bad rows as their message from the line number on."""
    return [
        (row.text, row.label) if isinstance(row, Row) else str(row).removeprefix(f"{path}:")
        for row in open_table(path, COLUMNS).rows
    ]


def test_a_txt_file_has_the_lines_that_predict_reads(write: Write) -> None:
    """A line ends with \\n or \\r\\n; a lone \\r and the separators of Unicode are characters of a text."""
    text = "a\rb\x0bc\x0cd\x1ce\x85f\u2028g\u2029h"
    path = write("a.txt", f"{text};joy\r\nfine;joy\n\u200b\n")
    assert read(path) == [(text, "joy"), ("fine", "joy")]


def test_a_txt_file_without_line_feeds_is_not_taken_for_one_row(write: Write) -> None:
    """Old programs end lines with a carriage return alone."""
    with pytest.raises(DataError, match=r"a\.txt: its lines end with a carriage return alone; .* tr '\\r' '\\n' < FILE"):
        read(write("a.txt", "fine;joy\rso;joy\r"))


SPELLINGS = [("1", 1), ("-2", -2), ("1.0", 1.0), ("2.5", 2.5), ("true", True), ("false", False), ("01", "01")]


@pytest.mark.parametrize(("spelled", "value"), SPELLINGS)
def test_label_has_the_same_name_in_every_format(write: Write, tmp_path: Path, spelled: str, value: object) -> None:
    """The name is what the file says; a number or boolean is spelled as JSON spells it."""
    write_parquet(tmp_path / "a.parquet", text=["a"], label=[value])
    write_parquet(tmp_path / "b.parquet", text=["a"], label=pa.array([value]).dictionary_encode())
    names = ["a.parquet", "b.parquet"]
    for name, content in [
        ("a.csv", f"text,label\na,{spelled}\n"),
        ("a.tsv", f"text\tlabel\na\t{spelled}\n"),
        ("a.txt", f"a;{spelled}\n"),
        ("a.jsonl", json.dumps({"text": "a", "label": value})),
        ("a.json", json.dumps([{"text": "a", "label": value}])),
    ]:
        write(name, content)
        names.append(name)
    assert {name: read(tmp_path / name) for name in names} == {name: [("a", spelled)] for name in names}


def test_short_floats_of_parquet_are_spelled_as_they_were_written(tmp_path: Path) -> None:
    """0.1 as float32 is not 0.10000000149011612; a null among them has no label."""
    path = write_parquet(tmp_path / "a.parquet", text=["a", "b"], label=pa.array([0.1, None], pa.float32()))
    assert read(path)[0] == ("a", "0.1")
    assert str(read(path)[1]).startswith("2: the row has no label")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet"])
def test_pair_column_gives_the_second_text(write: Write, tmp_path: Path, name: str) -> None:
    """Of every format; a row whose second text is empty is bad."""
    fields = {"one": ["a b", "c"], "two": ["d, e", " "], "label": ["x", "y"]}
    records = [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)]
    contents = {
        "a.csv": 'one,two,label\na b,"d, e",x\nc, ,y\n',
        "a.jsonl": "".join(json.dumps(record) + "\n" for record in records),
        "a.json": json.dumps(records, indent=1),
    }
    path = write(name, contents[name]) if name in contents else write_parquet(tmp_path / name, **fields)
    good, bad = open_table(path, Columns("one", "label", "two")).rows
    assert isinstance(good, Row)
    assert (good.text, good.pair, good.label) == ("a b", "d, e", "x")
    assert "the second text is empty" in str(bad)
    with pytest.raises(
        DataError, match=r"no column 'three' among 'one', 'two', 'label'; name it with --pair_column|no 'three'"
    ):
        raise next(row for row in open_table(path, Columns("one", "label", "three")).rows if isinstance(row, DataError))


def test_text_file_without_columns_has_no_pairs(write: Write) -> None:
    """`text;label` has no place for a second text."""
    with pytest.raises(DataError, match=r"a\.txt: a \.txt file has one text a line.*; write the pairs to a \.csv"):
        open_table(write("a.txt", "a;b\n"), Columns("text", "label", "pair"))


def test_lists_of_labels_come_out_as_their_names(write: Write, tmp_path: Path) -> None:
    """Of JSON and of parquet; an empty list is a row without labels."""
    labels = [["joy", "love"], [], ["joy"]]
    lines = "".join(json.dumps({"text": "a", "label": names}) + "\n" for names in labels)
    expected = [("a", ("joy", "love")), ("a", ()), ("a", ("joy",))]
    assert read(write("a.jsonl", lines)) == expected
    assert read(write_parquet(tmp_path / "a.parquet", text=["a"] * 3, label=labels)) == expected


def test_lists_of_class_numbers_get_the_declared_names(tmp_path: Path) -> None:
    """`datasets` describes a list of ClassLabel in its own metadata."""
    feature = {"feature": {"names": ["anger", "joy"], "_type": "ClassLabel"}, "_type": "List"}
    table = pa.table({"text": ["a", "b"], "label": [[1, 0], []]})
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    assert open_table(tmp_path / "a.parquet", COLUMNS).class_names == ("anger", "joy")
    assert read(tmp_path / "a.parquet") == [("a", ("joy", "anger")), ("b", ())]


def write_parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


GOOD = [("i am glad", "joy"), ("so; sad", "sadness")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\ni am glad,joy\nso; sad,sadness\n"),
        ("columns.csv", 'id,label,text\n1,joy,"i am glad"\n2, sadness ,so; sad'),
        ("a.tsv", "text\tlabel\ni am glad\tjoy\nso; sad\tsadness\n"),
        ("a.jsonl", '{"text": "i am glad", "label": "joy", "id": 3}\n{"label": "sadness", "text": "so; sad"}\n'),
        ("a.txt", "i am glad;joy\nso; sad;sadness\n"),
        ("bom.csv", "\ufefftext,label\ni am glad,joy\nso; sad,sadness\n"),
        ("bom.txt", "\ufeffi am glad;joy\nso; sad;sadness\n"),
        ("windows.csv", "text,label\r\ni am glad,joy\r\nso; sad,sadness\r\n"),
        ("windows.txt", "i am glad;joy\r\nso; sad;sadness\r\n"),
        ("blank_end.txt", "i am glad;joy\nso; sad;sadness\n\n  \n"),
        ("blank_end.csv", "text,label\ni am glad,joy\nso; sad,sadness\n\n\n"),
        ("pandas.csv", ",text,label\n0,i am glad,joy\n1,so; sad,sadness\n"),
        ("utf-16.csv", "text,label\r\ni am glad,joy\r\nso; sad,sadness\r\n".encode("utf-16")),
        ("utf-16.tsv", "\ufefftext\tlabel\ni am glad\tjoy\nso; sad\tsadness\n".encode("utf-16-be")),
        ("a.csv.gz", gzip.compress(b"text,label\ni am glad,joy\nso; sad,sadness\n", mtime=0)),
        ("a.txt.gz", gzip.compress("\ufeffi am glad;joy\nso; sad;sadness\n".encode(), mtime=0)),
        ("a.JSONL", '{"text": "i am glad", "label": "joy"}\n{"label": "sadness", "text": "so; sad"}\n'),
        ("a.json", '[{"text": "i am glad", "label": "joy"},\n {"label": "sadness", "text": "so; sad"}]\n'),
        ("lines.json", '{"text": "i am glad", "label": "joy"}\n{"label": "sadness", "text": "so; sad"}\n'),
    ],
)
def test_reader_gives_text_and_label_of_every_row(write: Write, name: str, content: str | bytes) -> None:
    """All formats hold the same rows, also with a BOM, Windows line ends, an index column, gzip or UTF-16."""
    assert read(write(name, content)) == GOOD


def test_parquet_gives_text_and_label_of_every_row(tmp_path: Path) -> None:
    """A parquet file holds the same rows; integer labels come in decimal."""
    path = write_parquet(tmp_path / "a.parquet", label=["joy", "sadness"], text=["i am glad", "so; sad"])
    assert read(path) == GOOD
    assert read(write_parquet(tmp_path / "b.parquet", label=[1, -2], text=["a", "b"])) == [("a", "1"), ("b", "-2")]


def test_csv_row_is_placed_at_its_first_line_when_it_has_several(write: Write) -> None:
    """Line numbers are those of the file, also after a quoted line break."""
    path = write("a.csv", 'text,label\n"two\nlines",joy\nnext,\n')
    assert read(path)[0] == ("two\nlines", "joy")
    assert str(read(path)[1]).startswith("4: the row has no label")


def test_csv_takes_a_field_above_the_library_limit(write: Write) -> None:
    """A text of a million characters is one row: csv's own limit is 131,072."""
    assert read(write("a.csv", f"text,label\n{'a' * 10**6},joy\n")) == [("a" * 10**6, "joy")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "fine;joy\nno separator\n", "2: no ';' in 'no separator'; expected text;label"),
        ("a.txt", "fine;joy\n\nfine;joy\n", "2: the line is empty"),
        ("a.txt", "fine;joy\n  ;joy\n", "2: the text is empty"),
        ("a.txt", "fine;joy\n\u200b;joy\n", "2: the text is empty"),
        ("a.txt", "fine;joy\n\u200b\nfine;joy\n", "2: the line is empty"),
        ("a.txt", "fine;joy\ntext;\ufeff\n", "2: the row has no label"),
        ("a.csv", "text,label\n\u2060,joy\n", "2: the text is empty"),
        ("a.jsonl", '{"text": "\\u200b", "label": "joy"}', "1: the text is empty"),
        ("a.txt", "fine;joy\ntext; \n", "2: the row has no label"),
        ("a.txt", b"fine;joy\ncaf\xe9;joy\n", "2: the text is not UTF-8: byte 0xe9 at character 4; expected UTF-8"),
        ("a.txt", "fine;joy\nnul\0;joy\n", "2: the text holds a NUL byte at character 4"),
        ("a.txt", "fine;joy\ntext;jo\0y\n", "2: the label holds a NUL byte at character 3"),
        ("a.csv", "text,label\nfine,joy\nonly\n", "3: 1 fields; expected 2 as in the header"),
        ("a.csv", "text,label\nfine,joy\na,b,c\n", "3: 3 fields; expected 2 as in the header"),
        ("a.csv", "text,label\nfine,joy\n\nfine,joy\n", "3: the line is empty"),
        ("a.csv", 'text,label\nfine,joy\n"a"b,joy\n', "3: broken quoting in lines 3 to 3"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": \n', "2: malformed JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n', "2: JSON of type list; expected a JSON object"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"txt": "b", "label": 1}\n', "2: no 'text' among 'txt', 'label'"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": null}\n', "2: the row has no label"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": 7, "label": 1}\n', "2: the text is of type int"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": {"a": 1}}\n', "2: the label is of type dict"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": NaN}\n', "2: the row has no label"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": Infinity}\n', "2: .* inf; expected a finite number"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": ["c", null]}\n', "2: in its list of labels"),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text": "b", "label": [0, 1, 0]}\n',
            "2: label '0' stands twice .* each once",
        ),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', "2: no 'label' among 'text'"),
        (
            "a.csv",
            b"text,label\nfine,joy\ncaf\xe9,joy\n",
            "3: .*; expected UTF-8; .* 'é' in cp1252.*: iconv -f CP1252 -t UTF-8",
        ),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "\\ud800", "label": 1}\n', "2: .* lone surrogate U.D800"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "a", "text": "b", "label": 1}\n', "2: .*a key stands twice"),
        ("a.jsonl", '{"text": "a", "label": 1}\n' + "[" * 10**6 + "\n", "2: malformed JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": ' + "9" * 5000 + "}\n", "2: malformed JSON"),
    ],
)
def test_bad_row_comes_out_as_an_error_with_its_line(write: Write, name: str, content: str | bytes, message: str) -> None:
    """A bad row is one DataError that names its line and what is wrong; the other rows are there."""
    bad = [row for row in open_table(write(name, content), COLUMNS).rows if isinstance(row, DataError)]
    assert len(bad) == 1
    with pytest.raises(DataError, match=message):
        raise bad[0]
    assert "\n" not in str(bad[0])
    assert len(str(bad[0])) < 500


def test_csv_quote_that_never_closes_reports_every_line_it_swallows(write: Write) -> None:
    """Rows inside an open quote are not lost in silence: each line is one bad row."""
    rows = read(write("a.csv", 'text,label\nfine,joy\n"open,joy\nb,joy\nc,joy\n'))
    assert rows[0] == ("fine", "joy")
    assert [str(row).partition(" (")[0] for row in rows[1:]] == [f"{n}: broken quoting in lines 3 to 5" for n in (3, 4, 5)]


def test_parquet_bad_rows_name_their_row(tmp_path: Path) -> None:
    """Rows of a parquet file count from 1; null, and bytes that are not UTF-8, are bad rows."""
    broken = pa.array([b"fine", b"caf\xe9", None], pa.binary()).view(pa.string())
    rows = read(write_parquet(tmp_path / "a.parquet", text=broken, label=["joy", "joy", "joy"]))
    assert rows[0] == ("fine", "joy")
    assert str(rows[1]).startswith("2: not UTF-8: byte 0xe9 at byte 4")
    assert str(rows[2]).startswith("3: the row has no text")


def test_parquet_keeps_declared_class_names(tmp_path: Path) -> None:
    """The names of a ClassLabel column that `datasets` wrote become the labels; a number outside them is a bad row."""
    feature = {"info": {"features": {"label": {"names": ["sadness", "joy"], "_type": "ClassLabel"}}}}
    table = pa.table({"text": ["a", "b", "c"], "label": [0, 1, 2]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(feature)}), tmp_path / "a.parquet")
    assert open_table(tmp_path / "a.parquet", COLUMNS).class_names == ("sadness", "joy")
    rows = read(tmp_path / "a.parquet")
    assert rows[:2] == [("a", "sadness"), ("b", "joy")]
    assert str(rows[2]).startswith("3: the label is 2; expected 0 to 1: 'sadness', 'joy'")


@pytest.mark.parametrize("names", [["joy", "joy"], ["joy", ""], ["joy", None], "joy", {"joy": 0}, ["joy", "a\0"]], ids=str)
def test_parquet_refuses_class_names_that_are_no_labels(tmp_path: Path, names: object) -> None:
    """A name that stands twice would give its rows the wrong number."""
    table = pa.table({"text": ["a", "b"], "label": [0, 1]})
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: its label names are .*; expected a list of different"):
        open_table(tmp_path / "a.parquet", COLUMNS)


@pytest.mark.parametrize("metadata", ["{", "[" * 10**5, "[]", "null", '{"info": {"features": {"label": {"names": null}}}}'])
def test_parquet_without_usable_metadata_has_no_class_names(tmp_path: Path, metadata: str) -> None:
    """It belongs to other tools too, and they may write what they like."""
    table = pa.table({"text": ["a"], "label": ["joy"]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    assert open_table(tmp_path / "a.parquet", COLUMNS).class_names == ()


def test_parquet_page_that_fails_its_checksum_is_refused(tmp_path: Path) -> None:
    """A flipped bit among the texts is another text; where the writer left checksums it can be told."""
    table = pa.table({"text": [f"text {i}" for i in range(9)], "label": ["joy"] * 9})
    pq.write_table(table, tmp_path / "a.parquet", compression="none", use_dictionary=False, write_page_checksum=True)
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content.replace(b"text 4", b"text 5", 1))
    with pytest.raises(DataError, match=r"a\.parquet: not a readable parquet file .*CRC"):
        read(tmp_path / "a.parquet")


def test_parquet_with_fewer_rows_than_it_says_is_refused(tmp_path: Path) -> None:
    """What its own count promises has to come."""

    class Short(pq.ParquetFile):
        def iter_batches(self, **options: object) -> object:
            return (batch.slice(1) for batch in super().iter_batches(**options))

    path = write_parquet(tmp_path / "a.parquet", text=["a", "b"], label=["joy", "joy"])
    with pytest.raises(DataError, match="it holds 1 rows and says 2"):
        list(_parquet_rows(path, Short(path), COLUMNS, ()))


def test_parquet_value_that_python_has_no_object_for_is_a_bad_row(tmp_path: Path) -> None:
    """A date in the year 146,000."""
    path = write_parquet(tmp_path / "a.parquet", text=["a", "b"], label=pa.array([0, 2**62], pa.timestamp("us")))
    assert str(read(path)[1]).startswith("2: a value that can't be read (date value out of range)")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "sentence,label\na,joy\n",
            r"a\.csv:1: no column 'text' among 'sentence', 'label'; name it with --text_column",
        ),
        (
            "a.csv",
            "text,emotion\na,joy\n",
            r"a\.csv:1: no column 'label' among 'text', 'emotion'; name it with --label_column",
        ),
        (
            "a.csv",
            "message,category\na,joy\n",
            r"a\.csv:1: no column 'text' and none 'label' among 'message', 'category'; "
            "name them with --text_column and --label_column",
        ),
        ("a.csv", "text,label,text\na,joy,b\n", "more than one column 'text' among .*; name another with --text_column"),
        ("a.csv", "\ntext,label\n", r"a\.csv:1: broken header: the line is empty"),
        ("a.csv", '"text,label\n', r"a\.csv:1: broken header: broken quoting"),
        ("a.csv", "text,label\na,b\n".encode("utf-16")[:-1], "the file is broken UTF-16 .*; expected UTF-8"),
        ("a.csv", "text,label\na,b\n".encode("utf-32"), "the file is UTF-32; expected UTF-8; .* iconv -f UTF-32"),
        ("a.csv", "", r"a\.csv: the file is empty; expected a header"),
        ("a.xlsx", "PK", r"a\.xlsx: a spreadsheet; expected one of .*; open it in its program and save the sheet as CSV"),
        ("a.parquet.gz", "PAR1", r"unknown file extension '\.gz'; expected one of .* or \.gz of a text file"),
        ("a.csv.gz", "no gzip", r"a\.csv\.gz: the gzip file is broken"),
        ("a.csv.gz", gzip.compress(b"text,label\na,b\n" * 99, mtime=0)[:-9], r"a\.csv\.gz: the gzip file is broken"),
        ("a.json", '[{"text": "a", "label": 1},', r"a\.json: malformed JSON .*; expected a list of objects"),
        ("a.doc", "text", r"a\.doc: unknown file extension '\.doc'; expected one of \.csv \.tsv"),
        ("a.parquet", "no parquet", r"a\.parquet: not a readable parquet file"),
        ("a.parquet", "", r"a\.parquet: not a readable parquet file"),
    ],
)
def test_file_that_cannot_be_read_is_an_error(write: Write, name: str, content: str | bytes, message: str) -> None:
    """What is wrong with the whole file is raised, and names the file."""
    path = write(name, content)
    with pytest.raises(DataError, match=message):
        list(open_table(path, COLUMNS).rows)


def test_table_that_is_called_txt_is_told_its_name(write: Write) -> None:
    """Its lines have tabs and no semicolon."""
    (row,) = read(write("a.txt", "text\tlabel\n"))
    assert row == "1: no ';' in 'text\\tlabel'; expected text;label; call it .tsv, if it is a table with tabs and a header"


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    """A path to nothing, a name too long and a NUL in the name are all no such file."""
    for name in ("none.csv", "a" * 5000 + ".csv", "nul\0.csv"):
        with pytest.raises(DataError, match="there is no such file"):
            open_table(tmp_path / name, COLUMNS)


def test_device_or_pipe_is_refused_when_it_stands_for_a_file(tmp_path: Path) -> None:
    """A pipe would be waited on for ever: only regular files are opened."""
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="not a regular file"):
        open_table(tmp_path / "pipe.csv", COLUMNS)


def test_unreadable_file_is_an_error(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the system will not open is one line with its reason (root may read anything, so the refusal is made)."""

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write("a.txt", "a;joy\n")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=r"a\.txt: the file could not be read \(Permission denied\)"):
        list(open_table(path, COLUMNS).rows)


@pytest.mark.parametrize(
    "text", ["👩‍👩‍👧 ok", "مرحبا", "<script>alert(1)</script>", "\x01a\x7f", "e\u0301", "a" * 10**6, "line\u2028sep"]
)
def test_strange_text_is_kept_as_it_is(text: str) -> None:
    """Emoji, right-to-left script, markup and control characters are text like any other."""
    assert checked_row("p:1", text, "joy") == Row("p:1", text, "joy")
