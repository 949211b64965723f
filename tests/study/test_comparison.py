"""lora_scratch/study/comparison.py: the tables of a comparison and its paired tests, against cases worked by hand."""

import pytest
import torch
from scipy.stats import binomtest

from lora_scratch.errors import ConfigError, DataError
from lora_scratch.study.comparison import curve_table, paired_table, paired_tests, summarize
from lora_scratch.study.methods import Run, RunResult
from lora_scratch.tasks import SINGLE_LABEL, make_task

ROWS = 100
LABELS = torch.arange(ROWS) % 2
TASK = make_task(SINGLE_LABEL, ("no", "yes"))


def result(method, seed, *, right, rows=None, seconds=10.0, cpu=20.0, memory=3 * 2**20, size=1_500_000, labels=LABELS):
    """A run that has the rows of `right`, and no others, right."""
    answers = torch.where(torch.isin(torch.arange(ROWS), torch.tensor(list(right))), labels, 1 - labels)
    logits = torch.eye(2)[answers]
    costs = (221_184, size, seconds, cpu, memory)
    return RunResult(Run(method, seed, rows), TASK, TASK.measure(logits, labels), logits, labels, *costs)


def test_summarise_gives_mean_and_sample_deviation_of_the_seeds():
    """By hand: 0.90, 0.92, 0.91 have mean 0.91 and sample standard deviation 0.01."""
    row = summarize([result("lora", seed, right=range(count)) for seed, count in enumerate((90, 92, 91))]).rows[0]
    assert row[:3] == ["lora", "3", "0.9100 ± 0.0100"]
    assert row[4:] == ["221,184", "1.50 MB", "10 s", "20 s", "3 MiB"]


def test_summarise_takes_medians_of_what_a_busy_machine_disturbs():
    """One slow run moves a mean, not a median."""
    runs = [result("lora", seed, right=range(90), seconds=s, cpu=s) for seed, s in enumerate((10.0, 11.0, 500.0))]
    assert summarize(runs).rows[0][6:8] == ["11 s", "11 s"]


def test_summarise_keeps_the_order_of_the_methods_and_says_nothing_where_nothing_was_spent():
    """A deviation needs two values; an untrained head costs nothing."""
    free = result("untrained", 0, right=range(20), seconds=None, cpu=None, memory=None, size=None)
    table = summarize([free, result("lora", 0, right=range(90))])
    assert [row[:3] for row in table.rows] == [["untrained", "1", "0.2000"], ["lora", "1", "0.9000"]]
    assert table.rows[0][5:] == ["-"] * 4


def test_paired_tests_count_the_rows_that_changed_and_correct_for_all_tests():
    """By hand: seed 0 fixes rows 70 to 84 and breaks none; seed 1 fixes 10 and breaks 5. Holm doubles the smaller p."""
    probes = [result("probe", seed, right=range(70)) for seed in (0, 1)]
    loras = [result("lora", 0, right=range(85)), result("lora", 1, right=range(5, 80))]
    first, second = paired_tests([*probes, *loras], "probe")
    assert (first.test.fixed, first.test.broken, second.test.fixed, second.test.broken) == (15, 0, 10, 5)
    smaller, larger = (binomtest(fixed, 15).pvalue for fixed in (15, 10))
    assert (first.p_holm, second.p_holm) == (pytest.approx(2 * smaller), pytest.approx(larger))
    assert (first.test.word, second.test.word) == ("better", "not shown")
    assert first.as_json()["against"] == "probe"
    table = paired_table([first, second])
    assert table.header[1] == "change from probe"
    assert table.rows == [["lora", "+0.1000 ± 0.0707", "15, 0; 10, 5", "1", "1", "0", f"{larger:.2g}"]]


def test_a_difference_that_holm_does_not_bear_out_is_not_shown():
    """Alone p = 0.03; among three tests, none of them smaller, it is 0.09."""
    results = [result("probe", seed, right=range(70)) for seed in range(3)]
    results += [result("lora", 0, right=range(76)), *(result("lora", seed, right=range(70)) for seed in (1, 2))]
    tests = paired_tests(results, "probe")
    assert tests[0].test.p_value < 0.05 < tests[0].p_holm
    assert [test.test.word for test in tests] == ["not shown"] * 3


def test_paired_tests_refuse_what_has_no_partner_or_other_rows():
    """Else a pair would be a comparison of two data sets."""
    with pytest.raises(ConfigError, match="no run with seed 1"):
        paired_tests([result("probe", 0, right=range(70)), result("lora", 1, right=range(70))], "probe")
    with pytest.raises(DataError, match="different rows"):
        paired_tests([result("probe", 0, right=range(70)), result("lora", 0, right=range(70), labels=1 - LABELS)], "probe")


def test_a_curve_pairs_runs_of_one_number_of_rows_and_has_a_row_for_each():
    """Nothing is compared across numbers of rows."""
    right = {("probe", 50): 60, ("probe", 500): 61, ("lora", 50): 40, ("lora", 500): 90}
    results = [result(method, 0, right=range(count), rows=rows) for (method, rows), count in right.items()]
    table = curve_table(results)
    assert table.header == ["rows", "probe", "lora"]
    assert table.rows == [["50", "0.6000", "0.4000"], ["500", "0.6100", "0.9000"]]
    assert [round(test.test.change, 2) for test in paired_tests(results, "probe")] == [-0.2, 0.29]
    assert [row[:2] for row in paired_table(paired_tests(results, "probe")).rows] == [["50", "lora"], ["500", "lora"]]
    assert summarize(results).header[0] == "rows"
