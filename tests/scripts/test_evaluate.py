"""scripts/evaluate.py as a gate: the verdict as an exit code, and what the report says of the rows."""

import json
from dataclasses import replace
from html import unescape

import pytest
import torch
from support.command_line import call
from support.folders import save_base

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.commands import evaluate
from lora_scratch.runs import open_base
from lora_scratch.serialization import save_adapter


@pytest.mark.parametrize(("requirement", "words"), [("better", ("better",)), ("not_worse", ("better", "not shown"))])
def test_require_is_an_exit_code(job, tmp_path, capsys, requirement, words):
    """0 if the verdict meets it, else 1 with one line; the report is written either way."""
    place = tmp_path / "report.json"
    code = call(evaluate, job.adapter, "--json", place, "--require", requirement, "--temperature")
    report = json.loads(place.read_text(encoding="utf-8"))
    assert code == (0 if report["verdict"]["word"] in words else 1)
    captured = capsys.readouterr()
    assert captured.out.startswith(report["verdict"]["sentence"][:60])
    assert ("error: --require: the verdict is" in captured.err) == bool(code)
    assert report["calibration"]["tempered"]["temperature"] > 0
    assert sum(each["n"] for each in report["lengths"]) == report["adapted"]["n"]
    assert len(report["changed"]["fixed"]) == report["test"]["fixed"]
    assert all(row["text"] for row in report["changed"]["fixed"])


def test_evaluate_draws_its_report(job, tmp_path):
    """The verdict, the pictures that need no training, and the fixed rows' texts."""
    place, page = tmp_path / "report.json", tmp_path / "report.html"
    assert call(evaluate, job.adapter, "--json", place, "--html", page, "--temperature") == 0
    report, html = json.loads(place.read_text(encoding="utf-8")), unescape(page.read_text(encoding="utf-8"))
    assert all(row["text"] in html for row in report["changed"]["fixed"][:50])
    assert html.count('role="img"') == 2  # confusion and reliability
    assert "<title>One of 6 labels for each text: base on " in html
    assert "after, tempered" in html


@pytest.mark.parametrize("when", ["met", "not met"])
def test_require_better_follows_the_verdict(job, monkeypatch, when):
    """The twin of the above where the tiny job's own verdict would be only one of the two."""
    word = {"met": "better", "not met": "not shown"}[when]
    compare = evaluate.compare

    def judged(*arguments, **options):
        report = compare(*arguments, **options)
        return replace(report, verdict=replace(report.verdict, word=word))

    monkeypatch.setattr(evaluate, "compare", judged)
    assert call(evaluate, job.adapter, "--require", "better") == (when == "not met")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--require", "best"], 2, "argument --require: invalid choice: 'best' (choose from"),
        (["--temperature", "--split", "validation"], 1, "--temperature: the rows are the validation rows"),
    ],
)
def test_evaluate_refuses_flags_before_it_opens_anything(capsys, flags, code, message):
    """Not even the adapter folder is looked for; a requirement that there is not must not look like one that is not met."""
    assert call(evaluate, "no/such/folder", *flags) == code
    assert message in capsys.readouterr().err


def test_an_adapter_that_says_the_commonest_label_to_every_row_is_not_better(tmp_path, capsys):
    """95 rows of one label, 5 of the other. It beats a base that says the other, and reads no text."""
    labels, texts = ("good", "bad"), [f"i feel so {'very ' * (row % 5)}happy today" for row in range(100)]
    base = open_base(str(save_base(tmp_path / "base", labels=("a", "b"))), labels=labels, task="single_label")
    with torch.no_grad():
        untrained = base.model(**base.tokenizer(texts[0], return_tensors="pt")).logits.argmax().item()
    model = inject(base.model, LoRAConfig(rank=2, alpha=3, dropout=0.0))
    model.classifier.bias.data[1 - untrained] = 50.0
    columns = {"text_column": "text", "label_column": "label", "max_tokens": 24}
    notes = {"labels": list(labels), "task": "single_label", "data": columns, "training": {"precision": "fp32", "seed": 0}}
    folder = save_adapter(model, tmp_path / "adapter", base_model=str(tmp_path / "base"), notes=notes)
    rows = [f"{text},{labels[1 - untrained if row < 95 else untrained]}" for row, text in enumerate(texts)]
    (tmp_path / "rare.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    assert call(evaluate, folder, "--dataset", tmp_path / "rare.csv", "--require", "better") == 1
    said = capsys.readouterr()
    assert f"reads no text, always '{labels[1 - untrained]}' (accuracy 0.9500)" in " ".join(said.out.split())
    assert "--require: the verdict is 'not shown'; expected better" in said.err
