"""Laws of split_tables.py, and of sources.py where labels are hidden: benchmarks and competitions as they come."""

from pathlib import Path

import datasets.config
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lora_scratch.data import load_held_out, load_splits
from lora_scratch.errors import DataError

CARD = """---
license: other
configs:
- config_name: pairs
  data_files:
  - split: train
    path: pairs/train-*
  - split: validation
    path: pairs/validation-*
  - split: test
    path: pairs/test-*
- config_name: mood
  data_files:
  - split: train
    path: mood/train.tsv
  - split: validation_matched
    path: mood/dev.tsv
  - split: validation_mismatched
    path: mood/other.tsv
dataset_info:
- config_name: pairs
  features:
  - name: sentence1
    dtype: string
  - name: sentence2
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': different
          '1': same
- config_name: mood
  features:
  - name: text
    dtype: string
---
# A data set
"""


def table(path: Path, labels: list[object] | None, *, header: str = "text,label", prefix: str = "text") -> None:
    """A .csv or .tsv with these labels; None for twenty texts without a column of labels."""
    mark = "\t" if path.suffix == ".tsv" else ","
    lines = [header.replace(",", mark)] if labels is not None else ["text"]
    rows = [[f"{prefix} {i}", *([str(v)] if labels is not None else [])] for i, v in enumerate(labels or range(20))]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([*lines, *map(mark.join, rows)]) + "\n")


@pytest.fixture
def hub_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the hub's layout, with two configurations."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "glue"
    (folder / "pairs").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for name, n in [
        ("train-00000-of-00002", 30),
        ("train-00001-of-00002", 10),
        ("validation-00000-of-00001", 8),
        ("test-00000-of-00001", 6),
    ]:
        labels = [-1 if "test" in name else i % 2 for i in range(n)]
        columns = {side: [f"{side} of {name} {i}" for i in range(n)] for side in ("sentence1", "sentence2")}
        pq.write_table(pa.table({**columns, "label": labels}), folder / "pairs" / f"{name}.parquet")
    table(folder / "mood" / "train.tsv", ["01", "1"] * 20)
    table(folder / "mood" / "dev.tsv", ["01", "1"] * 3)
    table(folder / "mood" / "other.tsv", ["01", "1"] * 3)
    return folder


@pytest.mark.parametrize("hidden", [["-1"] * 20, ["-1.0"] * 20, [""] * 20, None], ids=["-1", "-1.0", "empty", "no column"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_validation_is_the_test_where_the_test_labels_are_hidden(
    tmp_path: Path, hidden: list[object] | None, kind: str
) -> None:
    """A tenth of train is held out for validation, and one line says so."""
    table(tmp_path / f"train.{kind}", [0, 1] * 20)
    table(tmp_path / f"dev.{kind}", [0, 1] * 5, prefix="dev text")
    table(tmp_path / f"test.{kind}", hidden)
    splits = load_splits(str(tmp_path))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 4, 10)
    assert splits.test[0].text == "dev text 0"
    line = "the test rows have no labels: the 10 validation rows are the test, and 4 rows held out of train the validation"
    assert splits.notes == (line,)
    assert splits.test_split == "validation"


def test_score_of_minus_one_alone_is_a_hidden_one(tmp_path: Path) -> None:
    """As GLUE's STS-B has it; where -1 is a score of the training rows, it stays one."""
    table(tmp_path / "train.csv", [i / 4 for i in range(40)])
    table(tmp_path / "validation.csv", [i / 4 for i in range(10)])
    table(tmp_path / "test.csv", [-1.0] * 9)
    assert len(load_splits(str(tmp_path)).test) == 10
    table(tmp_path / "train.csv", [i / 4 - 5 for i in range(40)])
    assert [row.label for row in load_splits(str(tmp_path)).test] == [-1.0] * 9


def test_train_gives_both_where_only_its_labels_are_known(tmp_path: Path) -> None:
    """A competition: train.csv with labels, test.csv without."""
    table(tmp_path / "train.csv", ["good", "bad"] * 40)
    table(tmp_path / "test.csv", None)
    splits = load_splits(str(tmp_path))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (64, 8, 8)
    line = "the test rows have no labels: 8 and 8 rows held out of train are test and validation"
    assert splits.notes == (line,)
    assert splits.test_split == ""
    (tmp_path / "test.csv").unlink()
    (note,) = load_splits(str(tmp_path)).notes
    assert note.startswith("there is no test split among 'train.csv': 8 and 8 rows")


def test_hidden_validation_is_held_out_of_train(tmp_path: Path) -> None:
    """The test rows stay the test."""
    table(tmp_path / "train.csv", ["good", "bad"] * 20)
    table(tmp_path / "validation.csv", [""] * 5)
    table(tmp_path / "test.csv", ["good"] * 5)
    splits = load_splits(str(tmp_path))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 4, 5)
    assert splits.notes == ("the validation rows have no labels: 4 rows held out of train take their place",)


def test_one_missing_label_among_others_is_a_bad_row(tmp_path: Path) -> None:
    """Only a split without any label is a hidden one."""
    table(tmp_path / "train.csv", ["good", "bad"] * 20)
    for labels, line in [(["", "good"], 2), (["good", ""], 3)]:
        table(tmp_path / "test.csv", list(labels))
        with pytest.raises(DataError, match=rf"test\.csv:{line}: the row has no label"):
            load_splits(str(tmp_path))
        assert load_splits(str(tmp_path), skip_bad_rows=True).skipped == (
            f"{tmp_path}/test.csv:{line}: the row has no label",
        )


def test_file_that_is_no_split_is_said(tmp_path: Path) -> None:
    """A file of another domain, or notes."""
    table(tmp_path / "train.tsv", [0, 1] * 20)
    table(tmp_path / "test.tsv", [0, 1])
    table(tmp_path / "dev.tsv", [0, 1])
    table(tmp_path / "dev_ids.tsv", [0, 1])
    splits = load_splits(str(tmp_path))
    assert len(splits.validation) == 2
    assert splits.notes == ("not used, since the names are no splits: 'dev_ids.tsv'",)


def test_spreadsheets_of_a_folder_are_named_with_the_way_out(tmp_path: Path) -> None:
    """`no train split among nothing` would not help their owner."""
    for name in ("train.xlsx", "test.xlsx"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=r"train\.xlsx: a spreadsheet; .*save the sheet as CSV"):
        load_splits(str(tmp_path))


def test_configuration_of_a_local_copy_is_read_with_the_names_of_its_card(hub_copy: Path) -> None:
    """All parts of a split, one after the other; class names come from the features; hidden labels as anywhere."""
    splits = load_splits(f"{hub_copy}:pairs", text_column="sentence1", pair_column="sentence2")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 4, 8)
    assert splits.labels == ("different", "same")
    assert splits.test[1].pair == "sentence2 of validation-00000-of-00001 1"
    assert splits.test[1].label == 1
    assert len(splits.notes) == 1


def test_rows_of_a_local_copy_are_read_by_the_same_rules(hub_copy: Path) -> None:
    """`datasets` would read 01 as the number 1."""
    splits = load_splits(f"{hub_copy}:mood")
    assert splits.labels == ("01", "1")
    assert (len(splits.test), splits.test_split) == (12, "validation_matched+validation_mismatched")
    assert "the validation rows are those of validation_matched and validation_mismatched" in splits.notes


@pytest.mark.parametrize(
    ("name", "found"), [("", "it has several configurations"), (":mod", "there is no configuration 'mod'")]
)
def test_data_set_with_configurations_lists_them(hub_copy: Path, name: str, found: str) -> None:
    """The way out is a name that works."""
    message = rf"glue: {found}; expected one of 'pairs', 'mood'; pass .*glue:pairs"
    with pytest.raises(DataError, match=message):
        load_splits(f"{hub_copy}{name}")


def test_configuration_that_the_card_makes_the_default_is_said(hub_copy: Path) -> None:
    """Of several, one was chosen."""
    (hub_copy / "README.md").write_text(
        CARD.replace("- config_name: mood\n  data", "- config_name: mood\n  default: true\n  data")
    )
    assert "configuration 'mood' of 'pairs', 'mood'" in load_splits(str(hub_copy)).notes


def test_configuration_without_a_card_is_a_folder(tmp_path: Path) -> None:
    """DIR:name is DIR/name where no card says otherwise."""
    table(tmp_path / "mood" / "train.csv", ["good", "bad"] * 20)
    table(tmp_path / "mood" / "test.csv", ["good"] * 5)
    assert len(load_splits(f"{tmp_path}:mood").test) == 5


def test_parts_of_splits_are_found_without_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """data/train-00000-of-00001.parquet, as the hub converts data sets."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set" / "data").mkdir(parents=True)
    for split, n in {"train": 20, "test": 4}.items():
        rows = pa.table({"text": [f"{split} {i}" for i in range(n)], "label": ["x", "y"] * (n // 2)})
        pq.write_table(rows, tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    splits = load_splits(str(tmp_path / "set"))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (18, 2, 4)


def test_all_rows_of_a_held_out_file_count(tmp_path: Path) -> None:
    """They are not split again, and one label is enough; the numbers are the adapter's."""
    table(tmp_path / "rows.csv", ["good"] * 50)
    splits = load_held_out(str(tmp_path / "rows.csv"), labels=("bad", "good"), task="single_label")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (0, 0, 50)
    assert {row.label for row in splits.test} == {1}
    assert splits.labels == ("bad", "good")


def test_test_rows_of_a_held_out_folder_count(tmp_path: Path) -> None:
    """A folder with test alone is enough; without labels there, validation is measured and a line says so."""
    table(tmp_path / "test.csv", ["good", "bad"] * 5)
    assert len(load_held_out(str(tmp_path), labels=("bad", "good"), task="single_label").test) == 10
    table(tmp_path / "val.csv", ["good"] * 3)
    splits = load_held_out(str(tmp_path), labels=("bad", "good"), task="single_label")
    assert (len(splits.validation), len(splits.test), splits.notes) == (3, 10, ())
    table(tmp_path / "test.csv", None)
    splits = load_held_out(str(tmp_path), labels=("bad", "good"), task="single_label")
    assert (len(splits.validation), len(splits.test)) == (0, 3)
    assert splits.notes == ("the test rows have no labels: the validation rows are measured",)
    (tmp_path / "val.csv").unlink()
    with pytest.raises(DataError, match=r"no test or validation rows with labels among 'test\.csv'; .* command predict"):
        load_held_out(str(tmp_path), labels=("bad", "good"), task="single_label")


def test_label_that_the_adapter_does_not_know_is_a_bad_row(tmp_path: Path) -> None:
    """With its place, and the spelling that was meant."""
    table(tmp_path / "rows.csv", ["good", "Bad"])
    with pytest.raises(DataError, match=r"rows\.csv:3: label 'Bad' is not in the labels of the adapter; .*; spell it 'bad'"):
        load_held_out(str(tmp_path / "rows.csv"), labels=("bad", "good"), task="single_label")
    lenient = load_held_out(str(tmp_path / "rows.csv"), labels=("bad", "good"), task="single_label", skip_bad_rows=True)
    assert (len(lenient.test), len(lenient.skipped)) == (1, 1)


def test_held_out_labels_are_read_as_the_adapters_task(tmp_path: Path) -> None:
    """Whole numbers are scores to a regression; one list is a row of several labels."""
    table(tmp_path / "rows.csv", [1, 2, 2])
    scores = load_held_out(str(tmp_path / "rows.csv"), labels=("score",), task="regression")
    assert [row.label for row in scores.test] == [1.0, 2.0, 2.0]
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": ["good"]}\n{"text": "b", "label": []}\n')
    several = load_held_out(str(tmp_path / "rows.jsonl"), labels=("bad", "good"), task="multi_label")
    assert [row.label for row in several.test] == [(1,), ()]
