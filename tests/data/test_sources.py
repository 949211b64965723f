"""Laws of lora_scratch/data/sources.py: from a name to three splits, with nothing lost on the way."""

import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lora_scratch.data import Example, Splits, load_splits
from lora_scratch.data.sources import label_names
from lora_scratch.errors import DataError, LoraScratchError

TRAIN = "a;joy\nb;anger\nc;joy\n"


def folder(tmp_path: Path, **files: str) -> str:
    """A folder with a .txt file for each split named."""
    for name, content in files.items():
        (tmp_path / f"{name}.txt").write_text(content)
    return str(tmp_path)


def all_rows(splits: Splits) -> list[tuple[str, str]]:
    return [(row.text, splits.labels[row.label]) for rows in (splits.train, splits.validation, splits.test) for row in rows]


def test_folder_gives_its_three_splits_in_file_order(tmp_path: Path) -> None:
    """Rows stay in their files' order and labels are numbered alphabetically."""
    source = folder(tmp_path, train=TRAIN, validation="d;joy\n", test="e;anger\nf;joy\n")
    splits = load_splits(source)
    assert splits == Splits(
        train=(Example("a", 1), Example("b", 0), Example("c", 1)),
        validation=(Example("d", 1),),
        test=(Example("e", 0), Example("f", 1)),
        labels=("anger", "joy"),
        source=source,
    )


@pytest.mark.parametrize("name", ["validation", "val", "valid", "dev"])
def test_validation_file_goes_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    """validation, val, valid and dev are the same split, in any known format."""
    (tmp_path / f"{name}.csv").write_text("text,label\nd,joy\n")
    splits = load_splits(folder(tmp_path, train=TRAIN, test="e;anger\n"))
    assert splits.validation == (Example("d", 1),)


def test_missing_validation_is_a_tenth_of_the_training_rows(tmp_path: Path) -> None:
    """Without a validation file every tenth training row, drawn by the seed, becomes one."""
    train = "".join(f"text {i};{'joy' if i % 2 else 'anger'}\n" for i in range(100))
    source = folder(tmp_path, train=train, test="e;anger\n")
    splits = load_splits(source)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (90, 10, 1)
    assert load_splits(source) == splits
    assert load_splits(source, seed=1).validation != splits.validation


def test_single_file_is_split_80_10_10(tmp_path: Path) -> None:
    """Every row of the file is in exactly one split, and the labels keep their shares."""
    path = tmp_path / "rows.txt"
    path.write_text("".join(f"text {i};{'joy' if i % 4 else 'anger'}\n" for i in range(400)))
    splits = load_splits(str(path))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (320, 40, 40)
    assert {text for text, _ in all_rows(splits)} == {f"text {i}" for i in range(400)}
    assert Counter(row.label for row in splits.test) == {0: 10, 1: 30}
    assert load_splits(str(path)) == splits


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["joy", "anger", "joy"], ("anger", "joy")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["01", "1", "001", "0"], ("0", "001", "01", "1")),
        (["10", "2.5", "-1"], ("-1", "2.5", "10")),
        (["10", "9", "joy"], ("10", "9", "joy")),
        (["9" * 5000, "1"], ("1", "9" * 5000)),
    ],
)
def test_label_names_are_in_numerical_order_when_all_are_numbers(values: list[str], names: tuple[str, ...]) -> None:
    """Numbers, also when written as strings, sort as numbers, spelled as they are; anything else sorts as text."""
    assert label_names(values) == names


def test_number_written_in_two_ways_is_two_labels_and_a_note(tmp_path: Path) -> None:
    """`01` and `1` are what the file says. One line names them, and one that only the test rows have is refused."""
    train = "".join(f"text {i};{label}\n" for i, label in enumerate(["1", "01", "001", "2"] * 5))
    splits = load_splits(folder(tmp_path, train=train, validation="c;01\n", test="d;1\n"))
    assert splits.labels == ("001", "01", "1", "2")
    assert splits.notes == ("labels that differ in spelling alone are different labels: '001', '01', '1'",)
    with pytest.raises(DataError, match=r"label '02' is not in the training rows; .*; spell it '2' as the training rows do"):
        load_splits(folder(tmp_path, test="d;02\n"))


def test_declared_class_names_keep_their_order(tmp_path: Path) -> None:
    """A parquet ClassLabel column is not sorted."""
    feature = json.dumps({"info": {"features": {"label": {"names": ["sadness", "joy", "anger"]}}}})
    table = pa.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata({"huggingface": feature})
    for name in ("train", "validation", "test"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    splits = load_splits(str(tmp_path))
    assert splits.labels == ("sadness", "joy", "anger")
    assert [row.label for row in splits.train] == [0, 1]


def test_column_flags_choose_the_columns(tmp_path: Path) -> None:
    """Any two columns can be text and label."""
    (tmp_path / "rows.csv").write_text("id,body,mood\n" + "".join(f"{i},body {i},{i % 2}\n" for i in range(20)))
    splits = load_splits(str(tmp_path / "rows.csv"), text_column="body", label_column="mood")
    assert ("body 3", "1") in all_rows(splits)
    with pytest.raises(DataError, match="text and label are both column 'body'; name different columns"):
        load_splits(str(tmp_path / "rows.csv"), text_column="body", label_column="body")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"test": TRAIN}, r"no train split among 'test\.txt'"),
        ({}, "no train split among nothing"),
        ({"train": TRAIN, "test": TRAIN, "val": TRAIN, "dev": TRAIN}, r"'dev\.txt', 'val\.txt' are all validation"),
        ({"train": "", "test": TRAIN}, r"\(train\): the data set has no rows"),
        ({"train": TRAIN, "test": "\n\n"}, r"\(test\): the data set has no rows"),
        (
            {"train": TRAIN, "test": "e;joy\nf;fear\n"},
            r"test\.txt:2: label 'fear' is not in the training rows; expected 'anger', 'joy'",
        ),
        ({"train": "a;joy\nb;joy\n", "validation": "c;joy\n", "test": "d;joy\n"}, "every training row has the label 'joy'"),
        ({"train": "a;joy\nb;anger\n", "test": "c;joy\n"}, "2 rows are too few to set some aside for validation"),
        ({"train": "a;joy\nb\n", "test": "c;joy\n"}, r"train\.txt:2: no ';' in 'b'; .*--skip_bad_rows"),
    ],
)
def test_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    """Every fault names the file or folder and what is wrong."""
    with pytest.raises(DataError, match=message) as caught:
        load_splits(folder(tmp_path, **files))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_formats_of_one_split_are_refused(tmp_path: Path) -> None:
    """train.txt beside train.csv: which one is meant is not guessed."""
    (tmp_path / "train.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=r"'train\.csv', 'train\.txt' are all train"):
        load_splits(folder(tmp_path, train=TRAIN, test=TRAIN))


@pytest.mark.parametrize("source", ["none.csv", "no/such/folder", "./none", "a b", "http://x.y/z"])
def test_path_to_nothing_is_no_such_file(source: str) -> None:
    """What can't be a name on the hub is a missing file, and the hub is not asked."""
    with pytest.raises(DataError, match="there is no such file"):
        load_splits(source)


def test_empty_name_is_an_error() -> None:
    """An empty flag is said to be empty: it does not mean the current folder."""
    with pytest.raises(DataError, match="--dataset: no data set is named"):
        load_splits("")


def test_skipped_rows_are_listed_and_the_rest_is_used(tmp_path: Path) -> None:
    """rows in = rows used + rows skipped, each skipped one with its line and reason."""
    source = folder(tmp_path, train=TRAIN + "bad\n ;joy\n", validation="d;joy\n\ng;joy\n", test="e;fear\nf;joy\n")
    splits = load_splits(source, skip_bad_rows=True)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (3, 2, 1)
    assert splits.skipped == (
        f"{source}/train.txt:4: no ';' in 'bad'",
        f"{source}/train.txt:5: the text is empty",
        f"{source}/validation.txt:2: the line is empty",
        f"{source}/test.txt:1: label 'fear' is not in the training rows",
    )


def test_skipping_every_row_is_an_error(tmp_path: Path) -> None:
    """A data set of bad rows alone is not an empty one that passes in silence."""
    with pytest.raises(DataError, match=r"none of the 2 rows is usable: .*test\.txt:1: no ';'"):
        load_splits(folder(tmp_path, train=TRAIN, test="bad\nbad\n"), skip_bad_rows=True)
    with pytest.raises(DataError, match="no row with a label of the training rows is left"):
        load_splits(folder(tmp_path, train=TRAIN * 2, validation="a;joy\n", test="a;fear\n"), skip_bad_rows=True)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, dropped, doubled, or put in."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randint(1, 30)]
            case 2:
                data[at:at] = rng.choice([b"\0", b'"', b"\n", b"\r", b"\xff", b",", b"\t", b";", b"{", b"\xe2\x80\xa8"])
            case 3:
                data[at:at] = data[at : at + 40]
            case _:
                del data[at:]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("extension", [".csv", ".tsv", ".jsonl", ".txt", ".parquet"])
def test_mutated_file_gives_rows_or_a_typed_error(tmp_path: Path, extension: str) -> None:
    """Whatever a file holds, it is read, or refused in one line: no other exception comes through the door."""
    rng = random.Random(extension)  # noqa: S311
    rows = [(f"some text {i}", rng.choice(["joy", "anger"])) for i in range(12)]
    path = tmp_path / f"rows{extension}"
    write_rows(path, rows)
    content = path.read_bytes()
    errors: list[str] = []
    for _ in range(60):
        path.write_bytes(mutated(content, rng))
        try:
            splits = load_splits(str(path), skip_bad_rows=True)
        except LoraScratchError as error:
            errors.append(str(error))
            continue
        text = path.read_bytes().rstrip()
        text = text if extension == ".txt" else text.replace(b"\r", b"\n")  # where a lone \r is a character of a text
        if extension in (".txt", ".jsonl") or (extension != ".parquet" and b'"' not in text):  # one line is one row
            lines = text.count(b"\n") + (extension in (".txt", ".jsonl"))
            assert len(all_rows(splits)) + len(splits.skipped) == lines
    assert not any("\n" in error for error in errors)
    assert errors if extension == ".parquet" else len(errors) < 60


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    """The rows in the format of the path's extension."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), path)
        return
    header = {".csv": "text,label\n", ".tsv": "text\tlabel\n"}.get(path.suffix, "")
    separator = {".csv": ",", ".tsv": "\t", ".txt": ";"}.get(path.suffix, "")
    lines = [json.dumps({"text": t, "label": lab}) if path.suffix == ".jsonl" else f"{t}{separator}{lab}" for t, lab in rows]
    path.write_text(header + "".join(f"{line}\n" for line in lines))
