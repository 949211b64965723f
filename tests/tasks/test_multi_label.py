"""lora_scratch/tasks: several labels a text, against scikit-learn, by hand, and in repeated draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss, precision_recall_fscore_support

from lora_scratch.errors import DataError
from lora_scratch.evaluation.classes import class_scores
from lora_scratch.tasks import MULTI_LABEL, holm, make_task, mcnemar
from lora_scratch.tasks.bootstrap import row_counts
from lora_scratch.tasks.randomization import macro_f1_p
from lora_scratch.tasks.thresholds import FEW, fit_thresholds

NAMES = ("red", "green", "blue")
TASK = make_task(MULTI_LABEL, NAMES)


def rows(n, seed, *, skill=1.0, classes=3):
    """Logits of two models and labels; the second knows more."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, classes, generator=generator) < 0.3).float()
    noise = torch.randn(2, n, classes, generator=generator)
    return noise[0], noise[1] + skill * (2 * labels - 1), labels


@given(n=st.integers(1, 40), seed=st.integers(0, 10**6), threshold=st.sampled_from((0.2, 0.5, 0.8)))
@settings(max_examples=25)
def test_scores_are_those_of_scikit_learn(n, seed, threshold):
    """Micro- and macro-F1, exact match, mAP over the labels that occur, loss, and the rows of every label."""
    task = TASK.with_settings({"thresholds": dict.fromkeys(NAMES, threshold)})
    _, logits, labels = rows(n, seed)
    truth, probabilities = labels.numpy(), logits.double().sigmoid().numpy()
    answers, metrics = probabilities > threshold, task.measure(logits, labels)
    for average in ("micro", "macro"):
        expected = f1_score(truth, answers, average=average, zero_division=0)
        assert metrics.scores[f"{average}_f1"] == pytest.approx(expected)
    assert metrics.exact_match == pytest.approx(accuracy_score(truth, answers))
    present = truth.any(0)
    expected = average_precision_score(truth[:, present], probabilities[:, present]) if present.any() else 0.0
    assert metrics.mean_average_precision == pytest.approx(expected)
    losses = [log_loss(truth[:, c], probabilities[:, c], labels=[0, 1]) for c in range(3)]
    assert metrics.loss == pytest.approx(np.mean(losses), rel=1e-6)
    columns = precision_recall_fscore_support(truth, answers, zero_division=0)
    for place, row in enumerate(task.label_rows(logits, labels)):
        assert (row.precision, row.recall, row.f1, row.support) == tuple(column[place] for column in columns)


def test_every_label_is_tested_by_mcnemar_with_holms_correction():
    """On whether the label applies, over all rows."""
    before, after, labels = rows(80, 3)
    old, new = ((logits > 0) == labels.bool() for logits in (before, after))
    expected = [mcnemar(old[:, c], new[:, c]) for c in range(3)]
    scores = class_scores(TASK, before, after, labels)
    assert [(test.fixed, test.broken) for test in expected] == list(zip(scores.fixed, scores.broken, strict=True))
    assert scores.p_holm == holm([test.p_value for test in expected])


def test_intervals_are_those_of_scikit_learn_on_the_same_resamples():
    """Every resample is the rows, each as often as it was drawn."""
    before, after, labels = rows(25, 5)
    truth, answers = labels.numpy(), [(logits > 0).numpy() for logits in (before, after)]
    (counts,) = row_counts(25)
    drawn = [np.repeat(np.arange(25), row.astype(int)) for row in counts[:300]]

    def change(average, rows_drawn):
        old, new = (f1_score(truth[rows_drawn], a[rows_drawn], average=average, zero_division=0) for a in answers)
        return new - old

    redrawn = TASK._redrawn(before, after, labels)
    for average in ("macro", "micro"):
        expected = [change(average, rows_drawn) for rows_drawn in drawn]
        np.testing.assert_allclose(redrawn[f"{average}_f1"][:300], expected, atol=1e-12)
    interval = TASK.intervals(before, after, labels)["macro_f1"]
    assert interval.low == pytest.approx(np.quantile(redrawn["macro_f1"], 0.025))
    assert interval.value == pytest.approx(change("macro", np.arange(25)))


def test_p_is_the_share_of_swaps_with_as_large_a_difference():
    """All 2⁶ swaps of six differing rows, one by one, against random ones."""
    generator = np.random.default_rng(1)
    truth = (generator.random((9, 2)) < 0.5).astype(float)
    before, after = ((generator.random((9, 2)) < 0.5).astype(float) for _ in range(2))
    after[:3] = before[:3]
    different = np.flatnonzero((before != after).any(1))

    def difference(swapped):
        old, new = before.copy(), after.copy()
        old[swapped], new[swapped] = after[swapped], before[swapped]
        return abs(np.subtract(*(f1_score(truth, a, average="macro", zero_division=0) for a in (new, old))))

    swaps = [different[[bool(number >> bit & 1) for bit in range(len(different))]] for number in range(2 ** len(different))]
    real = difference(np.array([], dtype=int))
    exact = np.mean([difference(swap) >= real - 1e-12 for swap in swaps])
    assert macro_f1_p(truth, before, after) == pytest.approx(exact, abs=0.02)


def test_five_improved_rows_are_not_enough_for_a_claim():
    """Swaps of five rows alike give 2 / 2⁵ = 0.06, as McNemar's test; a bootstrap would say 0.01."""
    truth = torch.ones(40, 1)
    before, after = 3 * truth.clone(), 3 * truth
    before[:5] = -3
    task = make_task(MULTI_LABEL, ("red",))
    assert task.p_value(before, after, truth) == pytest.approx(2 / 2**5, abs=0.01)
    assert task.paired(before, after, truth).word == "not shown"
    before[:8] = -3
    assert task.paired(before, after, truth).word == "better"
    assert task.paired(after, before, truth).word == "worse"


def test_models_that_answer_alike_have_p_one():
    """Nothing can be swapped."""
    _, logits, labels = rows(20, 0)
    assert TASK.p_value(logits, logits, labels) == 1


@given(n=st.integers(1, 120), seed=st.integers(0, 10**6), shift=st.floats(-3, 3))
@settings(max_examples=25)
def test_the_common_threshold_is_never_worse_than_a_half_on_its_rows(n, seed, shift):
    """Fitted on few rows of every label, all thresholds are the common one."""
    _, logits, labels = rows(n, seed)
    logits, labels = logits + shift, labels * (torch.arange(n) < FEW - 1)[:, None]
    task = TASK.fitted(logits, labels)
    assert len(set(task.thresholds)) == 1
    assert task.measure(logits, labels).macro_f1 >= TASK.measure(logits, labels).macro_f1 - 1e-12


def test_a_label_of_few_rows_keeps_the_common_threshold():
    """The other one moves half of the way from the common threshold to its own."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(400, 2, dtype=torch.bool)
    truth[:200, 0], truth[: FEW - 1, 1] = True, True
    probabilities = torch.rand(400, 2, generator=generator) * 0.1
    probabilities[:200, 0] += 0.7
    probabilities[: FEW - 1, 1] += 0.2
    first, second = fit_thresholds(probabilities, truth)
    common = second
    assert 0.1 <= common <= 0.2  # both labels are told apart
    assert first == pytest.approx((0.5 + common) / 2, abs=0.01)  # its own would be 0.5, the middle of the gap


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken():
    """Certain probabilities are told apart by any threshold: a low one would be luck."""
    truth = (torch.arange(20) < 10)[:, None]
    assert fit_thresholds(truth.double() * 0.98 + 0.01, truth) == (0.5,)


def test_thresholds_decide_and_come_back_from_their_record():
    """A probability above its label's threshold; by label name, in any order."""
    task = TASK.with_settings({"thresholds": {"blue": 0.9, "red": 0.2, "green": 0.5}})
    assert task.thresholds == (0.2, 0.5, 0.9)
    logits = torch.tensor([[0.3, 0.3, 0.3]]).logit()
    assert task.answers(logits)[0]["labels"] == ["red"]
    assert TASK.with_settings(task.settings()).thresholds == task.thresholds
    assert TASK.settings() == {}


def test_a_row_can_have_no_label_and_no_answer():
    """Said in words; all wrong labels count."""
    assert TASK.tensor([(), (0, 2)]).tolist() == [[0, 0, 0], [1, 0, 1]]
    assert TASK.named(TASK.answers(torch.full((1, 3), -5.0))[0]) == "no label"
    assert TASK.errors(torch.full((1, 3), 5.0), torch.tensor([[0.0, 0.0, 1.0]])).tolist() == [2]


def test_always_the_commonest_label_is_the_constant():
    """It applies in every row, and no other."""
    labels = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0]])
    words, logits = TASK.constant(labels)
    assert words == "always 'green'"
    assert TASK.decide(logits).tolist() == [[False, True, False]] * 4


def test_one_label_alone_has_the_scores_of_that_label():
    """scikit-learn would take one column for two classes."""
    task, labels = make_task(MULTI_LABEL, ("red",)), torch.tensor([[1.0], [1.0], [0.0]])
    metrics = task.measure(torch.tensor([[2.0], [-2.0], [-2.0]]), labels)
    assert (metrics.macro_f1, metrics.micro_f1) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert metrics.mean_average_precision == pytest.approx(5 / 6)


def test_labels_that_are_neither_zero_nor_one_are_refused():
    """NaN, as of a row that is ignored, has no score."""
    with pytest.raises(DataError, match="labels that are neither 0 nor 1"):
        TASK.measure(torch.zeros(1, 3), torch.tensor([[0.0, float("nan"), 1.0]]))
