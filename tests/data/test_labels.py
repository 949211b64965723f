"""Laws of lora_scratch/data/labels.py and cells.py: what is predicted follows from the labels, and is said."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_scratch.data import Example, load_splits
from lora_scratch.data.cells import number_of
from lora_scratch.data.labels import decide_task, lookalikes_note, row_in_task
from lora_scratch.data.rows import Row
from lora_scratch.errors import ConfigError, DataError
from lora_scratch.runs import DataOptions


def rows_of(labels: list[str | tuple[str, ...]]) -> list[Row]:
    return [Row(f"p:{number}", f"text {number}", label) for number, label in enumerate(labels)]


def lines_of(labels: list[object], path: Path) -> str:
    """A .jsonl file with these labels, in the order given."""
    path.write_text("".join(json.dumps({"text": f"text {i}", "label": v}) + "\n" for i, v in enumerate(labels)))
    return str(path)


@pytest.mark.parametrize(
    ("labels", "task", "note"),
    [
        (["joy", "anger"], "single_label", ""),
        (["1", "0"], "single_label", ""),
        (["1.0", "0.0"], "single_label", ""),
        (["1.0", "2.5"], "regression", "task: regression, since the labels are numbers such as 2.5"),
        (["-1e-3", "4"], "regression", "such as -1e-3"),
        (["v1.5", "2.5"], "single_label", ""),
        (["2.5"] * 9 + ["n/a"], "regression", "such as 2.5"),
        (["2.5"] * 3 + ["nan", "NaN"], "regression", "such as 2.5"),
        (['["a", "b"]', "a"], "single_label", "is one class here; --task multi_label makes it a list"),
        ([("joy",), ()], "multi_label", "task: multi_label, since the labels are lists"),
        ([("joy",), "anger"], "multi_label", "lists"),
        (['["a", "b"]', "[]"], "multi_label", "lists"),
        (["['a', 'b']", "['a']"], "multi_label", "lists"),
        (["[a, b]", "[a]"], "single_label", ""),
        ([str(i) for i in range(30)], "single_label", "which are whole numbers (--task regression"),
        ([f"id {i}" for i in range(30)], "single_label", "30 different labels in 30 rows (--label_column names another"),
        ([f"class {i % 30}" for i in range(300)], "single_label", ""),
    ],
)
def test_task_is_decided_from_the_labels(labels: list[str | tuple[str, ...]], task: str, note: str) -> None:
    """Lists are several labels, numbers that are not all whole a regression; a line says what could surprise."""
    decision = decide_task(rows_of(labels))
    assert decision.task == task
    assert note in decision.note
    assert bool(note) == bool(decision.note)


def test_task_that_is_named_is_taken_without_a_note() -> None:
    """Numbers can be classes."""
    assert decide_task(rows_of(["1.5", "2.5"]), "single_label") == ("single_label", "")


@settings(max_examples=80, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**20), 10**20))
def test_every_number_that_python_spells_is_a_number(value: float) -> None:
    """In any of its spellings, with its value."""
    assert number_of(str(value)) == float(value)


@pytest.mark.parametrize("name", ["", "nan", "inf", "1_000", "1e999", "0x1", "١", "1,5", "--1", "1.2.3", "9" * 5000])
def test_what_is_no_finite_number_is_none(name: str) -> None:
    """Python's float takes some of them."""
    assert number_of(name) is None


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ('["a", "b"]', ("a", "b")),
        ("['a', 'b']", ("a", "b")),
        ("[1, true, 2.0]", ("1", "true", "2.0")),
        ("[]", ()),
        ("a, b ,c", ("a", "b", "c")),
        ("a", ("a",)),
        ("[a, b", ("[a", "b")),
    ],
)
def test_text_cell_holds_several_labels(cell: str, names: tuple[str, ...]) -> None:
    """A JSON list, a list as Python prints it, or names with commas between."""
    row = row_in_task(Row("p:1", "text", cell), "multi_label")
    assert isinstance(row, Row)
    assert row.label == names


@pytest.mark.parametrize(
    ("label", "task", "message"),
    [
        ("a,a", "multi_label", "p:1: label 'a' stands twice in its list of labels; expected different labels"),
        ('["a", "a"]', "multi_label", "label 'a' stands twice"),
        ("a,,b", "multi_label", "in its list of labels the row has no label"),
        ("[[1]]", "multi_label", "in its list of labels the label is of type list"),
        (("a", "b"), "single_label", r"the label is a list, \['a', 'b'\]; expected one label .*--task multi_label"),
        (("1",), "regression", "the label is a list"),
        ("high", "regression", "p:1: label 'high' is no number; expected a finite number; --task single_label"),
        ("nan", "regression", "label 'nan' is no number"),
    ],
)
def test_label_that_the_task_cannot_use_is_a_bad_row(label: str | tuple[str, ...], task: str, message: str) -> None:
    """The error names the row and the way out."""
    row = row_in_task(Row("p:1", "text", label), task)
    assert isinstance(row, DataError)
    with pytest.raises(DataError, match=message):
        raise row


def test_scores_are_numbers_of_the_examples(tmp_path: Path) -> None:
    """They were silently classes once; `labels` is the name of the column."""
    values = [round(0.3 * i, 1) for i in range(40)]
    splits = load_splits(lines_of(list(values), tmp_path / "a.jsonl"))
    assert (splits.task, splits.labels) == ("regression", ("label",))
    numbers = [row.label for part in (splits.train, splits.validation, splits.test) for row in part]
    assert all(isinstance(number, float) for number in numbers)
    assert sorted(numbers) == values
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (32, 4, 4)
    with pytest.raises(DataError, match=r"no label has two rows; .* pass --task regression"):
        load_splits(str(tmp_path / "a.jsonl"), task="single_label")
    classes = load_splits(lines_of([*values, *values], tmp_path / "a.jsonl"), task="single_label")
    assert (classes.task, classes.labels[:3], classes.labels[-1]) == ("single_label", ("0.0", "0.3", "0.6"), "11.7")


def test_row_whose_score_is_no_number_is_bad(tmp_path: Path) -> None:
    """One `n/a` among scores makes no thousand classes of them."""
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{i / 3:.2f}\n" for i in range(40)) + "last,n/a\n")
    with pytest.raises(DataError, match=r"a\.csv:42: label 'n/a' is no number; .*--task single_label"):
        load_splits(str(path))
    splits = load_splits(str(path), skip_bad_rows=True)
    assert splits.skipped == (f"{path}:42: label 'n/a' is no number",)


def test_lists_are_sorted_numbers_of_the_examples(tmp_path: Path) -> None:
    """An empty list is a row without labels, in JSON and in text cells."""
    labels = [["joy", "anger"], [], ["love"], ["joy"]] * 5
    splits = load_splits(lines_of(list(labels), tmp_path / "a.jsonl"))
    assert (splits.task, splits.labels) == ("multi_label", ("anger", "joy", "love"))
    by_text = {row.text: row.label for part in (splits.train, splits.validation, splits.test) for row in part}
    assert [by_text[f"text {i}"] for i in range(4)] == [(0, 1), (), (2,), (1,)]
    cells = ["joy, anger", "[]", "love", "joy"] * 5
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"text {i}\t{cell}\n" for i, cell in enumerate(cells)))
    same = load_splits(str(tmp_path / "a.tsv"), task="multi_label")
    assert (same.labels, same.digests) == (splits.labels, splits.digests)


def test_one_answer_teaches_nothing(tmp_path: Path) -> None:
    """Each task says what it needs."""
    for labels, task, message in [
        (["1.5"] * 9, "regression", "every training row has the label 1.5; expected at least two numbers"),
        ([["a"], []] * 9, "multi_label", "the lists hold no label but 'a'; expected at least two labels"),
        ([["a", "b"]] * 9, "multi_label", r"every training row has the label \(0, 1\)|every training row"),
        (["1"] * 9, "single_label", "every training row has the label '1'"),
    ]:
        with pytest.raises(DataError, match=message):
            load_splits(lines_of(list(labels), tmp_path / "a.jsonl"), task=task)


def test_declared_names_of_lists_keep_their_order(tmp_path: Path) -> None:
    """A list of ClassLabel in parquet, as GoEmotions has on the hub."""
    feature = {"feature": {"names": ["sadness", "joy", "anger"], "_type": "ClassLabel"}, "_type": "Sequence"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    table = pa.table({"text": [f"t{i}" for i in range(20)], "label": [[i % 3, 1] if i % 3 != 1 else [] for i in range(20)]})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    splits = load_splits(str(tmp_path / "a.parquet"))
    assert splits.labels == ("sadness", "joy", "anger")
    assert Example("t0", (0, 1)) in (*splits.train, *splits.validation, *splits.test)


def test_unused_second_text_is_said(tmp_path: Path) -> None:
    """Pairs read as single texts look like a hard task; identifiers and short cells are no texts."""
    path = tmp_path / "a.csv"
    rows = [f"a{i},this is one text,this is another text {i},{i % 2},short" for i in range(20)]
    path.write_text("\n".join(["id,first,other text,label,kind", *rows]))
    splits = load_splits(str(path), text_column="first")
    assert splits.notes == ("column 'other text' is not used; --pair_column 'other text' makes pairs",)
    pairs = load_splits(str(path), text_column="first", pair_column="other text")
    assert pairs.notes == ()
    assert pairs.train[0].pair is not None
    assert pairs.train[0].pair.startswith("this is another text")
    assert pairs.digests != splits.digests
    with pytest.raises(DataError, match="text and pair are both column 'first'; name different columns"):
        load_splits(str(path), text_column="first", pair_column="first")


def test_unknown_task_is_refused() -> None:
    """With the names that there are."""
    with pytest.raises(ConfigError, match="--task: found 'ranking'; expected auto or single_label or multi_label or regr"):
        DataOptions(task="ranking")


@pytest.mark.parametrize("other", ["Joy", "joy\u200b", "\ufeffjoy", "jo\u00ady", "j\u2060oy", "\uff4aoy", " joy"], ids=ascii)
def test_labels_that_look_the_same_are_named(other):
    """They are different labels, as the file says; most often one of them is a mistake."""
    assert "'joy'" in lookalikes_note(["joy", other, "anger"])
    assert lookalikes_note(["joy", "joyful", "j oy"]) == ""


def test_an_accent_of_its_own_looks_as_one_in_its_letter():
    """Files of two programs differ so."""
    assert lookalikes_note(["caf\u00e9", "cafe\u0301"])
    assert not lookalikes_note(["caf\u00e9", "cafe"])
