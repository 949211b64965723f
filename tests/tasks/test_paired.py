"""lora_scratch/tasks/task.py, paired: a changed model against the model as it was, for every task."""

import pytest
import torch

from lora_scratch.errors import DataError
from lora_scratch.tasks import SINGLE_LABEL, Paired, make_task, word_of

LABELS = torch.zeros(20, dtype=torch.int64)
TASK = make_task(SINGLE_LABEL, ("no", "yes"))


def answers(right):
    """Logits of rows of which the first `right` are right."""
    return torch.nn.functional.one_hot((torch.arange(20) >= right).long(), 2).float()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (10, 16, Paired(0.8, 0.3, 6, 0, 2 / 2**6, 0.3, "better")),
        (16, 10, Paired(0.5, -0.3, 0, 6, 2 / 2**6, -0.3, "worse")),
        (10, 15, Paired(0.75, 0.25, 5, 0, 2 / 2**5, 0.25, "not shown")),
        (10, 10, Paired(0.5, 0.0, 0, 0, 1.0, 0.0, "not shown")),
    ],
)
def test_paired_by_hand(before, after, expected):
    """All n rows that differ differ alike: p = 2 / 2ⁿ, which is 0.031 for six and 0.062 for five."""
    paired = TASK.paired(answers(before), answers(after), LABELS)
    assert vars(paired) == pytest.approx(vars(expected))


@pytest.mark.parametrize(
    ("direction", "p_value", "word"),
    [(1.0, 0.049, "better"), (-1.0, 0.049, "worse"), (1.0, 0.05, "not shown"), (0.0, 0.0, "not shown")],
)
def test_the_word_is_better_or_worse_below_a_twentieth_alone(direction, p_value, word):
    """Where the test has no direction, nothing is shown."""
    assert word_of(direction, p_value) == word


def test_logits_that_are_not_finite_are_refused():
    """They have no answer."""
    with pytest.raises(DataError, match="not finite"):
        TASK.paired(answers(3), answers(3) * float("nan"), LABELS)
