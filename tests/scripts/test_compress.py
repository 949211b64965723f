"""scripts/compress.py: the table, the choice, and a folder that is an ordinary adapter."""

import json
import re
import shutil
from dataclasses import replace

import peft
import pytest
import torch
from support.command_line import call
from transformers import AutoModelForSequenceClassification

from lora_scratch.adapter import adapter_layers
from lora_scratch.commands import compress, evaluate, inspect_adapter
from lora_scratch.runs import open_adapter
from lora_scratch.serialization import read_provenance
from lora_scratch.testing import relative_error


def ranks(model):
    return {name: layer.rank for name, layer in adapter_layers(model).items()}


@pytest.fixture
def failing_below(monkeypatch):
    """Models with fewer directions than this, over all modules, are wrong about every row; the others are right."""

    def set_up(count):
        def answers(predictor, encoded, **options):
            right = sum(ranks(predictor.model).values()) >= count
            return torch.nn.functional.one_hot(encoded.labels if right else (encoded.labels + 1) % 6, 6).float()

        monkeypatch.setattr(compress.Predictor, "logits", answers)

    return set_up


def test_the_folder_holds_what_the_table_says(job, tmp_path, capsys):
    """Ranks, numbers, bytes and the accuracy on the test rows, for our scripts and for PEFT."""
    folder, whole = tmp_path / "small", open_adapter(job.adapter)
    arguments = ["--output", folder, "--energies", 0.8, 1, 0.6, "--json", tmp_path / "found.json", "--precision", "fp32"]
    assert call(compress, job.adapter, *arguments) == 0
    printed, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    chosen, model = found["chosen"], open_adapter(folder).base.model
    assert [each["energy"] for each in found["candidates"]] == [1, 0.8, 0.6]
    assert all(each["kept"] >= each["energy"] - 1e-12 for each in found["candidates"])
    assert {name: rank for name, rank in chosen["ranks"].items() if rank} == ranks(model)
    assert found["ranks"] == ranks(whole.base.model)
    for size, place, count in ((chosen["size"], folder, ranks(model)), (found["size"], job.adapter, found["ranks"])):
        assert size["file_bytes"] == (place / "adapter_model.safetensors").stat().st_size
        assert size["parameters"] == sum(64 * rank for rank in count.values())  # every layer is 32 wide
    assert call(evaluate, folder, "--precision", "fp32", "--json", tmp_path / "report.json") == 0
    assert (
        json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["adapted"]["accuracy"] == found["tested"]["score"]
    )
    assert re.search(
        rf"^\| {chosen['kept']:.2%} \(chosen\) \| \d \| .* \| {chosen['size']['file_bytes']:,} \|", printed, re.M
    )
    assert f"({found['size']['parameters']:,} -> {chosen['size']['parameters']:,})" in printed
    assert call(inspect_adapter, folder, "--verify", "--model", job.base) == 0
    base = AutoModelForSequenceClassification.from_pretrained(job.base, num_labels=6, ignore_mismatched_sizes=True)
    theirs, ids = peft.PeftModel.from_pretrained(base, folder).eval(), torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        assert relative_error(theirs(ids).logits, model(ids).logits.double()) < 1e-5


def test_provenance_says_of_what_and_how_it_was_chosen(job, tmp_path):
    """The adapter it comes from by its hash, every candidate, and the labels and rows that go on to hold."""
    assert call(compress, job.adapter, "--output", tmp_path / "small", "--json", tmp_path / "found.json") == 0
    notes, before = (read_provenance(place).as_json() for place in (tmp_path / "small", job.adapter))
    told = notes["compressed"]
    assert told.pop("from") == {
        "folder": str(job.adapter),
        "adapter_sha256": before["adapter_sha256"],
        "validation": before["validation"],
    }
    assert told == json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert all(notes[name] == before[name] for name in ("labels", "data", "training", "seed"))
    assert "times fewer numbers in A and B" in (tmp_path / "small" / "README.md").read_text(encoding="utf-8")


def test_the_first_candidate_that_is_worse_ends_the_search(job, tmp_path, failing_below, capsys):
    """The one before it is chosen, and none after it is tried: 24 rows broken are p = 1.2e-7."""
    assert call(compress, job.adapter, "--output", tmp_path / "all", "--json", tmp_path / "all.json") == 0
    counts = [
        sum(each["ranks"].values()) for each in json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["candidates"]
    ]
    assert counts == sorted(set(counts), reverse=True)
    failing_below(counts[2])
    assert call(compress, job.adapter, "--output", tmp_path / "small", "--json", tmp_path / "small.json") == 0
    found = json.loads((tmp_path / "small.json").read_text(encoding="utf-8"))
    assert [each["validation"]["word"] for each in found["candidates"]] == ["not shown"] * 3 + ["worse"]
    assert found["candidates"][3]["validation"] == {
        "score": 0,
        "direction": -1.0,
        "change": -1,
        "fixed": 0,
        "broken": 24,
        "p_value": pytest.approx(2 / 2**24),
        "word": "worse",
    }
    assert found["chosen"] == found["candidates"][2]
    assert sum(ranks(open_adapter(tmp_path / "small").base.model).values()) == counts[2]
    assert "| 1.2e-07 | worse |" in capsys.readouterr().out


def test_nothing_is_written_if_the_first_candidate_is_worse(job, tmp_path, failing_below, capsys):
    """There is no choice then."""
    failing_below(24)
    assert call(compress, job.adapter, "--output", tmp_path / "small", "--energies", 0.5) == 1
    errors = capsys.readouterr().err.splitlines()
    assert re.search(r"^error: --energies: holding [\d.]+% of the update is already significantly worse", errors[-1])
    assert not (tmp_path / "small").exists()


def test_what_the_test_rows_show_to_be_worse_is_not_written(job, tmp_path, monkeypatch, capsys):
    """The table is printed all the same; what the validation rows did not show, they may have been too few for."""
    real = compress.compress

    def worse(*arguments, **options):
        found = real(*arguments, **options)
        return replace(found, tested=replace(found.tested, word="worse"))

    monkeypatch.setattr(compress, "compress", worse)
    assert call(compress, job.adapter, "--output", tmp_path / "small", "--energies", 1, "--json", tmp_path / "f.json") == 1
    assert json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["tested"]["word"] == "worse"
    told = capsys.readouterr()
    assert "(chosen)" in told.out
    assert "significantly worse on the test rows; nothing is written" in told.err
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--energies", "0"], 2, "--energies: found 0; expected above 0 and at most 1"),
        (["--energies", "nan"], 2, "--energies: found nan"),
        (["--output", "ADAPTER"], 1, "holds files already"),
        (["--limit_eval", "0"], 1, "--limit_eval: found 0; expected at least 1"),
        (["--precision", "int3"], 1, "unknown precision 'int3'"),
        (["--json", "."], 1, "--json .*is no regular file"),
    ],
)
def test_what_can_not_be_done_is_one_line_and_writes_nothing(job, tmp_path, capsys, arguments, code, message):
    """Wrong usage is 2, anything else 1."""
    adapter = shutil.copytree(job.adapter, tmp_path / "ADAPTER")
    arguments = [str(adapter) if each == "ADAPTER" else each for each in arguments]
    before = sorted(tmp_path.rglob("*"))
    assert call(compress, adapter, "--output", tmp_path / "small", *arguments) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert sorted(tmp_path.rglob("*")) == before
