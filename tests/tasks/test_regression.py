"""lora_scratch/tasks: a number for every text, against SciPy and scikit-learn, and in repeated draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata, spearmanr, wilcoxon
from sklearn.metrics import mean_absolute_error, mean_squared_error

from lora_scratch.errors import ConfigError, DataError
from lora_scratch.tasks import REGRESSION, make_task
from lora_scratch.tasks.bootstrap import row_counts
from lora_scratch.tasks.regression import _redrawn, _resampled_ranks, signed_rank

TASK = make_task(REGRESSION, ("score",))


def rows(n, seed, *, levels=None):
    """Answers of two models and the truth; the second is nearer. With `levels` some values are equal."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(n, generator=generator)
    truth = truth if levels is None else (truth * levels).round() / levels
    noise = torch.randn(2, n, generator=generator)
    return (truth + 2 * noise[0])[:, None], (truth + noise[1])[:, None], truth


@given(n=st.integers(3, 40), seed=st.integers(0, 10**6), levels=st.sampled_from((None, 1, 3)))
@settings(max_examples=25)
def test_scores_are_those_of_scipy_and_scikit_learn(n, seed, levels):
    """Ties included."""
    _, logits, truth = rows(n, seed, levels=levels)
    answers, labels, metrics = logits[:, 0].double().numpy(), truth.double().numpy(), TASK.measure(logits, truth)
    if len(set(labels)) > 1:
        assert metrics.pearson == pytest.approx(pearsonr(answers, labels).statistic, abs=1e-9)
        assert metrics.spearman == pytest.approx(spearmanr(answers, labels).statistic, abs=1e-9)
    assert metrics.mse == metrics.loss == pytest.approx(mean_squared_error(labels, answers))
    assert metrics.mae == pytest.approx(mean_absolute_error(labels, answers))


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1, 1 / 3])
def test_a_constant_correlates_with_nothing(value):
    """The rounding of its mean would else be taken for a spread."""
    truth = torch.linspace(0, 1, 37)
    metrics = TASK.measure(torch.full((37, 1), value, dtype=torch.float64), truth)
    assert (metrics.pearson, metrics.spearman) == (0, 0)


@given(n=st.integers(2, 40), seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_the_signed_rank_test_is_scipys_with_its_direction(n, seed):
    """Positive where the squared errors became smaller; zeros are left out."""
    before, after, truth = rows(n, seed, levels=2)
    after[: n // 3] = before[: n // 3]
    changes = TASK.errors(before, truth) - TASK.errors(after, truth)
    total, p = signed_rank(changes)
    moved = changes[changes != 0].numpy()
    assert p == pytest.approx(wilcoxon(moved).pvalue)
    assert total == pytest.approx((rankdata(abs(moved)) * np.sign(moved)).sum())


def test_nearer_answers_are_better_and_farther_ones_worse():
    """The direction is that of the errors, not of the numbers."""
    truth = torch.linspace(0, 5, 40)
    near, far = (truth + 0.1)[:, None], (truth - 1 - truth / 10)[:, None]
    assert TASK.paired(far, near, truth).word == "better"
    assert TASK.paired(near, far, truth).word == "worse"
    assert TASK.paired(near, near, truth).word == "not shown"
    fixed, broken = TASK.changes(far, near, truth)
    assert (int(fixed.sum()), int(broken.sum())) == (40, 0)


def test_intervals_are_those_of_scipy_on_the_same_resamples():
    """Every resample is the rows, each as often as it was drawn; ranks are ranked again."""
    before, after, truth = rows(25, 5, levels=2)
    answers, labels = [logits[:, 0].double().numpy() for logits in (before, after)], truth.double().numpy()
    (counts,) = row_counts(25)
    redrawn = _redrawn([before[:, 0].double(), after[:, 0].double()], truth.double())
    statistics = {
        "pearson": lambda x, y: pearsonr(x, y).statistic,
        "spearman": lambda x, y: spearmanr(x, y).statistic,
        "mse": mean_squared_error,
        "mae": mean_absolute_error,
    }
    for number, row in enumerate(counts[:200]):
        drawn = np.repeat(np.arange(25), row.astype(int))
        for name, statistic in statistics.items():
            old, new = (statistic(answer[drawn], labels[drawn]) for answer in answers)
            assert redrawn[name][number] == pytest.approx(new - old, abs=1e-9)
    interval = TASK.intervals(before, after, truth)["spearman"]
    assert interval.low == pytest.approx(np.quantile(redrawn["spearman"], 0.025))


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=12), seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_ranks_in_a_resample_are_those_of_the_repeated_rows(values, seed):
    """Equal values share the mean of their ranks."""
    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=1).astype(float)
    (ranks,) = _resampled_ranks(counts, np.array(values, dtype=float))
    drawn = np.repeat(np.arange(n), counts[0].astype(int))
    assert ranks[drawn] == pytest.approx(rankdata(np.array(values)[drawn]))


def test_the_mean_is_the_constant_and_an_answer_is_a_number():
    """With its name in words."""
    words, logits = TASK.constant(torch.tensor([1.0, 2.0, 6.0]))
    assert (words, logits.tolist()) == ("always 3", [[3.0]] * 3)
    (answer,) = TASK.answers(torch.tensor([[2.25]]))
    assert (answer, TASK.named(answer), TASK.scored(answer)) == ({"score": 2.25}, "2.25", {"score": 2.25})
    assert TASK.chosen(answer) is None


def test_numbers_have_no_class_weights_and_no_temperature():
    """Both are refused, not ignored."""
    with pytest.raises(ConfigError, match="--class_weights: numbers have no classes"):
        TASK.weighted("balanced", torch.zeros(2))
    with pytest.raises(ConfigError, match="no temperature is stored for this regression adapter"):
        TASK.with_calibration()


def test_labels_that_are_not_finite_are_refused():
    """NaN, as of a row that is ignored, has no error."""
    with pytest.raises(DataError, match="labels that are not finite"):
        TASK.measure(torch.zeros(1, 1), torch.tensor([float("nan")]))


def test_a_new_head_starts_at_the_mean_of_the_labels():
    """The weight stays as it was drawn."""
    weight = torch.randn(1, 3)
    start = make_task(REGRESSION, ("score",)).head_start(torch.randn(5, 3), torch.tensor([1.0, 2, 3, 4, 5]), weight)
    assert torch.equal(start.weight, weight)
    assert start.bias.tolist() == [3.0]
