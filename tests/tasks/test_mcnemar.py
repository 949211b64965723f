from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_scratch.errors import DataError
from lora_scratch.tasks import McNemar, mcnemar


def outcomes(fixed: int, broken: int, both_right: int = 0, both_wrong: int = 0):
    """Right or wrong before and after, with these numbers of rows of each kind."""
    before = [False] * fixed + [True] * broken + [True] * both_right + [False] * both_wrong
    after = [True] * fixed + [False] * broken + [True] * both_right + [False] * both_wrong
    return torch.tensor(before, dtype=torch.bool), torch.tensor(after, dtype=torch.bool)


@pytest.mark.parametrize(("fixed", "broken", "p"), [(10, 20, 0.0987), (1, 9, 0.0215), (5, 5, 1.0), (0, 0, 1.0)])
def test_mcnemar_gives_the_golden_values(fixed, broken, p):
    """Four decimals of the exact test, computed elsewhere."""
    found = mcnemar(*outcomes(fixed, broken, both_right=3, both_wrong=4))
    assert (found.fixed, found.broken) == (fixed, broken)
    assert found.p_value == pytest.approx(p, abs=5e-5)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_equals_the_binomial_sum(fixed, broken):
    """p = 2 · Σ_{i <= min} C(n, i) / 2ⁿ, at most 1."""
    n = fixed + broken
    p = min(1.0, 2 * sum(comb(n, i) for i in range(min(fixed, broken) + 1)) / 2**n)
    assert mcnemar(*outcomes(fixed, broken)).p_value == pytest.approx(p, rel=1e-9)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_does_not_depend_on_rows_that_agree(fixed, broken, both_right, both_wrong):
    """Concordant rows say nothing about the difference."""
    assert mcnemar(*outcomes(fixed, broken, both_right, both_wrong)) == mcnemar(*outcomes(fixed, broken))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_equals_statsmodels(fixed, broken, both_right, both_wrong):
    """Its exact test on the whole table of two by two, rows that agree among them."""
    tables = pytest.importorskip("statsmodels.stats.contingency_tables", reason="statsmodels is in the extra `test`")
    expected = tables.mcnemar([[both_right, broken], [fixed, both_wrong]], exact=True).pvalue
    assert mcnemar(*outcomes(fixed, broken, both_right, both_wrong)).p_value == pytest.approx(float(expected), rel=1e-9)


def test_mcnemar_of_eight_against_two_is_the_one_worked_by_hand():
    """Ten coins, at most two tails, twice: 2 · (1 + 10 + 45) / 1024 = 0.109375."""
    assert mcnemar(*outcomes(8, 2)).p_value == pytest.approx(0.109375, rel=1e-12)


def test_mcnemar_swapped_swaps_fixed_and_broken():
    """The test is two-sided: which model came first does not change p."""
    before, after = outcomes(3, 11)
    one, other = mcnemar(before, after), mcnemar(after, before)
    assert other == McNemar(one.broken, one.fixed, one.p_value)


@pytest.mark.parametrize("after", [torch.tensor([True]), torch.tensor([1, 0]), torch.tensor([[True, False]])])
def test_mcnemar_refuses_what_is_not_the_same_rows_twice(after):
    """Another length would be broadcast, and integers would be compared bit by bit."""
    with pytest.raises(DataError, match=r"McNemar: .*expected right or wrong for the same rows twice"):
        mcnemar(torch.tensor([True, False]), after)
