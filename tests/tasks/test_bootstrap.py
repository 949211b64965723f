import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import f1_score

from lora_scratch.errors import DataError
from lora_scratch.tasks import measure, paired_intervals


def rows(n=300, classes=3, *, seed=0, skill=1.0):
    """Logits of two models and labels; the second knows more."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    noise = torch.randn(2, n, classes, generator=generator)
    return noise[0], noise[1] + skill * F.one_hot(labels, classes), labels


@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), classes=st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_paired_intervals_hold_the_differences_of_the_metrics(seed, n, classes):
    """value = after - before of the figures that the report shows, and low <= high."""
    before, after, labels = rows(n, classes, seed=seed)
    found = paired_intervals(before, after, labels, resamples=50)
    first, second = measure(before, labels), measure(after, labels)
    for score, interval in found.items():
        assert interval.value == getattr(second, score) - getattr(first, score)
        assert interval.low <= interval.high


def test_paired_intervals_agree_with_scipy_on_resampled_rows():
    """The counts that are drawn follow the law of rows drawn again: SciPy, drawing rows, gives the same bounds."""
    before, after, labels = rows()
    found = paired_intervals(before, after, labels, resamples=20_000)
    truth, first, second = labels.numpy(), before.argmax(-1).numpy(), after.argmax(-1).numpy()
    lost = [F.cross_entropy(each, labels, reduction="none").numpy() for each in (before, after)]

    def difference(score):
        return lambda index: score(truth[index], second[index]) - score(truth[index], first[index])

    def macro(labels, answers):
        return f1_score(labels, answers, labels=range(3), average="macro", zero_division=0)

    statistics = {
        "accuracy": (difference(lambda labels, answers: (labels == answers).mean()), 4000),
        "macro_f1": (difference(macro), 600),
        "loss": (lambda index: (lost[1] - lost[0])[index].mean(), 4000),
    }
    for score, (statistic, resamples) in statistics.items():
        index = (np.arange(len(truth)),)
        expected = bootstrap(index, statistic, n_resamples=resamples, vectorized=False, method="percentile", rng=1)
        interval = found[score]
        wide = interval.high - interval.low  # the bounds themselves are off by chance: less than a tenth of this
        assert abs(interval.low - expected.confidence_interval.low) < 0.1 * wide
        assert abs(interval.high - expected.confidence_interval.high) < 0.1 * wide


def test_paired_intervals_have_the_width_of_the_normal_law():
    """By hand: 400 rows, 100 fixed, 60 broken. d has mean 0.1 and variance 0.4 - 0.01: ±1.96 · √(0.39 / 400) = ±0.0612."""
    right = torch.tensor([[2.0, 0.0]])
    wrong = torch.tensor([[0.0, 2.0]])
    before = torch.cat([wrong.repeat(100, 1), right.repeat(300, 1)])
    after = torch.cat([right.repeat(100, 1), wrong.repeat(60, 1), right.repeat(240, 1)])
    found = paired_intervals(before, after, torch.zeros(400, dtype=torch.int64), resamples=20_000)["accuracy"]
    assert found.value == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1 - 0.0612, abs=0.003)
    assert found.high == pytest.approx(0.1 + 0.0612, abs=0.003)


def test_paired_intervals_are_paired():
    """Two models that answer alike differ by exactly nothing, however much their accuracy varies from draw to draw."""
    before, _, labels = rows()
    for interval in paired_intervals(before, before.clone(), labels).values():
        assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def test_paired_intervals_depend_on_the_seed_alone():
    """The same seed gives the same bounds, another one others, and no global generator is touched."""
    arguments = rows()
    state = np.random.get_state()[1].copy()
    first = paired_intervals(*arguments)
    assert first == paired_intervals(*arguments)
    assert first["loss"] != paired_intervals(*arguments, seed=1)["loss"]
    assert (np.random.get_state()[1] == state).all()


def test_paired_intervals_of_one_row_have_no_width():
    """Nothing to draw: no crash, and no spread made up."""
    found = paired_intervals(*rows(1))["loss"]
    assert found.low == found.high == pytest.approx(found.value)


def test_paired_intervals_refuse_other_rows():
    """A paired difference needs the same rows."""
    before, after, labels = rows(5)
    with pytest.raises(DataError, match=r"logits \(4, 3\)"):
        paired_intervals(before, after[:4], labels)
