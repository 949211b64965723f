"""Laws of lora_scratch/data/columns.py: a column of 0 and 1 for every label, as in the Jigsaw comments."""

import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lora_scratch.data import load_held_out, load_splits
from lora_scratch.data.columns import Columns, truth
from lora_scratch.errors import DataError

LABELS = ("toxic", "severe_toxic", "obscene")
HEADER = "id,comment_text,toxic,severe_toxic,obscene,identity_hate\n"


def jigsaw(path: Path, rows: list[str]) -> str:
    """Write the rows below Jigsaw's header; return the path."""
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return str(path)


def cells(i: int) -> list[int]:
    return [int(i % 2 == 0), int(i % 6 == 0), int(i % 3 == 0)]


ROWS = [f'{i},"a comment, number {i}",{cells(i)[0]},{cells(i)[1]},{cells(i)[2]},0' for i in range(60)]


def load(source: str, **options: object):
    return load_splits(source, text_column="comment_text", label_column=LABELS, **options)


def test_columns_are_labels_in_their_order(tmp_path: Path) -> None:
    """A label applies where its column says 1; a row of zeros has none; the order is that of the columns."""
    splits = load(jigsaw(tmp_path / "train.csv", ROWS))
    assert (splits.task, splits.labels, splits.skipped) == ("multi_label", LABELS, ())
    assert splits.columns == Columns("comment_text", LABELS)
    rows = {row.text: row.label for part in (splits.train, splits.validation, splits.test) for row in part}
    assert rows == {f"a comment, number {i}": tuple(n for n, yes in enumerate(cells(i)) if yes) for i in range(60)}


@pytest.mark.parametrize(
    "spelling", [("1", "0"), ("true", "false"), ("True", "False"), ("1.0", "0.0"), (" 1", "0 "), ("TRUE", "0")]
)
def test_spellings_of_yes_and_no(tmp_path: Path, spelling: tuple[str, str]) -> None:
    """All give the same rows as 1 and 0."""
    yes, no = spelling
    other = [",".join([row.rsplit(",", 4)[0], *(yes if c else no for c in cells(i)), "0"]) for i, row in enumerate(ROWS)]
    plain = load(jigsaw(tmp_path / "a.csv", ROWS))
    assert load(jigsaw(tmp_path / "b.csv", other)).digests == plain.digests


@pytest.mark.parametrize("kind", [int, bool, float])
def test_formats_with_types_give_the_same_rows(tmp_path: Path, kind: type) -> None:
    """Numbers and booleans of .jsonl and .parquet."""
    plain = load(jigsaw(tmp_path / "a.csv", ROWS))
    rows = [
        {"comment_text": f"a comment, number {i}", **dict(zip(LABELS, map(kind, cells(i)), strict=True))} for i in range(60)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert load(str(tmp_path / "a.jsonl")).digests == load(str(tmp_path / "a.parquet")).digests == plain.digests


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("maybe", "'maybe'"),
        ("2", "'2'"),
        ("0.5", "'0.5'"),
        ("", "empty"),
        ("-1", "'-1'"),
        ("yes", "'yes'"),
        ("nan", "'nan'"),
    ],
)
def test_anything_else_is_refused_with_line_and_column(tmp_path: Path, cell: str, found: str) -> None:
    """Or left out and listed."""
    source = jigsaw(tmp_path / "a.csv", [*ROWS[:5], f"5,text,0,{cell},1,0", *ROWS[6:]])
    message = rf"a\.csv:7: column 'severe_toxic' is {found}; expected 0 or 1, or true or false, in 'toxic', 'severe_toxic'"
    with pytest.raises(DataError, match=message):
        load(source)
    splits = load(source, skip_bad_rows=True)
    assert splits.skipped == (f"{source}:7: column 'severe_toxic' is {found}",)


def test_rows_without_any_label_are_those_of_a_hidden_test(tmp_path: Path) -> None:
    """Jigsaw's test file has no label columns, and its file of test labels -1 for what was not judged."""
    jigsaw(tmp_path / "train.csv", ROWS)
    (tmp_path / "test.csv").write_text("id,comment_text\n1,text one\n")
    assert any("test rows have no labels" in note for note in load(str(tmp_path)).notes)
    jigsaw(tmp_path / "test.csv", ["1,text one,-1,-1,-1,-1", "2,text two,-1,-1,-1,-1"])
    assert any("test rows have no labels" in note for note in load(str(tmp_path)).notes)
    jigsaw(tmp_path / "test.csv", ["1,text one,-1,-1,-1,-1", "2,text two,0,0,1,0"])
    with pytest.raises(DataError, match=r"test\.csv:2: the row has no label"):
        load(str(tmp_path))
    assert len(load(str(tmp_path), skip_bad_rows=True).test) == 1


def test_missing_columns_are_named(tmp_path: Path) -> None:
    """One of them is a mistake; all of them are missing in a test file."""
    source = jigsaw(tmp_path / "a.csv", ROWS)
    with pytest.raises(DataError, match=r"no column 'insult' among .*; name it with --label_column"):
        load_splits(source, text_column="comment_text", label_column=[*LABELS, "insult"])
    with pytest.raises(DataError, match="label and label are both column 'toxic'"):
        load_splits(source, text_column="comment_text", label_column=["toxic", "toxic"])
    with pytest.raises(DataError, match="text and label are both column 'toxic'"):
        load_splits(source, text_column="toxic", label_column=LABELS)


def test_several_columns_are_several_labels(tmp_path: Path) -> None:
    """Another task is a mistake."""
    source = jigsaw(tmp_path / "a.csv", ROWS)
    message = "--label_column names 3 columns, which are several labels, and the task is single_label; name one column"
    with pytest.raises(DataError, match=message):
        load(source, task="single_label")


def test_swallowed_row_is_noticed_by_its_cells(tmp_path: Path) -> None:
    """A quote that opens a text and closes lines later; a text with line breaks stays one."""
    broken = [*ROWS[:3], '3,"it begins here,1,0,1,0', *ROWS[4:6], '6,and ends here",0,0,0,0', *ROWS[7:]]
    broken[4:6] = ["4,no quotes,1,0,0,0", "5,none here,0,0,1,0"]
    with pytest.raises(DataError, match=r"a\.csv:5: a quote makes one row of lines 5 to 8, of which 5, 6, 7, 8 alone"):
        load(jigsaw(tmp_path / "a.csv", broken))
    whole = [*ROWS, '60,"two lines,\nof one, text",1,0,0,0']
    splits = load(jigsaw(tmp_path / "a.csv", whole))
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 61


def test_held_out_rows_have_the_same_columns(tmp_path: Path) -> None:
    """In the order of the adapter's labels, which is that of the columns."""
    source = jigsaw(tmp_path / "a.csv", ROWS)
    held_out = load_held_out(source, labels=LABELS, task="multi_label", text_column="comment_text", label_column=LABELS)
    assert [row.label for row in held_out.test[:4]] == [(0, 1, 2), (), (0,), (2,)]


@pytest.mark.parametrize(("cell", "meaning"), [(Decimal(1), True), (0.0, False), (None, None), ([1], None), ("-0", False)])
def test_truth_of_a_cell(cell: object, meaning: bool | None) -> None:
    """Of any type that a file can hold."""
    assert truth(cell) is meaning
