"""From files as people have them to an answer: a column for every label, and GLUE's own folders."""

import csv
import json

import pytest
from support.command_line import call
from support.folders import save_base
from support.glue import write_glue

from lora_scratch.commands import check_data, evaluate, predict, train
from lora_scratch.serialization import read_provenance

LABELS = ["toxic", "severe_toxic", "obscene"]  # not in alphabetical order
SMALL = ["--epochs", 1, "--batch_size", 16, "--rank", 2, "--max_tokens", 16, "--precision", "fp32", "--preset", "basic"]


def jigsaw(path, n, spell=str):
    """Comments with a column of 0 and 1 for every label."""
    rows = [[i, f"a comment with number {i}", *(spell(int(i % k == 0)) for k in (2, 6, 3)), "x"] for i in range(n)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "comment_text", *LABELS, "more"], *rows])
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / "base", labels=("a", "b"))


@pytest.fixture(scope="module")
def several(base, tmp_path_factory):
    """An adapter trained on columns of 0 and 1."""
    place = tmp_path_factory.mktemp("several")
    flags = ["--text_column", "comment_text", "--label_column", *LABELS]
    data = jigsaw(place / "train.csv", 60)
    assert call(train, "--model", base, "--dataset", data, "--output_dir", place / "run", *flags, *SMALL) == 0
    return place / "run" / "adapter"


def test_columns_of_the_training_are_recorded(several):
    """The labels keep the order of the columns."""
    provenance = read_provenance(several)
    assert (provenance.task, list(provenance.labels)) == ("multi_label", LABELS)
    assert provenance.data.label_column == tuple(LABELS)
    assert provenance.document["data"]["label_column"] == LABELS


def test_evaluate_and_check_data_find_the_columns_again(several, tmp_path, capsys):
    """In another file, in which they are spelled otherwise; a cell that says neither is one line."""
    other = jigsaw(tmp_path / "other.csv", 12, spell=lambda yes: ["False", "True"][yes])
    assert call(evaluate, several, "--dataset", other, "--json", tmp_path / "report.json") == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (report["adapted"]["n"], report["labels"]) == (12, LABELS)
    assert call(check_data, "--run", several.parent) == 0
    assert "multi_label" in capsys.readouterr().out
    other.write_text(other.read_text(encoding="utf-8").replace("True,False,False", "True,perhaps,False"))
    assert call(evaluate, several, "--dataset", other) == 1
    assert f"{other}:4: column 'severe_toxic' is 'perhaps'; expected 0 or 1" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_predict_writes_the_columns_of_the_training(several, tmp_path, capsys, form):
    """0 or 1 for every label, in their order, after the columns of the input; JSON lines have names and scores."""
    table = tmp_path / "test.csv"
    table.write_text("id,comment_text\n7,a comment\n8, \n9,another\n")
    output = tmp_path / f"out.{form}"
    assert call(predict, several, "--file", table, "--output", output, "--skip_bad_rows") == 0
    if form == "jsonl":
        first = json.loads(output.read_text(encoding="utf-8").splitlines()[0])
        assert list(first["scores"]) == LABELS
        return
    if form == "parquet":
        import pyarrow.parquet as pq

        content = pq.read_table(output)
        names, rows = content.column_names, [[*row.values()] for row in content.to_pylist()]
    else:
        names, *rows = csv.reader(output.open(newline=""))
    assert names == ["id", "comment_text", *LABELS, "error"]
    assert [row[0] for row in rows] == ["7", "8", "9"]
    assert all(str(cell) in ("0", "1") for row in (rows[0], rows[2]) for cell in row[2:5])
    assert not any(rows[1][2:5])
    assert "the text is empty" in rows[1][5]


def test_predict_overwrites_no_column_of_labels(several, tmp_path, capsys):
    """A table that has them needs a prefix."""
    table, output = jigsaw(tmp_path / "labelled.csv", 4), tmp_path / "out.csv"
    assert call(predict, several, "--file", table, "--output", output) == 1
    assert "the input has a column 'toxic' already" in capsys.readouterr().err
    assert call(predict, several, "--file", table, "--output", output, "--prefix", "p_") == 0
    assert next(csv.reader(output.open()))[-3:] == [f"p_{label}" for label in LABELS]


def test_rows_of_many_adapters_have_the_labels(several, tmp_path, capsys):
    """By name, as for one adapter."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a comment", "adapter": "one"}\n')
    assert call(predict, "--adapters", f"one={several}", "--file", rows) == 0
    assert list(json.loads(capsys.readouterr().out)["scores"]) == LABELS


@pytest.mark.parametrize(("task", "label"), [("CoLA", "label"), ("MNLI", "gold_label")])
def test_folder_of_glue_from_train_to_predict(base, tmp_path, capsys, task, label):
    """Without a word about its columns, which are recorded; the test file is classified with all its rows."""
    folder = write_glue(tmp_path / "glue") / task
    assert call(train, "--model", base, "--dataset", folder, "--output_dir", tmp_path / "run", *SMALL) == 0
    adapter = tmp_path / "run" / "adapter"
    assert read_provenance(adapter).data.label_column == label
    shown = capsys.readouterr().out
    assert f"label '{label}'" in shown
    assert call(evaluate, adapter, "--dataset", folder, "--json", tmp_path / "report.json") == 0
    halves = task == "MNLI"
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["adapted"]["n"] == (20 if halves else 10)
    assert ("dev_matched.tsv and dev_mismatched.tsv" in capsys.readouterr().out) == halves
    test = folder / ("test_matched.tsv" if halves else "test.tsv")
    output = tmp_path / "out.tsv"
    assert call(predict, adapter, "--file", test, "--output", output) == 0
    assert len(output.read_text(encoding="utf-8").splitlines()) == 1 + 6
