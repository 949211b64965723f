"""study/data_check.py and data_check_text.py: findings for pairs, several labels and scores, as JSON and as text."""

import json

import torch

from lora_scratch.data import Example, Splits
from lora_scratch.data.near_copies import find_near_copies
from lora_scratch.data.overlap import find_copies
from lora_scratch.data.shift import word_counts
from lora_scratch.study.data_check import DataCheck, Lengths, hard_rows
from lora_scratch.study.data_check_text import render_check
from lora_scratch.study.suspects import Suspect


def check_of(train, validation, test, *, labels, task, **findings):
    """The findings for rows of (text, label) or (text, label, pair)."""
    rows = (tuple(Example(*row) for row in split) for split in (train, validation, test))
    splits = Splits(*rows, labels=labels, source="made up", task=task)
    lengths = Lengths("words", word_counts(splits))
    return DataCheck(splits, find_copies(splits), lengths, near=find_near_copies(splits), **findings)


def test_pairs_are_shown_and_written_with_both_texts():
    """On the screen with a bar between them."""
    check = check_of(
        [("a", 0, "b"), ("c", 1, "d")], [("e", 0, "f")], [("A", 1, "b")], labels=("no", "yes"), task="single_label"
    )
    assert "  a | b\n    train 0: no; test 0: yes\n" in render_check(check, show=5)
    first = check.as_json(top=5)["copies"][0]["rows"][1]
    assert first == {"split": "test", "row": 0, "label": "yes", "text": "A", "pair": "b"}


def test_several_labels_are_named_and_counted_each():
    """A row without a label has none in the table."""
    check = check_of([("a", (0, 1)), ("b", ())], [("a", (1,))], [("c", (0,))], labels=("joy", "love"), task="multi_label")
    text = render_check(check, show=5)
    assert "train 0: joy, love; validation 0: love" in text
    assert check.as_json(top=5)["classes"] == {
        "train": {"joy": 1, "love": 1},
        "validation": {"joy": 0, "love": 1},
        "test": {"joy": 1, "love": 0},
    }


def test_scores_have_a_spread_and_no_classes():
    """Least, median, mean, 95 % quantile and largest."""
    check = check_of([("a", 1.0), ("b", 2.5)], [("c", 3.0)], [("A", 4.0)], labels=("score",), task="regression")
    found = check.as_json(top=5)
    assert found["classes"] is None
    assert (found["scores"]["train"]["mean"], found["conflicts"]) == (1.75, 1)
    text = render_check(check, show=5)
    assert "train 0: 1.0; test 0: 4.0" in text
    assert "score       least" in text


def test_suspects_and_hard_rows_are_shown_with_their_rows_and_no_more_than_asked_for():
    """A suspect's number counts through all splits."""
    suspects = [Suspect(2, "no", "yes", 0.9), Suspect(0, "no", "yes", 0.5)]
    rows = [("first", 0), ("second", 1)], [("third", 0)], [("fourth", 1)]
    check = check_of(*rows, labels=("no", "yes"), task="single_label", suspects=suspects)
    hard = hard_rows(torch.tensor([0.5, -0.25]), check.splits)
    check = DataCheck(check.splits, check.copies, check.lengths, suspects=suspects, hard=hard)
    text = render_check(check, show=1)
    assert "the surest first (1 of 2)\n  0.90  validation 0: no -> yes  third" in text
    assert "mean margin of the run (1 of 2)\n  -0.25  train 1: yes  second" in text
    found = check.as_json(top=1)
    assert (found["suspects"]["number"], found["suspects"]["rows"][0]["text"]) == (2, "third")
    assert [row["text"] for row in found["hard_rows"]] == ["second"]
    assert found["near_copies"] is None


def test_rows_that_no_step_used_are_not_hard():
    """Their margin is NaN."""
    check = check_of([("a", 0), ("b", 1)], [("c", 0)], [("d", 1)], labels=("no", "yes"), task="single_label")
    assert [row.row for row in hard_rows(torch.tensor([float("nan"), 1.0]), check.splits)] == [1]


def test_a_text_can_not_drive_the_terminal_and_long_ones_are_cut():
    """Control characters are escapes; the file keeps the text."""
    wild = "one\x1b[31m two\nthree " + "x" * 5000
    check = check_of([(wild, 0), (wild, 1)], [("c", 0)], [("d", 1)], labels=("no", "yes"), task="single_label")
    text = render_check(check, show=5)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert json.loads(json.dumps(check.as_json(top=1)))["copies"][0]["rows"][0]["text"] == wild


def test_a_split_of_other_labels_is_said():
    """And equal ones are said to be equal."""
    train = [(f"text {number} of many", number % 2) for number in range(200)]
    alike = check_of(train, train[:60], train[:60], labels=("no", "yes"), task="single_label")
    assert "Labels and lengths of validation and test rows are as in train" in render_check(alike, show=0)
    other = check_of(train, train[:60], train[1:120:2], labels=("no", "yes"), task="single_label")
    assert "The class shares of the test rows differ from those of train" in render_check(other, show=0)
