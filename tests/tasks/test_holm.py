"""lora_scratch/tasks/mcnemar.py, holm: by hand, against the procedure as Holm states it, and against statsmodels."""

import gc
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scratch.tasks import holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def claims(p_values, alpha):
    """Step down: from the smallest p, claim as long as p <= α / (number of those not claimed yet)."""
    claimed = set()
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] * (len(p_values) - place) > alpha:
            break
        claimed.add(i)
    return claimed


def test_holm_by_hand():
    """4 · 0.01, 3 · 0.02, 2 · 0.03 and 1 · 0.04, which may not be below the one before."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(P_VALUES, st.floats(0.001, 0.5))
def test_holm_claims_what_the_step_down_procedure_claims(p_values, alpha):
    """An adjusted p-value of at most α is a claim at level α, and there are no others."""
    assert {i for i, p in enumerate(holm(p_values)) if p <= alpha} == claims(p_values, alpha)


@given(P_VALUES)
def test_holm_equals_statsmodels(p_values):
    """Ties, zeros and ones included."""
    tests = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is in the extra `test`")
    with mock.patch.object(gc, "collect"):  # half a second in each call of it
        theirs = tests.multipletests(p_values, method="holm")[1].tolist()
    assert holm(p_values) == pytest.approx(theirs, rel=1e-12, abs=1e-300)
