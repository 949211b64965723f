import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from lora_scratch.errors import DataError
from lora_scratch.evaluation import calibration
from lora_scratch.tasks import fit_temperature


def rows(seed, n=200, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, classes, generator=generator), torch.randint(classes, (n,), generator=generator)


def test_calibration_of_four_rows_is_the_one_worked_by_hand():
    """Three rows at 0.8, two of them right, and one at 0.6, right: ECE = 3/4 · |2/3 - 0.8| + 1/4 · |1 - 0.6| = 0.2.

    Brier: a right row at p has 2(1-p)², a wrong one 2p²: (0.08 + 0.08 + 1.28 + 0.32) / 4 = 0.44.
    """
    p = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.6, 0.4]], dtype=torch.float64)
    found = calibration(p.log(), torch.tensor([0, 0, 1, 0]))
    assert found.ece == pytest.approx(0.2)
    assert found.brier == pytest.approx(0.44)
    assert [(b.n, b.confidence, b.accuracy) for b in found.bins] == [
        (1, pytest.approx(0.6), 1.0),
        (3, pytest.approx(0.8), pytest.approx(2 / 3)),
    ]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_calibration_agrees_with_scikit_learn(seed):
    """Brier score and the points of the reliability curve."""
    logits, labels = rows(seed)
    found = calibration(logits, labels)
    p = logits.double().softmax(-1).numpy()
    # scikit-learn before 1.7 knows two classes alone: the sum over classes is the same
    by_class = [brier_score_loss((labels == label).numpy(), p[:, label]) for label in range(4)]
    assert found.brier == pytest.approx(sum(by_class), rel=1e-9)
    right = (logits.argmax(-1) == labels).numpy()
    accuracy, confidence = calibration_curve(right, p.max(-1), n_bins=15)
    assert [each.accuracy for each in found.bins] == pytest.approx(accuracy)
    assert [each.confidence for each in found.bins] == pytest.approx(confidence)
    assert sum(each.n for each in found.bins) == len(labels)
    counts = np.histogram(p.max(-1), bins=15, range=(0, 1))[0]
    assert found.ece == pytest.approx(np.average(abs(accuracy - confidence), weights=counts[counts > 0]))
    assert all(each.low < each.confidence <= each.high for each in found.bins)


def test_calibration_is_perfect_when_it_is_certain_and_right():
    """ECE and Brier are 0; a confidence of exactly 1 has a bin."""
    found = calibration(200 * torch.eye(3), torch.arange(3))
    assert found.bins[0].n == 3
    assert (found.ece, found.brier) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))


@given(seed=st.integers(0, 10**6), factor=st.floats(0.3, 5))
@settings(max_examples=25, deadline=None)
def test_fit_temperature_undoes_a_scaling(seed, factor):
    """Logits times c need c times the temperature."""
    logits, labels = rows(seed)
    logits = logits + 2 * F.one_hot(labels, 4)  # better than chance, so that the best temperature is finite
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor * fit_temperature(logits, labels), rel=1e-3)


def test_fit_temperature_of_two_classes_is_the_one_worked_by_hand():
    """Three of four rows right at a margin of 2: the best probability is 3/4, so 2 / T = log 3."""
    logits = torch.tensor([[2.0, 0.0]]).repeat(4, 1)
    assert fit_temperature(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(2 / math.log(3), rel=1e-4)


def test_fit_temperature_has_the_lowest_log_loss_of_a_grid():
    """scikit-learn's loss is nowhere lower."""
    logits, labels = rows(3)
    logits = logits + F.one_hot(labels, 4)

    def loss(temperature):
        return log_loss(labels.numpy(), (logits.double() / temperature).softmax(-1).numpy(), labels=range(4))

    best = fit_temperature(logits, labels)
    assert loss(best) <= min(loss(t) for t in torch.logspace(-1, 1, 60).tolist()) + 1e-9


def test_fit_temperature_stays_within_its_bounds_without_a_mistake():
    """Zero would be best and can't be divided by; near it the loss is 0 in float64 and every temperature as good."""
    assert 0.02 <= fit_temperature(torch.eye(3), torch.arange(3)) < 0.05


def test_calibration_refuses_logits_that_are_not_finite():
    """A probability of NaN belongs to no bin."""
    with pytest.raises(DataError, match="not finite"):
        calibration(torch.full((2, 2), math.nan), torch.zeros(2, dtype=torch.int64))
