"""`predict --adapters`: a row gets what `predict` says with its adapter; whatever is wrong is one line."""

import json
import re
import shutil
import sys

import pytest
import torch
from support.command_line import call
from support.damage import reseal
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lora_scratch.adapter import LoRAConfig, inject, quantize_base
from lora_scratch.commands import predict
from lora_scratch.errors import ConfigError
from lora_scratch.runs import open_base
from lora_scratch.serialization import save_adapter
from lora_scratch.testing import move_adapter

TEXTS = ["i am so happy today", "my brother is furious but i feel calm", "what a day", "happy " * 12 + "am i"]


def save_second(job, place, *, four_bits=False):
    """An adapter of two labels that cuts its rows short."""
    base = open_base(str(job.base), labels=("yes", "no"))
    if four_bits:
        quantize_base(base.model)
    model = inject(base.model, LoRAConfig(rank=2, alpha=3, dropout=0.0))
    move_adapter(model)
    notes = {"labels": ["yes", "no"], "data": {"max_tokens": 8}}
    return save_adapter(model, place / "adapter", base_model=str(job.base), notes=notes)


@pytest.fixture(scope="module")
def second(job, tmp_path_factory):
    """It, saved."""
    return save_second(job, tmp_path_factory.mktemp("second"))


def rows_file(place, *rows):
    """One JSON object a line."""
    path = place / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text, "adapter": adapter}) + "\n" for text, adapter in rows))
    return path


def output(capsys):
    """What was printed, as objects."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_every_row_gets_what_predict_says_with_its_adapter(job, second, tmp_path, capsys, chunk):
    """Labels, scores and order; each adapter cuts at its own length."""
    flags = ["--precision", "fp32"]
    expected = {}
    for name, folder in (("one", job.adapter), ("two", second)):
        assert call(predict, folder, *flags, *TEXTS) == 0
        expected[name] = output(capsys)
    rows = [(text, adapter) for text in TEXTS for adapter in ("two", "one")]
    arguments = ["--adapters", f"one={job.adapter}", f"two={second}", "--file", rows_file(tmp_path, *rows), "--chunk", chunk]
    assert call(predict, *arguments, *flags) == 0
    for (text, adapter), found in zip(rows, output(capsys), strict=True):
        alone = expected[adapter][TEXTS.index(text)]
        assert (found.pop("adapter"), found["text"], found["label"]) == (adapter, alone["text"], alone["label"])
        assert list(found["scores"]) == list(alone["scores"])
        assert list(found["scores"].values()) == pytest.approx(list(alone["scores"].values()), abs=1e-5)
        assert found["score"] == max(found["scores"].values())


def test_adapter_of_a_four_bit_base_is_served_on_one(job, tmp_path, capsys):
    """As predict.py does; next to an adapter of the full base it is refused."""
    quantized = save_second(job, tmp_path, four_bits=True)
    assert call(predict, quantized, "--precision", "fp32", "--plain", TEXTS[0]) == 0
    (alone,) = output(capsys)
    arguments = ["--file", rows_file(tmp_path, (TEXTS[0], "two")), "--precision", "fp32", "--adapters", f"two={quantized}"]
    assert call(predict, *arguments) == 0
    (found,) = output(capsys)
    assert found["scores"] == pytest.approx(alone["scores"], abs=1e-5)
    assert call(predict, *arguments, f"one={job.adapter}") == 1
    assert re.search(r"for different bases: .*base \(full\), .*base \(nf4\);", capsys.readouterr().err)


def test_bf16_answers_are_those_of_predict(job, tmp_path, capsys):
    """Weights are rounded once for all batches there; the merged weights of predict.py are rounded otherwise."""
    assert call(predict, job.adapter, "--precision", "bf16", *TEXTS) == 0
    alone = output(capsys)
    rows = rows_file(tmp_path, *((text, "one") for text in TEXTS))
    assert call(predict, "--adapters", f"one={job.adapter}", "--file", rows, "--precision", "bf16") == 0
    for found, expected in zip(output(capsys), alone, strict=True):
        assert found["scores"] == pytest.approx(expected["scores"], abs=3e-2)


def test_base_rows_get_the_base_model_with_its_own_head(job, second, tmp_path, capsys):
    """As transformers alone computes it, with its own labels."""
    rows = rows_file(tmp_path, (TEXTS[0], "base"), (TEXTS[0], "two"))
    assert call(predict, "--adapters", f"two={second}", "--file", rows, "--precision", "fp32") == 0
    found = output(capsys)[0]
    plain, tokenizer = AutoModelForSequenceClassification.from_pretrained(job.base), AutoTokenizer.from_pretrained(job.base)
    batch = tokenizer(TEXTS[0], return_tensors="pt", max_length=8, truncation=True)
    with torch.no_grad():
        scores = plain.eval()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(-1)[0]
    assert list(found["scores"]) == ["negative", "positive"]
    assert list(found["scores"].values()) == pytest.approx(scores.tolist(), abs=1e-5)


def test_rows_come_from_standard_input(second, monkeypatch, capsys, tmp_path):
    """`-`, blank lines left out."""
    path = rows_file(tmp_path, (TEXTS[0], "two"))
    path.write_text("\n" + path.read_text(encoding="utf-8") + "\n")
    with open(path) as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert call(predict, "--adapters", f"two={second}", "--file", "-") == 0
    assert [row["text"] for row in output(capsys)] == TEXTS[:1]


def test_rows_go_to_a_new_file_that_is_whole_or_absent(second, tmp_path, capsys):
    """`--output`, as for one adapter."""
    rows, place = rows_file(tmp_path, (TEXTS[0], "two"), ("", "two")), tmp_path / "out.jsonl"
    arguments = ["--adapters", f"two={second}", "--file", rows, "--output", place]
    assert call(predict, *arguments) == 1
    assert not place.exists()
    rows_file(tmp_path, (TEXTS[0], "two"))
    assert call(predict, *arguments) == 0
    assert json.loads(place.read_text(encoding="utf-8"))["text"] == TEXTS[0]
    assert capsys.readouterr().out == ""


def test_several_processes_are_refused(second, monkeypatch):
    """Every one of them would answer every row; with one adapter they share the rows."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["predict.py", "--adapters", f"two={second}", "--file", "rows.jsonl"])
    with pytest.raises(ConfigError, match="predict --adapters: started as 2 processes; expected one"):
        predict.main()


BAD_ROWS = [
    ('{"text": "a", "adapter": "too"}', r"rows.jsonl:2: no adapter 'too'; expected one of two, base"),
    ('{"text": "a"}', r"rows.jsonl:2: found 'text'; expected \{\"text\": ..., \"adapter\": ...\} on one line"),
    ('{"text": "a", "adapter": 1}', r"no adapter 1"),
    ('{"text": "a", "adapter": ["two"]}', r"no adapter \['two'\]"),
    ('{"text": " ", "adapter": "two"}', r"rows.jsonl:2: the text is empty"),
    ('{"text": null, "adapter": "two"}', r"the row has no text"),
    ("[1]", r"found JSON of type list"),
    ("{", r"malformed JSON"),
]


@pytest.mark.parametrize(("line", "message"), BAD_ROWS)
def test_bad_row_is_one_line_that_names_it(second, tmp_path, capsys, line, message):
    """And exit code 1."""
    path = rows_file(tmp_path, ("good", "two"))
    path.write_text(path.read_text(encoding="utf-8") + line + "\n")
    assert call(predict, "--adapters", f"two={second}", "--file", path) == 1
    assert re.search(message, capsys.readouterr().err)


def test_stray_byte_is_the_fault_of_its_row(second, tmp_path, capsys):
    """Which is named."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "caf\xe9", "adapter": "two"}\n')
    assert call(predict, "--adapters", f"two={second}", "--file", path) == 1
    assert "rows.jsonl:1: the text is not UTF-8: byte 0xe9 at character 4" in capsys.readouterr().err


TABLES = "classify a table with one adapter after the other: predict FOLDER --file TABLE --output TABLE"


def test_rows_of_windows_are_read(second, tmp_path, capsys):
    """UTF-16 with its mark, as tables and texts."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps({"text": "café ☕", "adapter": "two"}, ensure_ascii=False).encode("utf-16"))
    assert call(predict, "--adapters", f"two={second}", "--file", path) == 0
    assert [row["text"] for row in output(capsys)] == ["café ☕"]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--adapters", "two"], 2, "found 'two', expected NAME=FOLDER"),
        (["--adapters", "base=FOLDER"], 2, "every name once, and not 'base'"),
        (["--adapters", "a=FOLDER", "a=FOLDER"], 2, "every name once"),
        (["--adapters", "a=FOLDER", "--chunk", "0"], 2, "--chunk: found 0"),
        (["--adapters", "a=FOLDER", "--plain"], 2, "--plain does not go with --adapters"),
        (["FOLDER", "--adapters", "a=FOLDER"], 2, "--adapters goes with --file FILE"),
        (["--adapters", "a=absent"], 1, "absent: no such folder"),
        (["--adapters", "a=UNSAID"], 1, "unsaid: provenance.json does not name the labels, the base model and the length"),
        (["--adapters", "a=UNSAID"], 1, r"classify with this adapter alone: predict \S*/unsaid --labels NAME"),
        (["--adapters", "a=FOLDER", "--file", "in.csv"], 1, f"--file in.csv: a table; expected one JSON .*{TABLES}"),
        (["--adapters", "a=FOLDER", "--output", "out.parquet"], 1, f"writes JSON lines; expected .jsonl; {TABLES}"),
        (["--adapters", "a=FOLDER", "--file", "absent"], 1, "absent: no such file"),
        (["--adapters", "a=FOLDER", "b=MOVED"], 1, "the adapters are for different bases: .*; name one that fits all"),
    ],
)
def test_bad_flag_is_one_line(second, tmp_path, capsys, flags, code, message):
    """2 for wrong usage, 1 for work that failed."""
    moved = shutil.copytree(second, tmp_path / "moved")
    notes = json.loads((moved / "provenance.json").read_text(encoding="utf-8"))
    notes["base"]["name"] = "elsewhere"
    (moved / "provenance.json").write_text(json.dumps(notes))
    reseal(moved)
    reseal(shutil.copytree(second, tmp_path / "unsaid"), data={})
    arguments = ["--file", rows_file(tmp_path, ("a", "a")), *flags]
    arguments = [
        str(each).replace("FOLDER", str(second)).replace("MOVED", str(moved)).replace("UNSAID", f"{tmp_path}/unsaid")
        for each in arguments
    ]
    assert call(predict, *arguments) == code
    captured = capsys.readouterr().err
    assert re.search(message, captured)
    assert "Traceback" not in captured


def test_base_without_a_head_takes_no_rows(second, job, tmp_path, capsys):
    """Its answers would be noise."""
    bare = tmp_path / "bare"
    shutil.copytree(job.base, bare)
    model = AutoModelForSequenceClassification.from_pretrained(bare).distilbert
    shutil.rmtree(bare)
    model.save_pretrained(bare)
    AutoTokenizer.from_pretrained(job.base).save_pretrained(bare)
    rows = rows_file(tmp_path, ("a", "two"), ("a", "base"))
    assert call(predict, "--adapters", f"two={second}", "--file", rows, "--model", bare) == 1
    assert "error: a row for 'base'" in capsys.readouterr().err


def test_a_key_twice_in_a_row_is_an_error(job, tmp_path, capsys):
    """The last one would win without a word."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "i am happy", "text": "i am sad", "adapter": "mood"}\n', encoding="utf-8")
    assert call(predict, "--adapters", f"mood={job.adapter}", "--file", rows) == 1
    assert "rows.jsonl:1: malformed JSON ('text' is there twice)" in capsys.readouterr().err


def test_label_names_for_many_adapters_are_refused(job, capsys):
    """They would be ignored."""
    assert call(predict, "--adapters", f"mood={job.adapter}", "--file", "-", "--labels", "x", "y") == 2
    assert "--labels does not go with --adapters" in capsys.readouterr().err
