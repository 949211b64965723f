"""scripts/benchmarks/bank.py: every contender answers alike, so that only their speed differs."""

import pytest
from support.command_line import call

from lora_scratch.commands.benchmarks import bank as benchmark_bank
from lora_scratch.commands.benchmarks.machine import cpu_kind


def test_contenders_answer_alike(job, capsys):
    """One small round; PEFT's mixed batch is one of them."""
    sizes = ["--adapters", 3, "--rank", 2, "--batch_size", 5, "--tokens", 6, "--rounds", 1]
    assert call(benchmark_bank, "--model", job.base, *sizes, "--precision", "fp32") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 adapters, 5 rows of 6 tokens, fp32"
    assert lines[2] == f"| {cpu_kind()} | rows/s | from the loop |"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert [name for name, _, _ in rows] == ["bank", "loop", "loop, merged", "peft", "base"]
    assert all(float(error) < 1e-5 for _, _, error in rows[:4])
    assert all(float(speed.replace(",", "")) > 0 for _, speed, _ in rows)


@pytest.mark.parametrize("flag", ["--adapters", "--batch_size", "--tokens", "--rounds"])
def test_sizes_below_one_are_wrong_usage(capsys, flag):
    """Exit code 2."""
    assert call(benchmark_bank, flag, 0) == 2
    assert f"{flag}: found 0, expected at least 1" in capsys.readouterr().err
