"""lora_scratch/jobs/ladder.py: what the table of a comparison says of its runs."""

import pytest

from lora_scratch.jobs.ladder import RUNGS, Climb, summarise


def climb(rung, seed, *, accuracy, seconds=10.0, cpu=20.0):
    report = {
        "baseline": {"accuracy": 0.2},
        "adapted": {"accuracy": accuracy, "macro_f1": accuracy / 2},
        "parameters": {"lora": 221_184},
        "train": {"seconds": seconds, "peak_memory_bytes": 3 * 2**20},
        "rows": ["not for a table"],
    }
    return Climb(rung, seed, report, cpu, 1_500_000)


def test_summarise_gives_mean_and_sample_deviation_of_the_seeds():
    """By hand: 0.90, 0.92, 0.91 have mean 0.91 and sample standard deviation 0.01."""
    table = summarise([climb("lora", seed, accuracy=value) for seed, value in enumerate((0.90, 0.92, 0.91))])
    assert table.rows == [["lora", "3", "0.9100 ± 0.0100", "0.4550 ± 0.0050", "221,184", "1.50 MB", "10 s", "20 s", "3 MiB"]]


def test_summarise_takes_medians_of_what_a_busy_machine_disturbs():
    """One slow run moves a mean, not a median."""
    runs = [climb("lora", seed, accuracy=0.9, seconds=s, cpu=s) for seed, s in enumerate((10.0, 11.0, 500.0))]
    assert summarise(runs).rows[0][6:8] == ["11 s", "11 s"]


def test_summarise_keeps_the_order_of_the_rungs_and_gives_no_spread_of_one_seed():
    """A deviation needs two values."""
    table = summarise([climb("nf4", 0, accuracy=0.8), climb("lora", 0, accuracy=0.9)])
    assert [row[:3] for row in table.rows] == [["nf4", "1", "0.8000"], ["lora", "1", "0.9000"]]


def test_a_climb_leaves_the_rows_of_its_report_behind():
    """comparison.json is to be shared; the data set may not be."""
    assert "rows" not in climb("lora", 0, accuracy=0.9).as_json()


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_says_what_it_is(rung):
    """--help lists them."""
    assert RUNGS[rung].meaning
