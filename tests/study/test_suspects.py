"""study/suspects.py: labels that were changed on purpose come first, and no row is judged by a fit that saw it."""

import pytest
import torch

from lora_scratch.data import Example
from lora_scratch.errors import DataError
from lora_scratch.study.suspects import FOLDS, RULES, _folds, rank_suspects
from lora_scratch.tasks import make_task

NAMES = ("anger", "joy", "love")


def clusters(labels, *, width=6):
    """Features around a center for every label. Shape: (n, width)."""
    centers = torch.eye(3, width) * 6
    return centers[torch.tensor(labels)] + torch.randn(len(labels), width)


def rows_of(labels):
    """A text of its own for every row."""
    return [Example(f"text {number}", label) for number, label in enumerate(labels)]


def test_changed_classes_come_first_with_the_true_one_as_suggestion():
    """Three of 150 labels are changed; noise of the features makes no other row as sure."""
    truth = [number % 3 for number in range(150)]
    features = clusters(truth)
    given = list(truth)
    for row in (4, 71, 132):
        given[row] = (truth[row] + 1) % 3
    found = rank_suspects(rows_of(given), [torch.randn(150, 6), features], make_task("single_label", NAMES))
    assert {suspect.row for suspect in found[:3]} == {4, 71, 132}
    for suspect in found[:3]:
        assert (suspect.label, suspect.suggested) == (NAMES[given[suspect.row]], NAMES[truth[suspect.row]])
        assert 0.5 < suspect.score <= 1
    assert [suspect.score for suspect in found] == sorted((suspect.score for suspect in found), reverse=True)


def test_labels_without_an_error_give_no_suspects():
    """Well separated classes."""
    truth = [number % 3 for number in range(90)]
    assert rank_suspects(rows_of(truth), [3 * clusters(truth)], make_task("single_label", NAMES)) == []


def test_of_several_labels_each_is_judged_for_itself():
    """A label too many and a label too few are both found, with the whole suggested set."""
    truth = torch.tensor([[number % 2, number // 2 % 2, number // 4 % 2] for number in range(160)])
    features = 6.0 * truth + torch.randn(160, 3)
    given = truth.clone()
    given[8, 1] = 1  # truth: no label
    given[7, 2] = 0  # truth: all three
    labels = [tuple(row.nonzero().flatten().tolist()) for row in given]
    found = rank_suspects(rows_of(labels), [features], make_task("multi_label", NAMES))
    first = {suspect.row: (suspect.label, suspect.suggested) for suspect in found[:2]}
    assert first == {8: ("joy", "no label"), 7: ("anger, joy", "anger, joy, love")}


def test_scores_far_from_the_regression_are_suspects():
    """With the regression's own score, inside the range of the labels."""
    features = torch.randn(200, 4)
    given = (features.sum(1) + 0.1 * torch.randn(200)).tolist()
    given[17] += 5
    [suspect] = rank_suspects(rows_of(given), [features], make_task("regression", ("score",)))
    assert suspect.row == 17
    assert suspect.score > 3
    assert float(suspect.suggested) == pytest.approx(given[17] - 5, abs=0.5)


def test_a_class_is_suggested_only_with_the_probability_it_usually_gets():
    """Rows of joy get 0.9 on average: 0.6 for a row of anger is no suspicion, 0.95 is; a class without a row is none."""
    p = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.6, 0.0], [0.05, 0.95, 0.0], [0.1, 0.9, 0.0], [0.1, 0.0, 0.9]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    labels[4] = 0
    found = list(RULES["single_label"](p.double().log(), labels, make_task("single_label", NAMES)))
    assert [(suspect.row, suspect.suggested) for suspect in found] == [(2, "joy")]
    assert found[0].score == pytest.approx(0.9)


def test_a_label_is_added_only_with_the_probability_it_usually_gets():
    """Where joy applies it gets 0.95 on average: 0.7 is no suspicion, 0.96 is."""
    p, labels = torch.tensor([[0.95], [0.95], [0.7], [0.6], [0.96]]), torch.tensor([[1.0], [1], [0], [0], [0]])
    found = list(RULES["multi_label"](p.double().logit(), labels, make_task("multi_label", ("joy",))))
    assert [(suspect.row, suspect.label, suspect.suggested) for suspect in found] == [(4, "no label", "joy")]


@pytest.mark.parametrize(("bare", "found"), [(False, []), (True, [(0, "no label")])])
def test_no_label_is_suggested_only_where_rows_without_a_label_occur(bare, found):
    """A label that the regression does not see at all is else no error of the row."""
    p = torch.tensor([[0.01, 0.1], [0.2, 0.9], [0.3, 0.9], [0.9, 0.2], [0.1, 0.2]])
    labels = torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0], [0, 0]])
    rows = slice(0, 5 if bare else 4)
    suspects = RULES["multi_label"](p[rows].double().logit(), labels[rows], make_task("multi_label", ("joy", "love")))
    assert [(suspect.row, suspect.suggested) for suspect in suspects] == found


def test_a_class_of_few_rows_is_judged_too():
    """Two rows are fewer than the parts."""
    labels = [0] * 30 + [1] * 30 + [2] * 2
    labels[3] = 1
    [suspect, *_] = rank_suspects(rows_of(labels), [2 * clusters([0] * 30 + labels[30:])], make_task("single_label", NAMES))
    assert (suspect.row, suspect.suggested) == (3, "anger")


def test_copies_of_a_text_are_in_one_part_and_labels_are_spread_over_the_parts():
    """Else the fit has seen the row under another label."""
    rows = [Example("Same  Text" if number in (3, 40, 77) else f"text {number}", number % 2) for number in range(100)]
    folds = _folds([*rows[:77], Example("same text", 1), *rows[78:]])
    assert len({int(folds[number]) for number in (3, 40, 77)}) == 1
    for label in (0, 1):
        counts = folds[label::2].bincount(minlength=FOLDS)
        assert counts.max() - counts.min() <= 3


def test_the_fit_that_judges_a_row_has_not_seen_it():
    """As many features as rows: a fit that saw a row would repeat its label."""
    labels = [number % 2 for number in range(40)]
    features = [torch.eye(40) * 10]
    task = make_task("single_label", ("no", "yes"))
    seen = task.fit_linear(features, torch.tensor(labels))[1](features[0]).argmax(-1)
    assert seen.tolist() == labels
    found = rank_suspects(rows_of(labels), features, task)
    assert all(suspect.score < 0.5 for suspect in found)


def test_too_few_rows_are_an_error():
    """Each part needs two rows."""
    with pytest.raises(DataError, match="suspect labels: 9 rows; expected at least 10"):
        rank_suspects(rows_of([0, 1, 0, 1, 0, 1, 0, 1, 0]), [torch.randn(9, 3)], make_task("single_label", ("a", "b")))
