"""`predict --file TABLE`: every column kept, the answer beside it, errors in their place, in any form."""

import csv
import datetime
import gc
import json
import subprocess
import sys
from math import log

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import rank_work
from support.command_line import call
from support.ranks import in_processes
from support.saved_adapters import LABELS, save_task_adapter

from lora_scratch.commands import predict
from lora_scratch.runtime.atomic import write_text

FORMS = ("csv", "tsv", "jsonl", "parquet")
BODIES = ["i am so happy", 'she said "no", twice\nand left', "it rains,\tsaid the man", "déjà vu", "so sad"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Of single texts, with a temperature."""
    return save_task_adapter(tmp_path_factory.mktemp("single"), decision={"temperature": 2.5})


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Of several labels, one of them with a comma."""
    thresholds = {"glad, warm": 0.2, "sad": 0.999, "calm": 0.2}
    labels = tuple(thresholds)
    return save_task_adapter(
        tmp_path_factory.mktemp("several"), task="multi_label", labels=labels, decision={"thresholds": thresholds}
    )


@pytest.fixture(scope="module")
def number(tmp_path_factory):
    """Of a number."""
    return save_task_adapter(tmp_path_factory.mktemp("number"), task="regression", labels=("stars",))


def rows(bodies=BODIES):
    return [
        {"id": f"{n:03d}", "body": body, "more": ["1.50", "", " x ", "nan", "é"][n % 5]} for n, body in enumerate(bodies)
    ]


def write(path, table):
    """Write a table of strings as its extension says."""
    kind = path.suffix
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(table), path, compression="none", use_dictionary=False, write_batch_size=32)
    elif kind == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, table[0], delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(table)
    return path


def read(path):
    """Return the rows of a table, read by another reader than the project's."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True))


def predicted(adapter, path, *flags, form="jsonl", code=0):
    """Run the command; return the rows that it wrote."""
    output = path.with_name(f"out.{form}")
    output.unlink(missing_ok=True)
    assert call(predict, adapter, "--file", path, "--output", output, *flags) == code
    return read(output) if code == 0 else output.exists()


def answers_alone(adapter, texts, capsys):
    """Return what the command says of texts on its command line."""
    capsys.readouterr()
    assert call(predict, adapter, *texts) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("source", FORMS)
@pytest.mark.parametrize("form", FORMS)
def test_every_column_is_kept_in_order_with_the_answer_of_the_text_alone(adapter, tmp_path, capsys, source, form):
    """From each form to each; quoted line breaks, quotes, tabs and odd cells come out as they went in."""
    path = write(tmp_path / f"in.{source}", rows())
    alone = answers_alone(adapter, BODIES, capsys)
    found = predicted(adapter, path, form=form)
    assert [{name: row[name] for name in ("id", "body", "more")} for row in found] == rows()
    assert list(found[0])[:5] == ["id", "body", "more", "label", "score"]
    for row, expected in zip(found, alone, strict=True):
        assert row["label"] == expected["label"]
        assert float(row["score"]) == pytest.approx(expected["score"], abs=2e-6)
        assert "error" not in row
    assert ("scores" in found[0]) == (form == "jsonl")


def test_parquet_columns_keep_their_types_and_values(adapter, tmp_path):
    """Nanoseconds, far dates, categories, lists, null and metadata, over several row groups."""
    stamp = pa.array([1_700_000_000_123_456_789 + n for n in range(600)], pa.timestamp("ns", tz="UTC"))
    columns = {
        "body": pa.array([f"row {n}" for n in range(600)], pa.large_string()),
        "when": stamp,
        "far": pa.array([10_000_000 + n for n in range(600)], pa.date32()),  # years that Python has no date for
        "kind": pa.array([["x", "y", None][n % 3] for n in range(600)]).dictionary_encode(),
        "parts": pa.array([[n, None] for n in range(600)], pa.list_(pa.int16())),
        "raw": pa.array([bytes([n % 256]) for n in range(600)]),
        "half": pa.array([float("nan") if n % 2 else 0.1 for n in range(600)], pa.float32()),
    }
    table = pa.table(columns).replace_schema_metadata({"note": "kept"})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=250)
    assert call(predict, adapter, "--file", tmp_path / "in.parquet", "--output", tmp_path / "out.parquet") == 0
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.metadata[b"note"] == b"kept"
    assert found.column_names == [*columns, "label", "score"]
    for name in columns:
        ours, theirs = found[name].combine_chunks(), table[name].combine_chunks()
        assert ours.type == theirs.type
        assert ours.equals(theirs) or name == "half"
    assert str(found["half"].to_pylist()) == str(table["half"].to_pylist())  # NaN is not equal to itself


def test_values_without_a_json_or_text_form_get_the_one_that_help_names(adapter, tmp_path):
    """NaN is null in JSON, which has none; dates are ISO; lists in a text table are JSON."""
    row = {"body": "x", "when": datetime.date(2024, 2, 3), "list": [1, 2], "odd": float("nan"), "yes": True, "none": None}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in.parquet")
    (found,) = predicted(adapter, tmp_path / "in.parquet")
    assert {name: found[name] for name in row} == {**row, "when": "2024-02-03", "odd": None}
    (found,) = predicted(adapter, tmp_path / "in.parquet", form="csv")
    expected = {"when": "2024-02-03", "list": "[1, 2]", "odd": "nan", "yes": "true", "none": ""}
    assert {name: found[name] for name in expected} == expected


def test_json_objects_with_different_keys_fit_any_form(adapter, tmp_path):
    """JSON lines keep each object as it is; a table has the union of the keys, and types that hold all values."""
    objects = [{"body": "a", "n": 1}, {"other": ["x"], "body": "b", "n": 2.5}, {"n": None, "body": "c"}]
    path = tmp_path / "in.jsonl"
    write_text(path, "\n".join(map(json.dumps, objects)))
    for row, given in zip(predicted(adapter, path), objects, strict=True):
        assert [*row] == [*given, "label", "score", "scores"]
        assert given.items() <= row.items()
    assert [row["n"] for row in predicted(adapter, path, form="parquet")] == [1.0, 2.5, None]
    assert [row["other"] for row in predicted(adapter, path, form="csv")] == ["", '["x"]', ""]


def test_unquoted_tab_file_stays_one(adapter, tmp_path, capsys):
    """GLUE's own files: a quote is a character, in and out, and one line says so."""
    path = tmp_path / "in.tsv"
    lines = ["id\tbody\tmore", '1\t"so happy\tx', '2\tshe said "no\ty"', "3\tfine\tz"]
    path.write_text("\r\n".join(lines) + "\r\n")
    assert call(predict, adapter, "--file", path, "--output", tmp_path / "out.tsv") == 0
    assert "without quoting" in capsys.readouterr().err
    assert [line.rsplit("\t", 2)[0] for line in (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()] == lines
    assert [row["body"] for row in predicted(adapter, path, form="csv")] == ['"so happy', 'she said "no', "fine"]


BROKEN = {
    "csv": b'id,body\n1,fine\n2,\n3,a,b\n\n5,caf\xe9\n6,"x\ny"\n7,caf\xc3\xa9\n',
    "jsonl": b'{"id": 1, "body": "fine"}\n{"id": 2, "body": ""}\n{"id": 3\n\n{"id": 5, "body": "caf\xe9"}\n'
    b'{"id": 6, "body": "x\\ny"}\n{"id": 7, "body": "caf\\u00e9"}\n',
}


@pytest.mark.parametrize("source", BROKEN)
@pytest.mark.parametrize("form", FORMS)
def test_errors_stand_in_their_place_with_skip_bad_rows(adapter, tmp_path, capsys, source, form):
    """A row for each record: its columns where it has some, no label, and the error with the line."""
    path = tmp_path / f"in.{source}"
    path.write_bytes(BROKEN[source])
    found = predicted(adapter, path, "--skip_bad_rows", form=form)
    errors = [row.get("error") or "" for row in found]
    assert [bool(error) for error in errors] == [False, True, True, True, True, False, False]
    header = 0 if source == "jsonl" else 1
    assert all(f"{path}:{line + header}: " in error for line, error in enumerate(errors, 1) if error)
    assert [not row["label"] for row in found] == [bool(error) for error in errors]
    assert [str(row.get("id") or "") for row in found] == ["1", "2", "", "", "5", "6", "7"]
    assert "café" in found[6]["body"]
    assert "4 texts could not be classified" in capsys.readouterr().err


@pytest.mark.parametrize("form", FORMS)
def test_a_column_name_that_is_not_utf8_is_one_line(adapter, tmp_path, capsys, form):
    """It can be written to no form; in JSON lines it is the fault of its row."""
    (tmp_path / "in.csv").write_bytes(b"body,caf\xe9\nfine,1\n")
    assert predicted(adapter, tmp_path / "in.csv", "--skip_bad_rows", form=form, code=1) is False
    assert r"in.csv:1: column name 'caf\udce9' is not UTF-8; expected UTF-8; convert" in capsys.readouterr().err
    (tmp_path / "in.jsonl").write_bytes(b'{"body": "fine"}\n{"body": "b", "caf\xe9": 1}\n')
    found = predicted(adapter, tmp_path / "in.jsonl", "--skip_bad_rows", form=form)
    assert [bool(row.get("error")) for row in found] == [False, True]


def test_dates_of_which_python_has_no_object_are_no_texts(adapter, tmp_path, monkeypatch):
    """Each is the fault of its row; a file that is not finished says nothing when it goes away."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"body": pa.array([2**62, 0], pa.timestamp("us"))}), path)
    output = tmp_path / "whole.parquet"
    assert call(predict, adapter, "--file", path, "--output", output, "--skip_bad_rows") == 0
    far, near = pq.read_table(output)["error"].to_pylist()
    assert "in.parquet:1: the text can't be read (" in far
    assert near.endswith("in.parquet:2: the text is of type datetime")
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    assert predicted(adapter, path, form="parquet", code=1) is False
    gc.collect()
    assert lost == []


@pytest.mark.parametrize("source", BROKEN)
def test_first_bad_row_ends_the_command_and_no_file_is_written(adapter, tmp_path, capsys, source):
    """Without --skip_bad_rows; the error names the line."""
    path = tmp_path / f"in.{source}"
    path.write_bytes(BROKEN[source])
    assert predicted(adapter, path, form="csv", code=1) is False
    assert f"error: {path}:{2 if source == 'jsonl' else 3}: the text is empty" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_quote_that_swallows_rows_is_an_error_for_each_of_its_lines(adapter, tmp_path, capsys):
    """Told by the cells of the other rows, numbers or labels; a text with line breaks and commas is none."""
    lines = [
        "id,body",
        *(f"{n},text {n}" for n in range(9)),
        '9,"open',
        "10,inside",
        '11,closed"',
        '12,"two',
        'lines, fine"',
    ]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    assert predicted(adapter, tmp_path / "in.csv", code=1) is False
    assert "a quote makes one row of lines 11 to 13, of which 11, 12, 13 alone look like rows" in capsys.readouterr().err
    found = predicted(adapter, tmp_path / "in.csv", "--skip_bad_rows")
    assert ["error" in row for row in found] == [*[False] * 9, *[True] * 3, False]
    (tmp_path / "in.csv").write_text('body,label\na,good\nb,bad\n"c,bad\nd,good\ne",bad\n')
    assert predicted(adapter, tmp_path / "in.csv", "--prefix", "p_", code=1) is False
    assert "of lines 4 to 6, of which 4, 5, 6 alone" in capsys.readouterr().err
    (tmp_path / "in.csv").write_text('body,label\na,good\nb,bad\n"c\nd, or e\nf",bad\n')
    assert len(predicted(adapter, tmp_path / "in.csv", "--prefix", "p_")) == 3


def test_top_is_columns_of_a_table_and_scores_of_json(adapter, tmp_path, capsys):
    """The highest first; not more than there are labels."""
    path = write(tmp_path / "in.csv", rows())
    alone = answers_alone(adapter, BODIES, capsys)
    columns = predicted(adapter, path, "--top", 2, form="csv")
    objects = predicted(adapter, path, "--top", 2)
    for row, thing, expected in zip(columns, objects, alone, strict=True):
        best = sorted(expected["scores"], key=expected["scores"].get, reverse=True)[:2]
        assert [row["label_1"], row["label_2"]] == best == list(thing["scores"])
        assert row["label_1"] == row["label"]
        assert [float(row["score_1"]), float(row["score_2"])] == pytest.approx(list(thing["scores"].values()), abs=2e-6)
    assert list(columns[0])[3:] == ["label", "score", "label_1", "score_1", "label_2", "score_2"]
    assert "label_4" not in predicted(adapter, path, "--top", 9, form="csv")[0]


def test_calibrated_probabilities_are_those_of_the_stored_temperature(adapter, tmp_path):
    """softmax(logits / T): the labels stay, log-ratios of probabilities shrink by T = 2.5."""
    path = write(tmp_path / "in.csv", rows())
    plain, calibrated = predicted(adapter, path), predicted(adapter, path, "--calibrated")
    for before, after in zip(plain, calibrated, strict=True):
        assert before["label"] == after["label"]
        ratios = [log(row["scores"]["no"] / row["scores"]["yes"]) for row in (before, after)]
        assert ratios[1] == pytest.approx(ratios[0] / 2.5, abs=1e-3)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_abstaining_leaves_the_label_out_and_says_so(adapter, tmp_path, form):
    """Where the score is below the limit, and nowhere else."""
    path = write(tmp_path / "in.csv", rows())
    scores = sorted(row["score"] for row in predicted(adapter, path))
    found = predicted(adapter, path, "--abstain_below", scores[2], form=form)
    below = [float(row["score"]) < scores[2] for row in found]
    assert sum(below) == 2
    assert [row["abstained"] in (True, "true") for row in found] == below
    assert [not row["label"] for row in found] == below


def test_several_labels_are_a_list(several, tmp_path):
    """In a text table as JSON, since a label can hold a comma; none is the empty list."""
    path = write(tmp_path / "in.csv", rows())
    objects = predicted(several, path)
    assert list(objects[0])[3:] == ["labels", "scores"]
    assert {label for row in objects for label in row["labels"]} <= {"glad, warm", "sad", "calm"}
    assert any(row["labels"] for row in objects)
    assert [json.loads(row["labels"]) for row in predicted(several, path, form="csv")] == [row["labels"] for row in objects]
    assert [row["labels"] for row in predicted(several, path, form="parquet")] == [row["labels"] for row in objects]


def test_number_is_the_score_alone(number, tmp_path):
    """A regression adds one column."""
    path = write(tmp_path / "in.csv", rows())
    assert list(predicted(number, path, form="csv")[0])[3:] == ["score"]
    assert list(predicted(number, path)[0])[3:] == ["score"]
    (tmp_path / "in.csv").write_text("body\nfine\n\nok\n")
    assert [row["score"] for row in predicted(number, tmp_path / "in.csv", "--skip_bad_rows")][1] is None


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("number", ["--top", 2], "error: --top: a regression adapter has no list of scores; leave it out"),
        ("number", ["--calibrated"], "error: --calibrated: no temperature is stored for this regression adapter"),
        ("number", ["--abstain_below", 0.5], "error: --abstain_below: a regression adapter has no confidence"),
        ("several", ["--abstain_below", 0.5], "error: --abstain_below: a multi label adapter has no confidence"),
        ("several", ["--calibrated"], "error: --calibrated: no temperature is stored for this multi label adapter"),
        ("adapter", ["--top", 0], "error: --top: found 0; expected at least 1"),
        ("adapter", ["--abstain_below", "nan"], "error: --abstain_below: found nan; expected above 0, at most 1"),
        ("adapter", ["--abstain_below", 60], "error: --abstain_below: found 60.0"),
        ("adapter", ["--text_column", "txt"], "no column 'txt' among 'id', 'body', 'more'; name it with --text_column"),
        ("adapter", ["--pair_column", "more"], "found pairs, and the adapter was trained on single texts"),
        ("adapter", ["--prefix", "", "--top", 1], "--prefix: found an empty value"),
    ],
)
def test_choice_that_can_not_be_honoured_is_one_line(request, tmp_path, capsys, task, flags, message):
    """No file is written."""
    path = write(tmp_path / "in.csv", rows())
    code = 2 if "" in flags else 1
    assert predicted(request.getfixturevalue(task), path, *flags, code=code) is False
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("source", FORMS)
@pytest.mark.parametrize("form", FORMS)
def test_column_that_would_be_overwritten_is_refused_and_a_prefix_helps(adapter, tmp_path, capsys, source, form):
    """The labels of the input are worth keeping."""
    path = write(tmp_path / f"in.{source}", [{**row, "label": "no"} for row in rows()])
    assert predicted(adapter, path, form=form, code=1) is False
    error = capsys.readouterr().err
    assert "the input has a column 'label' already, which would be overwritten" in error
    assert "--prefix predicted_ makes predicted_label" in error
    found = predicted(adapter, path, "--prefix", "predicted_", form=form)
    assert {row["label"] for row in found} == {"no"}
    assert all(row["predicted_label"] in LABELS for row in found)


def test_column_name_that_stands_twice_is_refused(adapter, tmp_path, capsys):
    """Only one of them could be kept."""
    (tmp_path / "in.csv").write_text("id,body,x,x\n1,a,b,c\n")
    assert predicted(adapter, tmp_path / "in.csv", code=1) is False
    assert "more than one column 'x' among" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.xlsx", "out", "out.json", "out.csv.gz"])
def test_unknown_form_of_output_is_refused_before_any_work(tmp_path, capsys, name):
    """No adapter is opened."""
    assert call(predict, "nowhere", "--file", "in.csv", "--output", tmp_path / name) == 1
    assert "expected .jsonl or .csv or .tsv or .parquet" in capsys.readouterr().err


def test_column_flags_need_a_table(adapter, capsys):
    """A text of the command line has none."""
    assert call(predict, adapter, "a text", "--text_column", "body") == 2
    assert "--text_column goes with --file and a table" in capsys.readouterr().err


def test_texts_go_to_a_table_too(adapter, tmp_path):
    """The lines of a file, as column `text`."""
    (tmp_path / "in.txt").write_text("so happy\nso sad\n")
    assert [list(row) for row in predicted(adapter, tmp_path / "in.txt", form="csv")] == [["text", "label", "score"]] * 2


def test_plain_path_gives_the_same_table(adapter, tmp_path):
    """Padded and packed: labels are the same, scores to rounding."""
    path = write(tmp_path / "in.csv", rows())
    for packed, padded in zip(predicted(adapter, path), predicted(adapter, path, "--plain"), strict=True):
        assert packed["label"] == padded["label"]
        assert packed["score"] == pytest.approx(padded["score"], abs=1e-5)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_two_processes_write_the_table_of_one(adapter, tmp_path, form):
    """Also with errors in their places; the second process does not see the file."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    write(here / "in.csv", rows([*BODIES, "", *(f"row {n}" for n in range(90))]))
    arguments = [adapter, "--skip_bad_rows", "--top", 2, "--file"]
    assert call(predict, *arguments, here / "in.csv", "--output", tmp_path / f"one.{form}") == 0
    told = in_processes(
        rank_work.script, "predict", *arguments, "in.csv", "--output", f"two.{form}", places=[here, elsewhere]
    )
    assert [code for code, _, _ in told] == [0, 0], told
    one, two = read(tmp_path / f"one.{form}"), read(here / f"two.{form}")
    for row in one:
        row["error"] = row["error"] and row["error"].replace(f"{here}/", "")
    assert two == one
    assert list(elsewhere.iterdir()) == []
    assert told[1][1:] == ("", "")


MEMORY = """
import sys
from itertools import islice
from pathlib import Path
from lora_scratch.data.record_files import open_records
from lora_scratch.data.records import TextColumns
from lora_scratch.deploy.answers import AnswerFormat
from lora_scratch.deploy.classify import Classified, classify_chunks
from lora_scratch.deploy.output_tables import open_output
from lora_scratch.runtime.memory import peak_bytes
from lora_scratch.tasks import make_task

def classify(texts):
    texts = iter(texts)
    while window := list(islice(texts, 100)):
        yield from (Classified(text, {"label": "no", "score": 0.5}) for text in window)

folder, form, answers, peaks = Path(sys.argv[1]), sys.argv[2], AnswerFormat(make_task("single_label", ("no", "yes"))), []
for size in ("small", "large"):
    table = open_records(folder / f"{size}.{form}", TextColumns("body"))
    with open_output(str(folder / f"{size}_out.{form}"), table, answers) as output:
        for chunk, results in classify_chunks(classify, table, skip_bad_rows=False):
            output.write(chunk, results)
    peaks.append(peak_bytes())
print(*peaks)
"""


@pytest.mark.parametrize(("form", "counts"), [("csv", (300, 1_200)), ("parquet", (1_200, 3_600))])
def test_memory_stays_flat_as_the_table_grows(tmp_path, form, counts):
    """Rows of 27 kB, several times as many as before: peak memory of the process within 5 %.

    The classifier is a stand-in: tests/deploy/test_classify.py has the real one's memory.
    """
    for size, count in zip(("small", "large"), counts, strict=True):
        write(tmp_path / f"{size}.{form}", [{"body": f"row {n % 10}", "other": f"{n:09d}" * 3000} for n in range(count)])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), form], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after <= 1.05 * before
    assert len(read(tmp_path / f"large_out.{form}")) == counts[1]


@pytest.mark.parametrize(
    ("line", "is_told"), [(f"i am happy;{LABELS[0]}", True), ("i am happy; joyful", False), ("i am", False)]
)
def test_a_text_that_ends_in_a_label_is_told_to_be_text(adapter, tmp_path, capsys, line, is_told):
    """As the rows of a training's .txt do: there it is the label, here it is read as text."""
    (tmp_path / "rows.txt").write_text(f"{line}\nfine\n", encoding="utf-8")
    assert call(predict, adapter, "--file", tmp_path / "rows.txt", "--output", tmp_path / "out.jsonl") == 0
    assert ("which is read as text and not as its label" in capsys.readouterr().err) is is_told
