"""lora_scratch/training/schedule.py: the learning rate is a pure function of the step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scratch.training import learning_rate_factor


def factor(step, total=10, warmup=3, schedule="linear"):
    return learning_rate_factor(step, total_steps=total, warmup_steps=warmup, schedule=schedule)


def test_factor_rises_in_equal_steps_to_one_and_falls_to_zero():
    """Ten steps, three of them warm-up, by hand."""
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(10) == 0
    assert factor(5) == pytest.approx(5 / 7)


def test_cosine_is_half_way_down_in_the_middle():
    """(1 + cos π/2) / 2 = 1/2."""
    assert factor(5, total=10, warmup=0, schedule="cosine") == pytest.approx(0.5)
    assert factor(10, total=10, warmup=0, schedule="cosine") == pytest.approx(0, abs=1e-12)


@given(total=st.integers(1, 500), share=st.floats(0, 0.9), schedule=st.sampled_from(["linear", "cosine"]))
def test_factor_stays_above_zero_and_peaks_at_one_for_every_step_of_a_run(total, share, schedule):
    """Every step moves the weights; the peak is the learning rate that was asked for."""
    factors = [factor(step, total, round(share * total), schedule) for step in range(total)]
    assert all(0 < each <= 1 for each in factors)
    if round(share * total) < total:
        assert max(factors) == 1
