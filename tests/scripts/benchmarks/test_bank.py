"""scripts/benchmarks/bank.py: every contender answers alike, so that only their speed differs."""

import re

import pytest
from lora_scratch.commands.benchmarks import bank as benchmark_bank
from support.command_line import call


def test_contenders_answer_alike(job, capsys):
    """One small round; PEFT's mixed batch is one of them."""
    sizes = ["--adapters", 3, "--rank", 2, "--batch_size", 5, "--tokens", 6, "--rounds", 1]
    assert call(benchmark_bank, "--model", job.base, *sizes, "--precision", "fp32") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 adapters, 5 rows of 6 tokens, fp32"
    assert [line.split("  ")[0] for line in lines[1:]] == ["bank", "loop", "loop, merged", "peft", "base"]
    for line in lines[1:5]:
        assert float(re.search(r"rows/s +(\S+) from the loop", line)[1]) < 1e-5


@pytest.mark.parametrize("flag", ["--adapters", "--batch_size", "--tokens", "--rounds"])
def test_sizes_below_one_are_wrong_usage(capsys, flag):
    """Exit code 2."""
    assert call(benchmark_bank, flag, 0) == 2
    assert f"{flag}: found 0, expected at least 1" in capsys.readouterr().err
