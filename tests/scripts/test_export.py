"""scripts/export.py as a gate: what it lets out, what it refuses, and that a refusal leaves nothing behind."""

import json
import re
import shutil

import peft
import pytest
import safetensors.torch
import torch
from support.adapter_loading import transformers_loads_adapters
from support.command_line import call, train_arguments
from support.exports import read_again_here as read_again_here
from support.folders import save_rows
from transformers import AutoModelForSequenceClassification

from lora_scratch.adapter import adapter_layers
from lora_scratch.commands import combine, export, train
from lora_scratch.deploy import reload, run_exported
from lora_scratch.deploy.merge_check import TOLERANCES, merge_check_rows
from lora_scratch.runs import open_adapter
from lora_scratch.serialization import save_adapter
from lora_scratch.testing import relative_error

pytestmark = pytest.mark.usefixtures("read_again_here")
Q0 = "distilbert.transformer.layer.0.attention.q_lin"


def changed(job, folder, change, **notes):
    """The job's adapter after `change(model)`."""
    saved = open_adapter(job.adapter)
    with torch.no_grad():
        change(saved.base.model)
    return save_adapter(saved.base.model, folder, base_model=saved.base.name, notes={**saved.provenance.as_json(), **notes})


def huge(model):
    """A head beyond float16's largest number."""
    model.classifier.weight[0, 0] = 1e5


@torch.no_grad()
def logits_on(model, rows):
    """Of each row by itself, without the project's own loop."""
    cuts = zip(rows.offsets[:-1], rows.offsets[1:], strict=True)
    return torch.cat([model(rows.tokens[start:end].long()[None]).logits for start, end in cuts]).float()


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_record_holds_what_the_exported_model_says(job, tmp_path, capsys, dtype):
    """Largest error over rms, and flips, measured again from the folder; its weights have the dtype asked for."""
    place = tmp_path / "plain"
    assert call(export, "merge", job.adapter, "--output", place, "--dtype", dtype, "--rows", 16) == 0
    told, printed = json.loads((place / "merge.json").read_text(encoding="utf-8")), capsys.readouterr().out
    saved = open_adapter(job.adapter)
    (_, rows), source = merge_check_rows(saved, dataset=None, count=16)
    plain = AutoModelForSequenceClassification.from_pretrained(place).eval()
    assert plain.dtype == getattr(torch, dtype)
    expected, found = logits_on(saved.base.model, rows), logits_on(plain, rows)
    assert told["logits"]["rows"] == len(expected) == 16
    assert told["logits"]["source"] == source == str(job.data)
    loose = 1e-5 if dtype == "float32" else 0.5 * TOLERANCES[dtype]  # batches of other shapes round otherwise
    assert told["logits"]["error"] == pytest.approx(relative_error(found, expected), abs=loose)
    assert told["logits"]["error"] <= told["tolerance"] == TOLERANCES[dtype]
    assert [row["name"] for row in told["layers"]] == list(adapter_layers(saved.base.model))
    first = told["layers"][0]
    assert re.search(rf"^{Q0} .* {first['survived']:.4f} +{first['error']:.2e} +{first['unchanged']:.4f}$", printed, re.M)
    assert f"{dtype}, 16 rows of {job.data}: largest logit error {told['logits']['error']:.1e}" in printed


def test_above_the_tolerance_nothing_is_written(job, tmp_path, capsys):
    """Exit code 1, the table all the same, and a line that says what was found."""
    arguments = ["merge", job.adapter, "--output", tmp_path / "plain", "--dtype", "bfloat16", "--tolerance", 1e-6]
    assert call(export, *arguments) == 1
    captured = capsys.readouterr()
    assert Q0 in captured.out
    assert re.search(
        r"error: merged in bfloat16: a logit is off by \d\.\de-0\d of their rms, and \d+ of 24 rows get other labels; "
        r"expected at most 1\.0e-06; use a wider --dtype",
        captured.err,
    )
    assert list(tmp_path.iterdir()) == []


def test_a_merge_gone_wrong_is_refused_with_the_labels_that_flip(job, tmp_path, capsys, monkeypatch):
    """The twin: a head that is not the trained one does not get through."""
    from lora_scratch.deploy import merge_check as gate

    def wrongly(model):
        model.classifier.weight.data.neg_()
        return merge(model)

    merge = gate.merge_and_remove
    monkeypatch.setattr(gate, "merge_and_remove", wrongly)
    assert call(export, "merge", job.adapter, "--output", tmp_path / "plain") == 1
    flips = re.search(r"and (\d+) of 24 rows get other labels", capsys.readouterr().err)
    assert int(flips[1]) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_a_new_process_reads_otherwise_is_refused(job, tmp_path, capsys, monkeypatch):
    """One line, exit code 1, and nothing is left."""
    monkeypatch.setattr(reload, "in_new_process", lambda request: tampered(run_exported.answer(request)))
    assert call(export, "merge", job.adapter, "--output", tmp_path / "plain", "--no_rows") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert "the written model, read again by a new process: a logit is off by" in lines[0]
    assert list(tmp_path.iterdir()) == []


def tampered(answer):
    """The answer of a process that reads another head."""
    tensors = safetensors.torch.load(answer)
    return safetensors.torch.save({name: t if name == "tokens" else -t for name, t in tensors.items()})


def test_a_weight_that_the_dtype_can_not_hold_is_refused(job, tmp_path, capsys):
    """1e5 is beyond float16, also where no rows are looked at; in bfloat16 it is a number like any other."""
    folder = changed(job, tmp_path / "huge", huge)
    assert call(export, "merge", folder, "--output", tmp_path / "plain", "--dtype", "float16", "--no_rows") == 1
    assert "classifier.weight: it is not finite in float16; use --dtype bfloat16 or float32" in capsys.readouterr().err
    assert not (tmp_path / "plain").exists()
    assert call(export, "merge", folder, "--output", tmp_path / "plain", "--dtype", "bfloat16", "--no_rows") == 0


def test_a_base_in_four_bits_is_merged_only_as_plain_weights_and_its_adapters_add_up(job, tmp_path, capsys):
    """Its own numbers, on which the adapter was trained; a sum belongs to the four-bit base as its terms do."""
    assert call(train, *train_arguments(job.base, job.data, tmp_path / "run"), "--base_precision", "nf4") == 0
    folder = tmp_path / "run" / "adapter"
    assert call(export, "merge", folder, "--output", tmp_path / "plain") == 1
    assert (
        "export merge: the base is quantized to four bits, which hold no update; pass --dequantize"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "plain").exists()
    assert call(export, "merge", folder, "--output", tmp_path / "plain", "--dequantize") == 0
    assert json.loads((tmp_path / "plain" / "merge.json").read_text(encoding="utf-8"))["logits"]["error"] < 1e-4
    assert call(combine, "--add", folder, "--output", tmp_path / "same") == 0
    (_, rows), _ = merge_check_rows(open_adapter(folder), dataset=None, count=4)
    one, same = (logits_on(open_adapter(place).base.model, rows) for place in (folder, tmp_path / "same"))
    assert relative_error(same, one) < 1e-5


@pytest.mark.parametrize("notes", [{}, {"data": {}}, {"data": {"dataset": "NOWHERE"}}, {"data": None}], ids=str)
def test_without_rows_it_is_refused_unless_one_says_so(job, tmp_path, capsys, notes):
    """Rows that are gone, or that the adapter never named: no silent export, and three ways out."""
    data = {"dataset": str(tmp_path / "gone")} if not notes else notes["data"]
    folder = changed(job, tmp_path / "adapter", lambda model: None, data=data)
    assert call(export, "merge", folder, "--output", tmp_path / "plain") == 1
    error = capsys.readouterr().err
    assert "pass --dataset with such rows, or --no_rows to export without comparing logits" in error
    assert not (tmp_path / "plain").exists()
    assert call(export, "merge", folder, "--output", tmp_path / "plain", "--no_rows") == 0
    assert json.loads((tmp_path / "plain" / "merge.json").read_text(encoding="utf-8"))["logits"] is None
    assert "logits not compared (--no_rows)" in capsys.readouterr().out
    if data != {}:
        return
    assert call(export, "merge", folder, "--output", tmp_path / "other", "--dataset", job.data, "--rows", 5) == 0
    assert json.loads((tmp_path / "other" / "merge.json").read_text(encoding="utf-8"))["logits"]["rows"] == 5


def test_other_rows_need_not_know_the_labels(job, tmp_path):
    """Logits are compared, not answers."""
    rows = save_rows(tmp_path / "rows")
    for file in rows.iterdir():
        file.write_text(re.sub(r";\w+", ";unheard-of", file.read_text(encoding="utf-8"), count=1))
    assert call(export, "merge", job.adapter, "--output", tmp_path / "plain", "--dataset", rows, "--rows", 8) == 0
    shutil.rmtree(rows)
    assert json.loads((tmp_path / "plain" / "merge.json").read_text(encoding="utf-8"))["logits"]["source"] == str(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "0"], "--rows: found 0; expected at least 1"),
        (["--tolerance", "nan"], "--tolerance: found nan; expected a finite number from 0"),
        (["--tolerance", "-1"], "--tolerance: found -1.0"),
        (["--no_rows", "--dataset", "x"], "--dataset names rows, and --no_rows takes none"),
        (["--dtype", "float8"], "argument --dtype: invalid choice"),
    ],
)
def test_wrong_usage_is_2(job, tmp_path, capsys, arguments, message):
    """Before anything is opened."""
    assert call(export, "merge", job.adapter, "--output", tmp_path / "plain", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_split_adapter_has_no_head_and_says_the_same_in_peft_in_transformers_and_here(job, tmp_path, capsys):
    """The trained head is the base's, A and B are left: every tensor is the same, logits in three ways of loading."""
    place = tmp_path / "served"
    assert call(export, "split", job.adapter, "--output", place) == 0
    printed = capsys.readouterr().out
    assert "rank                     4: the server's largest rank has to be 4 or more" in printed
    names = safetensors.torch.load_file(place / "adapter" / "adapter_model.safetensors").keys()
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in names)
    saved, split = open_adapter(job.adapter), open_adapter(place / "adapter")
    (_, rows), _ = merge_check_rows(saved, dataset=None, count=16)
    expected = logits_on(saved.base.model, rows)
    tensors = saved.base.model.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in split.base.model.state_dict().items())
    assert relative_error(logits_on(split.base.model, rows), expected.double()) < 1e-5
    base = AutoModelForSequenceClassification.from_pretrained(place / "base").eval()
    theirs = peft.PeftModel.from_pretrained(base, str(place / "adapter")).eval()
    assert relative_error(logits_on(theirs, rows), expected.double()) < 1e-5
    if not transformers_loads_adapters():  # nor what PEFT itself saved
        return
    plain = AutoModelForSequenceClassification.from_pretrained(place / "base").eval()
    plain.load_adapter(str(place / "adapter"))
    assert relative_error(logits_on(plain.eval(), rows), expected.double()) < 1e-5


def test_a_split_is_refused_where_more_than_the_head_was_trained(job, tmp_path, capsys):
    """Trained biases; nothing is written."""
    run = tmp_path / "run"
    assert call(train, *train_arguments(job.base, job.data, run), "--bias", "all", "--epochs", 1) == 0
    capsys.readouterr()
    assert call(export, "split", run / "adapter", "--output", tmp_path / "served") == 1
    assert "trained biases (bias all); expected bias none" in capsys.readouterr().err
    assert not (tmp_path / "served").exists()


def test_a_program_goes_through_the_gate_and_needs_no_model_code(job, tmp_path, capsys):
    """What torch.export.load gives says what the adapter model says; the gate's record lies beside it."""
    place = tmp_path / "program"
    assert call(export, "merge", job.adapter, "--output", place, "--format", "program", "--rows", 16) == 0
    assert "torch.export.load" in capsys.readouterr().out
    assert json.loads((place / "merge.json").read_text(encoding="utf-8"))["logits"]["rows"] == 16
    run = torch.export.load(place / "model.pt2").module()
    saved = open_adapter(job.adapter)
    ids = saved.base.tokenizer(["i feel calm today"], return_tensors="pt")
    with torch.no_grad():
        expected = saved.base.model(**{name: ids[name] for name in ("input_ids", "attention_mask")}).logits
        assert relative_error(run(ids["input_ids"], ids["attention_mask"]), expected) < 1e-4


@pytest.mark.parametrize(
    ("job_name", "flags", "code", "message"),
    [
        ("split", ["--output", "x", "--format", "onnx"], 2, "unrecognized arguments: --format onnx"),
        ("push", ["me/moods", "--output", "x"], 2, "unrecognized arguments: --output x"),
        ("merge", ["--output", "x", "--public"], 2, "unrecognized arguments: --public"),
        ("merge", [], 2, "the following arguments are required: --output"),
        ("fold", ["--output", "x"], 2, "invalid choice: 'fold'"),
        ("merge", ["--output", "x", "--format", "onnx", "--dtype", "float16"], 1, "expected --dtype float32"),
    ],
)
def test_a_flag_of_another_job_or_an_impossible_one_is_refused(
    job, tmp_path, monkeypatch, capsys, job_name, flags, code, message
):
    """Before the work; nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert call(export, job_name, job.adapter, *flags) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
