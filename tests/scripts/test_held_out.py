"""scripts/evaluate.py on rows that are there to be measured: all of them count."""

import json
import shutil
from dataclasses import replace

import pytest
from support.command_line import call, train_arguments
from support.folders import save_base
from support.pictures import quick_pictures

from lora_scratch.commands import evaluate, train
from lora_scratch.commands.study import ablate
from lora_scratch.runs import open_adapter, open_rows

LABELS = ("anger", "joy")


def measured(job, tmp_path, *flags) -> int:
    """The number of rows in the report."""
    place = tmp_path / "report.json"
    assert call(evaluate, job.adapter, "--json", place, *flags) == 0
    return json.loads(place.read_text(encoding="utf-8"))["adapted"]["n"]


def rows_file(path, labels):
    path.write_text("text,label\n" + "".join(f"text number {i},{label}\n" for i, label in enumerate(labels)))
    return path


@pytest.mark.parametrize("labels", [LABELS * 20, ["joy"] * 25, ["anger", "joy"]], ids=["two", "one", "few"])
def test_all_rows_of_a_file_are_measured(job, tmp_path, labels):
    """It is not split again, and neither one label alone nor two rows are too few."""
    assert measured(job, tmp_path, "--dataset", rows_file(tmp_path / "rows.csv", labels)) == len(labels)


def test_all_rows_of_a_file_are_ablated_on(job, tmp_path):
    """As for evaluate, unless a split is named."""
    path, place = rows_file(tmp_path / "rows.csv", LABELS * 20), tmp_path / "ablation.json"
    for flags, rows in (((), 40), (("--split", "validation"), 4)):
        assert call(ablate, job.adapter, "--dataset", path, "--json", place, "--strengths", 1, *flags) == 0
        assert json.loads(place.read_text(encoding="utf-8"))["rows"] == rows


def test_split_of_a_file_can_still_be_named(job, tmp_path):
    """Then the file is split 80/10/10 as a training would."""
    path = rows_file(tmp_path / "rows.csv", LABELS * 20)
    assert measured(job, tmp_path, "--dataset", path, "--split", "test") == 4
    assert measured(job, tmp_path, "--dataset", path, "--split", "train") == 32


def test_folder_with_test_alone_is_measured_whole(job, tmp_path, capsys):
    """No train is needed. A temperature comes from the validation rows of the training where the folder has none."""
    folder = tmp_path / "rows"
    folder.mkdir()
    rows_file(folder / "test.csv", LABELS * 6)
    assert measured(job, tmp_path, "--dataset", folder, "--temperature") == 12
    (folder / "test.csv").rename(folder / "dev.csv")
    assert measured(job, tmp_path, "--dataset", folder) == 12
    assert "there is no test split among 'dev.csv': the validation rows are measured" in capsys.readouterr().out


def test_file_of_the_training_is_split_as_in_the_training(job, tmp_path):
    """Its training rows are no test, also where it is named again or in another way."""
    path = rows_file(tmp_path / "rows.csv", LABELS * 20)
    saved = open_adapter(job.adapter)
    data = replace(saved.provenance.data, dataset=str(path))
    of_this_file = replace(saved, provenance=replace(saved.provenance, data=data))
    in_training, _ = open_rows(of_this_file)
    again, _ = open_rows(of_this_file, dataset=f"{tmp_path}/../{tmp_path.name}/rows.csv", held_out=True)
    assert again.test == in_training.test
    assert len(again.test) == 4


def test_label_that_the_adapter_lacks_is_one_line_with_its_row(job, tmp_path, capsys):
    """With the labels that it has."""
    path = rows_file(tmp_path / "rows.csv", ["joy", "neutral"])
    assert call(evaluate, job.adapter, "--dataset", path) == 1
    error = capsys.readouterr().err
    assert "rows.csv:3: label 'neutral' is not in the labels of the adapter; expected 'anger', 'fear'" in error


@pytest.mark.parametrize("command", [evaluate, ablate])
def test_columns_of_other_rows_can_be_named(job, tmp_path, capsys, command):
    """A file that calls them otherwise than the training did; they are columns of --dataset alone."""
    path = rows_file(tmp_path / "rows.csv", LABELS * 5)
    path.write_text(path.read_text(encoding="utf-8").replace("text,label", "body,mood"))
    flags = ["--text_column", "body", "--label_column", "mood", *(["--strengths", 1] if command is ablate else [])]
    assert call(command, job.adapter, "--dataset", path) == 1
    assert "name them with --text_column and --label_column" in capsys.readouterr().err
    assert call(command, job.adapter, "--dataset", path, *flags) == 0
    assert "10" in capsys.readouterr().out
    assert call(command, job.adapter, *flags) == 1
    assert "--text_column: names a column of other rows; name them with --dataset" in capsys.readouterr().err


def test_rows_of_the_training_under_another_name_are_no_test(job, tmp_path, capsys):
    """A copy of the file of its training rows, as far as the run beside the adapter still says what these were."""
    copy = tmp_path / "copy.csv"
    shutil.copy(next(job.data.glob("train.*")), copy.with_suffix(next(job.data.glob("train.*")).suffix))
    (copy,) = tmp_path.glob("copy.*")
    assert call(evaluate, job.adapter, "--dataset", copy) == 1
    told = f"error: --dataset {copy}: holds the rows that the adapter was trained with; expected rows"
    assert told in capsys.readouterr().err
    moved = tmp_path / "moved"
    shutil.copytree(job.adapter, moved)
    assert call(evaluate, moved, "--dataset", copy) == 0, "without its run nobody knows"


def test_a_copied_folder_has_test_rows_of_its_own(job, tmp_path):
    """Its training rows are those of the training, its test rows are not."""
    copied = shutil.copytree(job.data, tmp_path / "copied")
    assert measured(job, tmp_path, "--dataset", copied) == measured(job, tmp_path)


def test_a_file_that_the_training_would_split_alike_is_no_test(tmp_path, capsys):
    """A copy of the one file of a training: four fifths of it were trained on."""
    rows = rows_file(tmp_path / "rows.csv", LABELS * 20)
    base = save_base(tmp_path / "base", labels=("negative", "positive"))
    with quick_pictures():
        assert call(train, *train_arguments(base, rows, tmp_path / "run")) == 0
    copy = shutil.copy(rows, tmp_path / "copy.csv")
    assert call(evaluate, tmp_path / "run" / "adapter", "--dataset", copy) == 1
    assert f"name --dataset {rows}, which keeps its test rows apart" in capsys.readouterr().err
