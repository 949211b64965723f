"""The loss of every task: transformers' own, alone and accumulated; torch's weights and smoothing; rows that are ignored."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.tiny import tiny_distilbert, tiny_rows

from lora_scratch.data.batches import IGNORED, collate, shard_batch
from lora_scratch.runtime.precision import Precision
from lora_scratch.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, make_task, task_of
from lora_scratch.training import TrainingConfig
from lora_scratch.training.step import Stepper

NAMES = {SINGLE_LABEL: ("a", "b", "c"), MULTI_LABEL: ("a", "b", "c"), REGRESSION: ("score",)}
ROWS = tiny_rows(12)
FP32 = Precision(torch.float32, torch.device("cpu"))


def labels_of(name, count=12):
    generator = torch.Generator().manual_seed(3)
    if name == SINGLE_LABEL:
        return torch.randint(3, (count,), generator=generator)
    if name == MULTI_LABEL:
        return (torch.rand(count, 3, generator=generator) < 0.4).float()
    return torch.randn(count, generator=generator)


def model_of(name):
    model = tiny_distilbert(labels=len(NAMES[name]))
    task = make_task(name, NAMES[name])
    model.config.update({"problem_type": task.problem_type, "id2label": dict(enumerate(task.labels))})
    return model


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("sizes", [(12,), (5, 1, 6)], ids=["one batch", "uneven micro-batches"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_has_the_loss_and_the_gradient_of_transformers(name, sizes):
    """Of all its rows together, however they are split: the model called with `labels=` is the reference."""
    model, rows = model_of(name), replace(ROWS, labels=labels_of(name))
    whole = collate(rows, range(12), pad_token_id=0)
    model(**whole.inputs, labels=whole.labels).loss.backward()
    expected, expected_loss = gradients(model), model(**whole.inputs, labels=whole.labels).loss.item()
    model.zero_grad()
    run = Stepper(model, TrainingConfig(), task=task_of(model), precision=FP32, total_steps=1)
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    batches = [collate(rows, range(a, a + n), pad_token_id=0) for a, n in zip(starts, sizes, strict=True)]
    loss = torch.stack([run.backward(batch, 12) for batch in batches]).sum()
    assert loss.item() == pytest.approx(expected_loss, rel=1e-5)
    for parameter, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_process_without_a_row_adds_nothing(name):
    """It gets a row whose label is ignored: its loss and its gradient are 0, and finite."""
    rows = replace(ROWS, labels=labels_of(name))
    batch = shard_batch(rows, [4], rank=1, world=2, pad_token_id=0)
    task = make_task(name, NAMES[name])
    weighted = task if name == REGRESSION else replace(task, weights=torch.tensor([1.0, 2.0, 3.0]), smoothing=0.1)
    for own in (task, weighted):
        logits = torch.randn(1, len(task.labels), requires_grad=True)
        loss = own.loss(logits, batch.labels)
        loss.backward()
        assert loss.item() == 0
        assert logits.grad.tolist() == [[0.0] * len(task.labels)]


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_of_all_processes_are_the_whole_batch(name):
    """Three processes share four rows."""
    rows, task = replace(ROWS, labels=labels_of(name)), make_task(name, NAMES[name])
    logits = torch.randn(12, len(task.labels))
    parts = [shard_batch(rows, [0, 3, 5, 8], rank=rank, world=3, pad_token_id=0) for rank in range(3)]
    total = sum(task.loss(logits[part.rows], part.labels) for part in parts)
    whole = collate(rows, [0, 3, 5, 8], pad_token_id=0)
    assert total.item() == pytest.approx(task.loss(logits[whole.rows], whole.labels).item(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weights_and_smoothing_of_one_label_are_torchs(smoothing):
    """The sum over rows, with the label that torch ignores."""
    weights, logits, labels = torch.tensor([0.5, 1.0, 4.0]), torch.randn(12, 3), labels_of(SINGLE_LABEL)
    labels[2] = IGNORED
    task = replace(make_task(SINGLE_LABEL, NAMES[SINGLE_LABEL]), weights=weights, smoothing=smoothing)
    whole = F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing, reduction="none").sum()
    assert task.loss(logits, labels).item() == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weights_and_smoothing_of_several_labels_are_torchs(smoothing):
    """Positive weights; 1 becomes 1 - smoothing / 2, and 0 becomes smoothing / 2."""
    weights, logits, labels = torch.tensor([0.5, 1.0, 4.0]), torch.randn(12, 3), labels_of(MULTI_LABEL)
    task = replace(make_task(MULTI_LABEL, NAMES[MULTI_LABEL]), weights=weights, smoothing=smoothing)
    target = torch.where(labels == 1, 1 - smoothing / 2, smoothing / 2)
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=weights)(logits, target) * 12
    assert task.loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_balanced_weights_give_every_class_the_same_part():
    """n / (C · n_c): 6 rows of a, 2 of b and none of c."""
    task = make_task(SINGLE_LABEL, NAMES[SINGLE_LABEL]).weighted("balanced", torch.tensor([0] * 6 + [1] * 2))
    assert task.weights.tolist() == pytest.approx([8 / 12, 8 / 4, 1.0])


def test_balanced_weights_of_several_labels_are_the_root_of_the_odds():
    """One row in ten: √9; five in ten: 1; none: 1."""
    labels = torch.zeros(10, 3)
    labels[0, 0], labels[:5, 1] = 1, 1
    task = make_task(MULTI_LABEL, NAMES[MULTI_LABEL]).weighted("balanced", labels)
    assert task.weights.tolist() == pytest.approx([3.0, 1.0, 1.0])
