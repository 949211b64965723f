"""lora_scratch/study/table2.py: the paper's figures, and the rows of both protocols."""

import json

import pytest
from support.glue import write_glue

from lora_scratch.errors import DataError
from lora_scratch.study.methods import METHODS
from lora_scratch.study.table2 import HONEST, PAPER, TASKS, data_flags, folder_of, write_rows


def rows_of(folder):
    return {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in folder.iterdir()
    }


def write(folder, header, **splits):
    folder.mkdir()
    for name, lines in splits.items():
        (folder / f"{name}.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def mrpc(tmp_path):
    """Rows as in MRPC's own files: other names of columns, and more of them."""
    lines = [f"{number % 2}\t{number}\t{number}\tfirst {number}\tsecond {number}" for number in range(40)]
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    return write(tmp_path / "mrpc", header, train=lines[:30], dev=lines[30:])


def test_the_honest_protocol_chooses_on_rows_held_out_of_train(mrpc, tmp_path):
    """Both report the validation rows; only the paper's chooses by them."""
    write_rows(TASKS["mrpc"], str(mrpc), tmp_path / "rows")
    paper, honest = (rows_of(tmp_path / "rows" / protocol) for protocol in (PAPER, HONEST))
    assert paper["validation"] == paper["test"] == honest["test"]
    assert len(paper["test"]) == 10
    assert (len(paper["train"]), len(honest["train"]), len(honest["validation"])) == (30, 27, 3)
    chosen = [row["text"] for part in ("train", "validation") for row in honest[part]]
    assert sorted(chosen) == sorted(row["text"] for row in paper["train"])
    assert paper["train"][0] == {"text": "first 0", "pair": "second 0", "label": "0"}


def test_scores_are_numbers(tmp_path):
    """The rows of a regression are held out over the whole range of its numbers."""
    lines = [f"{number}\tA {number}\tB\t{number / 10}\tNEUTRAL" for number in range(50)]
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
    write_rows(TASKS["sick"], str(write(tmp_path / "sick", header, train=lines, validation=lines)), tmp_path / "rows")
    held_out = [row["label"] for row in rows_of(tmp_path / "rows" / HONEST)["validation"]]
    assert len(held_out) == 5
    assert min(held_out) < 1
    assert max(held_out) > 4


def test_a_source_in_no_known_layout_is_refused_with_the_columns_of_the_hub(tmp_path):
    """And one without validation rows, whatever they are called."""
    folder = write(tmp_path / "rte", "premise\thypothesis\tgold", train=["a\tb\t0", "c\td\t1"])
    with pytest.raises(DataError, match="sentence1"):
        write_rows(TASKS["rte"], str(folder), tmp_path / "rows")
    folder = write(tmp_path / "cola", "sentence\tlabel", train=["a b\t0", "c d\t1"])
    with pytest.raises(DataError, match="there is no validation split; expected train and validation"):
        write_rows(TASKS["cola"], str(folder), tmp_path / "rows")


def test_every_task_of_the_paper_has_its_metric_and_a_figure_for_every_method():
    """Matthews for CoLA, Pearson for STS-B, accuracy for the others (the table's caption)."""
    other = {"cola": "matthews", "stsb": "pearson"}
    for name, task in TASKS.items():
        if name != "sick":
            assert set(task.paper) == {"full", "bitfit", "lora"} <= set(METHODS)
            assert task.metric == other.get(name, "accuracy")


@pytest.mark.parametrize(("method", "average"), [("full", 86.4), ("bitfit", 85.2), ("lora", 87.2)])
def test_the_figures_have_the_average_that_the_paper_prints(method, average):
    """A slip in one figure would show."""
    figures = [task.paper[method] for task in TASKS.values() if task.paper]
    assert sum(figures) / len(figures) == pytest.approx(average, abs=0.06)


def test_pairs_and_single_texts_have_their_flags(tmp_path):
    """What chooses the epoch is the score that is reported."""
    assert data_flags(TASKS["cola"], tmp_path)[2:] == ["--task", "single_label", "--best_by", "matthews"]
    assert "--pair_column" in data_flags(TASKS["stsb"], tmp_path)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.paper])
def test_the_folder_of_the_archive_is_read_as_it_is(tmp_path, name):
    """Found by its name as the archive spells it; every row is there, and MNLI's two halves count together."""
    place = folder_of(name, write_glue(tmp_path / "glue"))
    notes = write_rows(TASKS[name], str(place), tmp_path / "rows")
    paper = rows_of(tmp_path / "rows" / PAPER)
    validation = 20 if name == "mnli" else 10
    assert (len(paper["train"]), len(paper["validation"])) == (40, validation)
    assert ("pair" in paper["train"][0]) == (TASKS[name].columns[0].pair is not None)
    assert notes[0] == f"40 training rows, {validation} validation rows"
    assert ("the validation rows are those of dev_matched.tsv and dev_mismatched.tsv" in notes) == (name == "mnli")


def test_bad_rows_are_left_out_where_asked(mrpc, tmp_path):
    """QQP as distributed has some that end early; they are listed."""
    lines = (mrpc / "train.tsv").read_text(encoding="utf-8").splitlines()
    (mrpc / "train.tsv").write_text("\n".join([*lines[:5], "1\t2\t3\tfirst", *lines[5:]]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.tsv:6: 4 fields; expected 5 as in the header"):
        write_rows(TASKS["mrpc"], str(mrpc), tmp_path / "rows")
    notes = write_rows(TASKS["mrpc"], str(mrpc), tmp_path / "rows", skip_bad_rows=True)
    assert notes == ["30 training rows, 10 validation rows", f"left out {mrpc}/train.tsv:6: 4 fields"]
