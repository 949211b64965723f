"""Laws of lora_scratch/data/layouts.py and headers.py: GLUE's own files, all of them, with the right columns."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.glue import PAIR, write_glue

from lora_scratch.data import load_held_out, load_splits
from lora_scratch.data.columns import Columns
from lora_scratch.data.layouts import LAYOUTS, fitting_layout
from lora_scratch.data.record_files import open_records
from lora_scratch.data.records import TextColumns
from lora_scratch.errors import DataError

PAIRS = Columns("sentence1", "label", "sentence2")
EXPECTED = {
    "CoLA": (Columns("sentence", "label"), ("0", "1")),
    "SST-2": (Columns("sentence", "label"), ("0", "1")),
    "MRPC": (LAYOUTS["MRPC"], ("0", "1")),
    "QQP": (LAYOUTS["QQP"], ("0", "1")),
    "STS-B": (LAYOUTS["STS-B"], ("score",)),
    "MNLI": (LAYOUTS["MNLI"], ("contradiction", "entailment", "neutral")),
    "QNLI": (LAYOUTS["QNLI"], ("entailment", "not_entailment")),
    "RTE": (PAIRS, ("entailment", "not_entailment")),
    "WNLI": (PAIRS, ("0", "1")),
}


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    return write_glue(tmp_path / "glue")


@pytest.mark.parametrize("task", EXPECTED)
def test_folder_of_the_archive_needs_no_flag(glue: Path, task: str) -> None:
    """The columns are those of the layout, every row is there, and the test rows, which have no labels, are said."""
    columns, labels = EXPECTED[task]
    splits = load_splits(str(glue / task))
    rows = (*splits.train, *splits.validation, *splits.test)
    mnli = task == "MNLI"
    assert (splits.columns, splits.labels, len(rows), len(splits.test)) == (
        columns,
        labels,
        60 if mnli else 50,
        20 if mnli else 10,
    )
    assert splits.task == ("regression" if task == "STS-B" else "single_label")
    assert all((row.pair is None) == (columns.pair is None) for row in rows)
    assert any("test rows have no labels" in note for note in splits.notes)
    assert any(f"text {columns.text!r}" in note for note in splits.notes)


def test_first_row_of_cola_is_a_row(glue: Path) -> None:
    """The file has no header; a quote is a character of its text."""
    splits = load_splits(str(glue / "CoLA"))
    (note,) = [note for note in splits.notes if "CoLA, with the columns source, label, star, sentence and no header" in note]
    texts = {row.text for row in (*splits.train, *splits.validation)}
    assert texts == {f'He said " number {i}.' for i in range(40)}
    assert [splits.labels[row.label] for row in splits.test[:2]] == ["0", "1"]
    assert "without quoting" in note


@pytest.mark.parametrize("name", ["dev", "test"])
def test_tables_of_cola_are_classified_with_all_their_rows(glue: Path, name: str) -> None:
    """By the same names with and without a header."""
    table = open_records(glue / "CoLA" / f"{name}.tsv", TextColumns("sentence"))
    texts = [text for chunk in table.chunks() for text in chunk.texts]
    assert texts == [f'He said " number {i}.' for i in range(len(texts))]
    assert len(texts) == {"dev": 10, "test": 6}[name]


def test_both_halves_of_mnli_count(glue: Path) -> None:
    """As in the paper's figures; the line says so. One half is a file of its own."""
    labels = EXPECTED["MNLI"][1]
    splits = load_held_out(str(glue / "MNLI"), labels=labels, task="single_label")
    assert len(splits.test) == 20
    assert "the validation rows are those of dev_matched.tsv and dev_mismatched.tsv" in splits.notes
    one = load_held_out(str(glue / "MNLI" / "dev_mismatched.tsv"), labels=labels, task="single_label")
    assert len(one.test) == 10


def test_mrpc_of_microsoft_is_a_tab_file_called_txt(tmp_path: Path) -> None:
    """With a mark and CR LF, as it is distributed; the archive's files go before it."""
    glue = write_glue(tmp_path / "glue")
    for split, archive in (("train", "train"), ("test", "dev")):
        content = (glue / "MRPC" / f"{archive}.tsv").read_text(encoding="utf-8").replace("\n", "\r\n")
        (tmp_path / f"msr_paraphrase_{split}.txt").write_bytes(b"\xef\xbb\xbf" + content.encode())
    splits = load_splits(str(tmp_path / "msr_paraphrase_train.txt"))
    assert (splits.columns, len(splits.train) + len(splits.validation) + len(splits.test)) == (LAYOUTS["MRPC"], 40)
    splits = load_splits(str(tmp_path))
    assert (len(splits.test), splits.test[3].pair) == (10, PAIR[1].format(3))
    (glue / "MRPC" / "msr_paraphrase_train.txt").write_bytes((tmp_path / "msr_paraphrase_train.txt").read_bytes())
    assert "not used, since the names are no splits: 'msr_paraphrase_train.txt'" in load_splits(str(glue / "MRPC")).notes


def test_layouts_are_for_tables_of_any_format(tmp_path: Path) -> None:
    """The hub's copies are parquet; what a user named is left alone."""
    rows = {"premise": ["a b"] * 20, "hypothesis": ["c d"] * 20, "label": ["x", "y"] * 10}
    pq.write_table(pa.table(rows), tmp_path / "mnli.parquet")
    assert load_splits(str(tmp_path / "mnli.parquet")).columns == LAYOUTS["MNLI of the hub"]
    assert load_splits(str(tmp_path / "mnli.parquet"), text_column="hypothesis").columns == Columns("hypothesis", "label")
    (tmp_path / "a.jsonl").write_text('{"sentence": "a", "label": "x"}\n{"sentence": "b", "label": "y"}\n' * 10)
    assert load_splits(str(tmp_path / "a.jsonl")).columns == Columns("sentence", "label")


@pytest.mark.parametrize(
    "names",
    [
        ["text", "sentence", "label"],
        ["sentence1", "sentence2"],
        ["sentence1", "sentence2", "score", "label"],
        ["body", "label"],
    ],
)
def test_no_layout_is_guessed(names: list[str]) -> None:
    """Where the text column is there, where a column is missing, and where two layouts fit."""
    assert fitting_layout(names, Columns("text", "label")) == (Columns("text", "label"), "")


def test_no_layout_takes_the_place_of_a_named_column() -> None:
    """A name that is misspelled stays an error."""
    for named in (Columns("sentense", "label"), Columns("text", "lable"), Columns("text", "label", "sentence2")):
        assert fitting_layout(["sentence", "label"], named) == (named, "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "what a fine day,good\nno\t fun,bad\n"),
        ("a.csv", "lovely,1\nawful,0\n"),
        ("a.tsv", "gj04\tmaybe\t\tA sentence of five words.\n"),
        ("a.tsv", "1\t702876\t702977\tfirst\tsecond\n"),
    ],
)
def test_file_without_a_header_is_refused(tmp_path: Path, name: str, content: str) -> None:
    """Its first row would be lost as names of columns. By train and by predict."""
    path = tmp_path / name
    path.write_text(content)
    message = rf"{name}:1: .*looks like a row.*expected a header; write a line of names above it"
    if name == "a.csv" and "fine" in content:
        message = r"a\.csv:1: the first line looks like a row and not like names of columns: 'what a fine day', 'good'"
    with pytest.raises(DataError, match=message):
        load_splits(str(path))
    with pytest.raises(DataError, match=message):
        open_records(path, TextColumns("text"))


def test_header_with_an_index_is_a_header(tmp_path: Path) -> None:
    """pandas writes its index as a column without a name."""
    (tmp_path / "a.csv").write_text(",body,label\n0,a,x\n1,b,y\n")
    with pytest.raises(DataError, match=r"no column 'text' among '', 'body', 'label'; name it with --text_column"):
        load_splits(str(tmp_path / "a.csv"))


def test_folder_of_all_tasks_names_its_folders(glue: Path) -> None:
    """The way in is one of them."""
    with pytest.raises(
        DataError, match=r"glue: no data files, but the folders 'CoLA', 'MNLI', .*; name one of its folders, as .*glue/CoLA"
    ):
        load_splits(str(glue))
