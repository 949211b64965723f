"""The whole job, through the scripts: train, evaluate, predict, export, and PEFT on what they wrote."""

import json

import peft
import pytest
import torch
from support.command_line import call, train_arguments
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lora_scratch.commands import evaluate, export, predict, train
from lora_scratch.runs import open_adapter

TEXTS = ["i am so happy today", "my brother is furious but i feel calm"]


def logits_of(model, tokenizer, texts=TEXTS):
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def test_a_run_leaves_what_the_design_promises(job):
    """config.json, metrics.jsonl, adapter/ and report.json, with the keys that DESIGN fixes."""
    report = json.loads((job.run / "report.json").read_text(encoding="utf-8"))
    for model in ("baseline", "adapted"):
        assert report[model].keys() >= {"accuracy", "macro_f1", "loss", "n"}
    assert report["parameters"].keys() >= {"total", "trainable", "lora", "head"}
    assert report["train"].keys() >= {"seconds", "examples", "tokens", "examples_per_second", "peak_memory_bytes"}
    assert report["test"].keys() >= {"fixed", "broken", "p_value"}
    assert {"versions", "command"} <= report.keys()
    names = {file.name for file in job.adapter.iterdir()}
    assert names == {"adapter_model.safetensors", "adapter_config.json", "provenance.json", "README.md"}
    config = json.loads((job.run / "config.json").read_text(encoding="utf-8"))
    assert config["LoRAConfig"]["targets"] == ["q_lin", "k_lin", "v_lin"]
    assert config["data"]["digests"].keys() == {"train", "validation", "test"}
    assert json.loads((job.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])["event"] == "step"
    page = (job.run / "report.html").read_text(encoding="utf-8")
    assert report["verdict"]["sentence"].split(":")[0] in page
    assert page.count('role="img"') == 7
    assert len(report["anatomy"]) == 6
    assert report["calibration"]["tempered"]["temperature"] > 0  # fitted on the validation rows


def test_the_model_card_holds_the_results_and_the_command(job):
    """A person who finds the folder learns what it is."""
    card = (job.adapter / "README.md").read_text(encoding="utf-8")
    report = json.loads((job.run / "report.json").read_text(encoding="utf-8"))
    assert f"{report['adapted']['accuracy']:.4f}" in card
    assert "train.py" in card
    assert "sadness" in card
    exec(card.split("```python")[1].split("```")[0].replace("path/to/this/folder", str(job.adapter)), loaded := {})  # noqa: S102
    assert loaded["model"].num_labels == 6


def test_evaluate_measures_what_the_run_reported(job, tmp_path, capsys):
    """The saved adapter, loaded again, gives the figures of the run to the last digit, and so does the frozen baseline."""
    assert call(evaluate, job.adapter, "--json", tmp_path / "again.json") == 0  # in the precision of the run
    again, report = (
        json.loads((tmp_path / "again.json").read_text(encoding="utf-8")),
        json.loads((job.run / "report.json").read_text(encoding="utf-8")),
    )
    assert again["adapted"] == pytest.approx(report["adapted"], rel=1e-5)
    assert again["baseline"] == pytest.approx(report["baseline"], rel=1e-5)
    assert "baseline" in capsys.readouterr().out


def test_predict_gives_one_json_object_a_text_in_order(job, capsys):
    """Label and probabilities are those of the adapted model."""
    assert call(predict, job.adapter, "--precision", "fp32", *TEXTS) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    saved = open_adapter(job.adapter)
    expected = logits_of(saved.base.model, saved.base.tokenizer).softmax(-1)
    for row, scores in zip(rows, expected, strict=True):
        assert list(row["scores"]) == list(saved.labels)
        assert list(row["scores"].values()) == pytest.approx(scores.tolist(), abs=1e-5)
        assert row["label"] == saved.labels[int(scores.argmax())]


def test_predict_writes_a_file_of_results_in_the_order_of_the_lines(job, tmp_path, capsys):
    """Lines of uneven length; the results stand in the file that --output names, and nowhere else."""
    texts = [("happy " * (number % 7 + 1)).strip() + f" {number}" for number in range(40)]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    output = tmp_path / "labels.jsonl"
    assert call(predict, job.adapter, "--file", tmp_path / "texts.txt", "--output", output) == 0
    assert [json.loads(line)["text"] for line in output.read_text(encoding="utf-8").splitlines()] == texts
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "classify: 100%" in captured.err


def test_predict_leaves_no_file_when_a_line_is_bad(job, tmp_path):
    """Results are whole or absent: also those of the lines before."""
    (tmp_path / "texts.txt").write_bytes(b"fine\ncaf\xe9\n")
    assert call(predict, job.adapter, "--file", tmp_path / "texts.txt", "--output", tmp_path / "out.jsonl") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predict_and_evaluate_agree_with_their_plain_path(job, tmp_path, capsys, precision):
    """--plain switches the fast path off in both; labels stay, figures are equal to rounding."""
    found = {}
    for name, flags in (("fast", []), ("plain", ["--plain"])):
        arguments = [job.adapter, "--precision", precision, *flags]
        assert call(evaluate, *arguments, "--json", tmp_path / f"{name}.json") == 0
        capsys.readouterr()
        assert call(predict, *arguments, *TEXTS) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        found[name] = [row["score"] for row in rows], json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    tolerance = 1e-5 if precision == "fp32" else 3e-2
    assert found["fast"][0] == pytest.approx(found["plain"][0], abs=tolerance)
    assert found["fast"][1]["adapted"]["loss"] == pytest.approx(found["plain"][1]["adapted"]["loss"], abs=tolerance)


def test_peft_loads_the_adapter_and_gives_our_logits(job):
    """Interchange: PEFT's model is ours to 1e-5."""
    saved = open_adapter(job.adapter)
    base = AutoModelForSequenceClassification.from_pretrained(job.base, num_labels=6, ignore_mismatched_sizes=True)
    theirs = peft.PeftModel.from_pretrained(base, job.adapter).eval()
    ours = logits_of(saved.base.model, saved.base.tokenizer)
    assert torch.allclose(logits_of(theirs, saved.base.tokenizer), ours, atol=1e-5)


def test_export_writes_a_plain_model_with_the_adapters_logits(job, tmp_path, capsys):
    """Transformers alone loads it; logits to 1e-5, label names kept."""
    assert call(export, "merge", job.adapter, "--output", tmp_path / "plain") == 0
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    saved = open_adapter(job.adapter)
    expected = logits_of(saved.base.model, saved.base.tokenizer)
    assert torch.allclose(logits_of(plain, AutoTokenizer.from_pretrained(tmp_path / "plain")), expected, atol=1e-5)
    assert plain.config.id2label == dict(enumerate(saved.labels))
    assert not any("lora" in name for name in plain.state_dict())


def test_every_variant_and_initialisation_goes_through_the_whole_job(job, tmp_path):
    """DoRA, rsLoRA and a data-driven start, each trained, saved and loaded again by evaluate.py with the run's figures."""
    for number, flags in enumerate((["--variant", "dora"], ["--init", "eva", "--rslora", "True"], ["--init", "pissa"])):
        run = tmp_path / str(number)
        assert call(train, *train_arguments(job.base, job.data, run), *flags) == 0
        arguments = [run / "adapter", "--precision", "fp32", "--json", run / "again.json"]
        assert call(evaluate, *arguments) == 0
        again, report = (
            json.loads((run / "again.json").read_text(encoding="utf-8")),
            json.loads((run / "report.json").read_text(encoding="utf-8")),
        )
        assert again["adapted"] == pytest.approx(report["adapted"], rel=1e-5)


def test_a_job_on_a_four_bit_base_is_trained_measured_and_reopened_on_it(job, tmp_path, capsys):
    """The report says what four bits cost, and evaluate.py measures the same adapter on the same base."""
    run = tmp_path / "run"
    assert call(train, *train_arguments(job.base, job.data, run), "--base_precision", "nf4") == 0
    printed = capsys.readouterr().out
    assert "linear layers in 4 bits" in printed
    assert printed.splitlines()[-1] == f"page: {(tmp_path / 'run' / 'report.html').as_uri()}"
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["quantization"]["share_of_float32"] < 0.2  # of layers so small that one constant counts
    assert call(evaluate, run / "adapter", "--json", tmp_path / "again.json") == 0
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    assert again["adapted"] == pytest.approx(report["adapted"], rel=1e-5)
    assert again["baseline"] == pytest.approx(report["baseline"], rel=1e-5)
    assert call(export, "merge", run / "adapter", "--output", tmp_path / "merged") == 1
    assert "the base is quantized" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_an_unknown_base_precision_is_refused(job, tmp_path, capsys):
    """Before anything is loaded."""
    assert call(train, *train_arguments(job.base, job.data, tmp_path / "run"), "--base_precision", "int3") == 1
    assert "--base_precision: found 'int3'; expected full or nf4" in capsys.readouterr().err
