"""scripts/memory.py: the ledger of base, LoRA and full fine-tuning as a table."""

import json

import memory
from command_line import call


def test_memory_prints_the_ledger_of_three_ways_predicted_and_measured(job, tmp_path, capsys):
    """A row for each kind of tensor, a column for each way; the bytes as JSON."""
    small = ["--rows", 4, "--tokens", 16, "--rank", 4, "--alpha", 8, "--dropout", 0.1]
    assert call(memory, "--model", job.base, *small, "--json", tmp_path / "ledger.json") == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    ways = [f"{name}, {how}" for name in ("base", "LoRA", "full", "LoRA fast") for how in ("predicted", "measured")]
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["MiB", *ways]
    kinds = ["weights", "adapter", "gradients", "optimizer", "activations", "copies", "total"]
    assert [row.split("|")[1].strip() for row in rows] == kinds
    found = json.loads((tmp_path / "ledger.json").read_text(encoding="utf-8"))
    assert found["base, measured"]["activations"] == found["base, measured"]["optimizer"] == 0
    assert found["LoRA, measured"]["adapter"] == found["LoRA, predicted"]["adapter"] > 0
    assert found["LoRA, measured"]["optimizer"] < 0.5 * found["full, measured"]["optimizer"]


def test_memory_refuses_a_batch_without_tokens(job, capsys):
    """One line, before a model is loaded."""
    assert call(memory, "--model", job.base, "--tokens", 0) == 1
    assert "--tokens: found 0; expected at least 1" in capsys.readouterr().err
