"""scripts/check_data.py: what it prints, the file of findings, and errors in one line."""

import json

import pytest
import torch
from support.command_line import call
from support.folders import cached_splits, save_base

from lora_scratch.commands import check_data
from lora_scratch.data import load_splits
from lora_scratch.tasks import make_task
from lora_scratch.training.margins import Margins, write_margins


@pytest.fixture
def data(tmp_path):
    """Rows of the demo with one leaked test row, one conflict in train, and one near copy."""
    demo = cached_splits()
    rows = [f"{row.text};{demo.labels[row.label]}" for row in demo.train[:60]]
    text, label = rows[3].split(";")
    other = next(name for name in demo.labels if name != label)
    splits = {
        "train": [*rows[:40], f"{text.upper()};{other}"],
        "validation": rows[40:50],
        "test": [*rows[50:60], rows[7], f"well well {rows[9]}"],
    }
    folder = tmp_path / "data"
    folder.mkdir()
    for name, lines in splits.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def checked(tmp_path, *arguments):
    """The findings of a check that ends well."""
    place = tmp_path / "findings.json"
    assert call(check_data, *arguments, "--json", place) == 0
    return json.loads(place.read_text(encoding="utf-8"))


def test_counts_and_rows_are_printed_and_written(data, tmp_path, capsys):
    """The same counts in both; the file has every row."""
    found = checked(tmp_path, "--dataset", data, "--near", 0.5)
    printed = capsys.readouterr().out
    assert "41 train, 10 validation, 12 test rows; single_label" in printed
    assert "texts in two rows or more: 2 (4 rows); with different labels: 1" in printed
    assert "test rows whose text stands in train too: 1 of 12" in printed
    assert (found["repeated_texts"], found["conflicts"]) == (2, 1)
    assert found["shared"][0] == {"rows_of": "test", "in": "train", "rows": [10]}
    conflict = next(copies for copies in found["copies"] if copies["conflict"])
    assert [(row["split"], row["row"]) for row in conflict["rows"]] == [("train", 3), ("train", 40)]
    near = [(entry["rows"][0]["split"], entry["rows"][0]["row"]) for entry in found["near_copies"]]
    assert ("test", 11) in near
    assert found["suspects"] is None
    assert found["lengths"]["unit"] == "words"


def test_no_more_rows_are_printed_than_asked_for(data, capsys):
    """Counts are still of all."""
    assert call(check_data, "--dataset", data, "--show", 0) == 0
    printed = capsys.readouterr().out
    assert "Texts with different labels (0 of 1)" in printed
    assert "train 3:" not in printed


def test_near_copies_can_be_left_out(data, tmp_path, capsys):
    """Then nothing is said of them."""
    assert checked(tmp_path, "--dataset", data, "--near", 0)["near_copies"] is None
    assert "near    " not in capsys.readouterr().out


def test_a_model_adds_tokens_cut_rows_and_suspects(data, tmp_path, capsys):
    """Its tokenizer counts, and its features judge the labels."""
    base = save_base(tmp_path / "base", labels=("negative", "positive"))
    found = checked(tmp_path, "--dataset", data, "--model", base, "--max_tokens", 8, "--top", 3)
    assert found["lengths"]["unit"] == "tokens"
    assert found["lengths"]["cut"]["train"] > 0
    assert found["lengths"]["train"]["largest"] == 8
    assert checked(tmp_path, "--dataset", data, "--model", base)["lengths"]["max_tokens"] == 64, "what the model reads"
    suspects = found["suspects"]
    assert len(suspects["rows"]) == min(3, suspects["number"])
    for row in suspects["rows"]:
        assert row["suggested"] in cached_splits().labels
        assert row["suggested"] != row["label"]
    assert "Labels that may be wrong, the surest first" in capsys.readouterr().out


def test_a_run_lists_its_hardest_rows_first(job, tmp_path, capsys):
    """Of the rows it was trained on, without naming them again; rows that no step used are left out."""
    splits = load_splits(str(job.data))
    margins = Margins(len(splits.train), make_task("single_label", splits.labels))
    rows = torch.arange(len(splits.train) - 1)
    logits = torch.zeros(len(rows), len(splits.labels))
    labels = torch.tensor([row.label for row in splits.train])[:-1]
    logits[rows, labels] = 2.0
    logits[5, labels[5]] = -2.0
    margins.add(rows, logits, labels)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_bytes((job.run / "config.json").read_bytes())
    write_margins(run, margins.totals(), train_digest=splits.digests["train"])
    found = checked(tmp_path, "--run", run)
    assert len(found["hard_rows"]) == 50
    assert (found["hard_rows"][0]["row"], found["hard_rows"][0]["text"]) == (5, splits.train[5].text)
    assert found["hard_rows"][0]["margin"] < 0 < found["hard_rows"][1]["margin"]
    assert f"(5 of {len(rows)})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--dataset is missing: pass it, or --run"),
        (["--run", "nowhere"], 1, "--run nowhere: no run was started here"),
        (["--dataset", "nowhere/at/all"], 1, "nowhere/at/all"),
        (["--dataset", "demo", "--near", "1.5"], 1, "--near: found 1.5; expected 0 to 1"),
        (["--dataset", "demo", "--show", "-1"], 1, "--show: found -1; expected at least 0"),
        (["--dataset", "demo", "--json", "."], 1, "--json .: is no regular file"),
    ],
)
def test_wrong_usage_is_one_line(capsys, arguments, code, message):
    """Before any row is compared."""
    assert call(check_data, *arguments) == code
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert message in line
