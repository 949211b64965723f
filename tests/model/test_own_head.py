"""lora_scratch/model/own_head.py: a trained head is kept where it is for the task, in the order of the task's labels."""

import pytest
import torch
from support.folders import save_base
from support.tiny import tiny_distilbert

from lora_scratch.demo.tokenizer import demo_tokenizer
from lora_scratch.model.base import load_base
from lora_scratch.model.own_head import head_order

UNNAMED = ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("own", "labels", "order"),
    [
        (("negative", "positive"), ("positive", "negative"), [1, 0]),
        (("NEGATIVE", "POSITIVE"), ("negative", "positive"), [0, 1]),
        (("not_equivalent", "equivalent"), ("equivalent", "Not equivalent"), [1, 0]),
        (UNNAMED, ("0", "1", "2"), [0, 1, 2]),
        (UNNAMED, ("0", "2", "1"), [0, 2, 1]),
        (UNNAMED, ("1", "2", "3"), [0, 1, 2]),
        (("down", "flat", "up"), ("-1", "0", "1"), [0, 1, 2]),
        (("2 stars", "1 star"), ("1", "2"), [1, 0]),
        (("C", "C++"), ("c", "c++"), [0, 1]),
        (("LABEL_0",), ("similarity",), [0]),
        (UNNAMED, ("joy", "anger", "fear"), None),
        (("up", "down"), ("good", "bad"), None),
        (("up", "down"), ("up", "down", "flat"), None),
        (("up", "down"), ("2", "10"), None),
        (("+", "-"), ("*", "/"), None),
    ],
)
def test_an_order_is_given_only_where_the_names_or_numbers_make_it_clear(own, labels, order):
    """Other case or punctuation, numbers that count the outputs; never a guess from the count alone."""
    assert head_order(own, labels) == order


def trained_base(folder, *, labels, problem_type=None):
    """A saved base with a head for these labels."""
    save_base(folder, labels=labels)
    model = tiny_distilbert(labels=len(labels), vocabulary=len(demo_tokenizer()))
    model.config.update({"id2label": dict(enumerate(labels)), "problem_type": problem_type})
    model.save_pretrained(folder)
    return folder, model.classifier.weight.detach()


def test_a_trained_head_is_kept_in_the_order_of_the_labels_and_it_is_said(tmp_path):
    """Its rows are those of the base, permuted; nothing is new."""
    folder, weight = trained_base(tmp_path, labels=("NEGATIVE", "POSITIVE"))
    base = load_base(str(folder), labels=("positive", "negative"))
    assert base.newly_initialized == ()
    assert torch.equal(base.model.classifier.weight, weight[[1, 0]])
    assert base.notes == ("its head is for NEGATIVE, POSITIVE (single_label); it is kept for positive, negative",)


def test_a_head_for_other_labels_starts_new_and_it_is_said(tmp_path):
    """One line names both sets of labels."""
    folder, weight = trained_base(tmp_path, labels=UNNAMED)
    base = load_base(str(folder), labels=("joy", "anger", "fear"))
    assert base.newly_initialized == ("classifier.bias", "classifier.weight")
    assert not torch.equal(base.model.classifier.weight, weight)
    said = "its head is for LABEL_0, LABEL_1, LABEL_2 (single_label); "
    assert base.notes == (f"{said}the head for joy, anger, fear (single_label) starts new",)


def test_a_base_with_the_same_labels_has_nothing_to_say(tmp_path):
    """No note when all is as expected."""
    folder, _ = trained_base(tmp_path, labels=("no", "yes"))
    assert load_base(str(folder), labels=("no", "yes")).notes == ()


@pytest.mark.parametrize(
    ("task", "labels", "problem_type"),
    [
        ("single_label", ("no", "yes"), "single_label_classification"),
        ("multi_label", ("no", "yes"), "multi_label_classification"),
        ("regression", ("score",), "regression"),
    ],
)
@pytest.mark.parametrize("before", ["regression", "multi_label_classification", None])
def test_the_task_sets_the_problem_type_whatever_that_of_the_base_was(tmp_path, before, task, labels, problem_type):
    """A pipeline of transformers reads it: it chooses softmax, sigmoids or plain numbers."""
    folder, _ = trained_base(tmp_path, labels=("no", "yes"), problem_type=before)
    config = load_base(str(folder), labels=labels, task=task).model.config
    assert (config.problem_type, config.num_labels) == (problem_type, len(labels))


def test_labels_without_a_task_are_of_the_single_label_task(tmp_path):
    """A problem type of the base never survives."""
    folder, _ = trained_base(tmp_path, labels=("no", "yes"), problem_type="multi_label_classification")
    base = load_base(str(folder), labels=("no", "yes"))
    assert base.model.config.problem_type == "single_label_classification"
    assert base.newly_initialized == ("classifier.bias", "classifier.weight")


def test_a_base_opened_without_labels_keeps_its_own_task_and_head(tmp_path):
    """It answers as it was trained to."""
    folder, weight = trained_base(tmp_path, labels=("no", "yes"), problem_type="multi_label_classification")
    base = load_base(str(folder))
    assert base.model.config.problem_type == "multi_label_classification"
    assert torch.equal(base.model.classifier.weight, weight)
    assert (base.newly_initialized, base.notes) == ((), ())


def test_a_score_head_is_kept_for_a_score_of_any_name_if_its_own_has_none(tmp_path):
    """One output without a name is a number."""
    folder, weight = trained_base(tmp_path, labels=("LABEL_0",), problem_type="regression")
    base = load_base(str(folder), labels=("similarity",), task="regression")
    assert torch.equal(base.model.classifier.weight, weight)
    assert base.model.config.id2label == {0: "similarity"}
