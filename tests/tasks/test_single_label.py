import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, matthews_corrcoef

from lora_scratch.errors import DataError
from lora_scratch.tasks import confusion, measure, per_class

# Four rows, three classes. Predictions 0, 1, 1, 0 for labels 0, 1, 0, 0; class 2 is neither predicted nor there.
LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0], [2.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1, 0, 0])


def test_measure_gives_the_figures_worked_by_hand():
    """F1 of the three classes is 4/5, 2/3 and 0; the loss log(e² + 2), less 2 where the row is right."""
    found = measure(LOGITS, LABELS)
    assert found.accuracy == 0.75
    assert found.macro_f1 == pytest.approx((4 / 5 + 2 / 3 + 0) / 3, abs=1e-15)
    assert found.loss == pytest.approx(math.log(math.exp(2) + 2) - 1.5, abs=1e-12)
    assert found.n == 4


def test_per_class_gives_the_figures_worked_by_hand():
    """Class a: 2 of 2 predicted are right, 2 of 3 found. Class b: 1 of 2 and 1 of 1. Class c: nothing, so 0."""
    a, b, c = per_class(LOGITS, LABELS, ["a", "b", "c"])
    assert (a.label, a.precision, a.recall, a.support) == ("a", 1.0, pytest.approx(2 / 3), 3)
    assert (b.label, b.precision, b.recall, b.support) == ("b", 0.5, 1.0, 1)
    assert (c.label, c.precision, c.recall, c.f1, c.support) == ("c", 0.0, 0.0, 0.0, 0)


def test_confusion_has_the_true_class_by_row():
    """The one wrong row is of class 0 and was taken for class 1."""
    assert confusion(LOGITS, LABELS).tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]


@given(st.integers(1, 60), st.integers(2, 7), st.integers(0, 10**6))
def test_measure_equals_scikit_learn_on_random_cases(n, classes, seed):
    """Accuracy, macro-F1 over all classes, cross entropy and confusion are those of scikit-learn's own functions."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator)
    labels = torch.randint(classes, (n,), generator=generator)
    predicted, every = logits.argmax(-1).numpy(), list(range(classes))
    found = measure(logits, labels)
    assert found.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert found.macro_f1 == pytest.approx(f1_score(labels, predicted, labels=every, average="macro", zero_division=0))
    assert found.loss == pytest.approx(log_loss(labels, logits.double().softmax(-1).numpy(), labels=every), abs=1e-9)
    if len(set(predicted)) > 1 and len(set(labels.tolist())) > 1:
        assert found.matthews == pytest.approx(matthews_corrcoef(labels, predicted))
    assert found.f1 == (pytest.approx(f1_score(labels, predicted, zero_division=0)) if classes == 2 else None)
    assert confusion(logits, labels).numpy().tolist() == confusion_matrix(labels, predicted, labels=every).tolist()


def test_matthews_of_answers_that_are_all_alike_is_zero_without_a_warning(recwarn):
    """As of a model that says one label to every row."""
    assert measure(torch.tensor([[1.0, 0.0]]).repeat(4, 1), torch.tensor([0, 1, 0, 0])).matthews == 0
    assert not recwarn.list


def test_measure_of_large_logits_stays_finite():
    """The loss is taken in log space: probabilities that round to 0 do not become an infinite loss."""
    assert measure(torch.tensor([[1000.0, 0.0]]), torch.tensor([1])).loss == 1000.0


@pytest.mark.parametrize("figure", [measure, confusion, lambda logits, labels: per_class(logits, labels, "abc")])
def test_every_figure_names_the_rows_whose_logits_are_not_finite(figure):
    """NaN compares false with everything and would count as class 0: it is an error that names the rows."""
    logits = LOGITS.clone()
    logits[1, 2], logits[3, 0] = math.nan, math.inf
    with pytest.raises(DataError, match=r"not finite in rows 1, 3 \(2 of 4, counted from 0\)"):
        figure(logits, LABELS)


def test_measure_lists_five_bad_rows_at_most():
    """A thousand bad rows still make one line."""
    with pytest.raises(DataError, match=r"rows 0, 1, 2, 3, 4, \.\.\. \(9 of 9"):
        measure(torch.full((9, 2), math.nan), torch.zeros(9, dtype=torch.int64))


def test_measure_refuses_to_measure_nothing():
    """The mean over no rows does not exist."""
    with pytest.raises(DataError, match="no rows to measure"):
        measure(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))


@pytest.mark.parametrize("label", [-100, 3])
def test_measure_refuses_a_label_without_a_class(label):
    """Torch skips -100 and scikit-learn skips 3 without a word: the figures would be of other rows than it seems."""
    with pytest.raises(DataError, match=r"no such class in rows 2 .*labels 0 to 2"):
        measure(LOGITS, torch.tensor([0, 1, label, 0]))


def test_measure_refuses_labels_of_another_length():
    """One label would be broadcast over all rows."""
    with pytest.raises(DataError, match=r"logits \(4, 3\) and labels \(1,\)"):
        measure(LOGITS, torch.tensor([0]))


def test_per_class_refuses_names_that_do_not_fit():
    """Two names for three classes would leave one class out of the table."""
    with pytest.raises(DataError, match="2 names for 3 classes"):
        per_class(LOGITS, LABELS, ["a", "b"])
