"""training/margins.py: margins by their formulas, sums by row, the file of a run."""

import math

import pytest
import torch
from support.tiny import tiny_distilbert, tiny_rows

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.data.batches import IGNORED
from lora_scratch.errors import DataError
from lora_scratch.tasks import make_task
from lora_scratch.training import TrainingConfig, train
from lora_scratch.training.margins import MARGINS, Margins, read_margins, write_margins

ONE = make_task("single_label", ("a", "b", "c"))
SEVERAL = make_task("multi_label", ("a", "b", "c"))
SCORE = make_task("regression", ("score",))


def test_the_margin_of_a_class_is_its_probability_less_the_largest_other():
    """p = 0.5, 0.3, 0.2."""
    logits = torch.tensor([[0.5, 0.3, 0.2]] * 3).log()
    torch.testing.assert_close(ONE.margins(logits, torch.tensor([0, 1, 2])), torch.tensor([0.2, -0.2, -0.3]))


def test_the_margin_of_several_labels_is_that_of_the_worst():
    """p = 0.9, 0.2, 0.4, labels a and c: 0.8, 0.6, -0.2."""
    logits = torch.tensor([[0.9, 0.2, 0.4]]).logit()
    torch.testing.assert_close(SEVERAL.margins(logits, torch.tensor([[1.0, 0, 1]])), torch.tensor([-0.2]))


def test_the_margin_of_a_score_is_minus_the_distance():
    """Zero is best."""
    margins = SCORE.margins(torch.tensor([[2.0], [3.5]]), torch.tensor([2.5, 3.5]))
    torch.testing.assert_close(margins, torch.tensor([-0.5, 0.0]))


def test_margins_are_summed_by_row_over_epochs_and_the_mean_is_read_back(tmp_path):
    """In any order of the rows; a row that no step used is NaN."""
    margins = Margins(4, SCORE)
    margins.add(torch.tensor([2, 0]), torch.tensor([[1.0], [0.0]]), torch.tensor([2.0, 0.5]))
    margins.add(torch.tensor([0, 2]), torch.tensor([[0.0], [5.0]]), torch.tensor([0.5, 2.0]))
    margins.add(torch.tensor([1]), torch.tensor([[0.0]]), torch.tensor([0.25]))
    write_margins(tmp_path, margins.totals(), train_digest="d")
    mean = read_margins(tmp_path, train_digest="d")
    torch.testing.assert_close(mean, torch.tensor([-0.5, -0.25, -2.0, math.nan]), equal_nan=True)


@pytest.mark.parametrize(
    ("task", "labels", "real"),
    [
        (ONE, torch.tensor([IGNORED, 1]), [0, 1]),
        (SEVERAL, torch.tensor([[math.nan] * 3, [0.0, 1, 1]]), [0, 1]),
        (SCORE, torch.tensor([math.nan, 1.0]), [0, 1]),
    ],
)
def test_rows_that_fill_up_a_part_of_a_batch_do_not_count(task, labels, real):
    """A process without a row of its own runs one whose label is ignored."""
    margins = Margins(2, task)
    margins.add(torch.tensor([0, 1]), torch.zeros(2, 1 if task is SCORE else 3), labels)
    assert margins.counts.tolist() == real
    assert margins.sums.isfinite().all()


def test_logits_that_are_not_finite_do_not_count():
    """Such a step is skipped by the optimizer too."""
    margins = Margins(2, ONE)
    margins.add(torch.tensor([0, 1]), torch.tensor([[math.inf, 0, 0], [1, 0, 0]]), torch.tensor([0, 0]))
    assert margins.counts.tolist() == [0, 1]
    assert margins.sums.isfinite().all()


def test_a_resumed_run_has_the_same_sums():
    """The state is that of a run that was not stopped, bit for bit."""
    logits, labels, rows = torch.randn(4, 8, 3), torch.randint(3, (4, 8)), torch.arange(8)
    whole, first, second = (Margins(8, ONE) for _ in range(3))
    for step in range(4):
        whole.add(rows, logits[step], labels[step])
    for step in range(2):
        first.add(rows, logits[step], labels[step])
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    for step in range(2, 4):
        second.add(rows, logits[step], labels[step])
    assert torch.equal(whole.sums, second.sums)
    assert torch.equal(whole.counts, second.counts)


def test_no_gradient_goes_through_a_margin():
    """The logits of a step still require one."""
    logits = torch.zeros(2, 3, requires_grad=True)
    margins = Margins(2, ONE)
    margins.add(torch.tensor([0, 1]), logits, torch.tensor([0, 1]))
    assert not margins.sums.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "the run has no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "can't be read"),
        (lambda path: path.write_bytes(b""), "can't be read"),
        (lambda path: None, "its training rows are not these"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(tmp_path, change, message):
    """Absent, cut short, empty, or of other rows."""
    write_margins(tmp_path, Margins(3, ONE).totals(), train_digest="those")
    change(tmp_path / MARGINS)
    with pytest.raises(DataError, match=message) as raised:
        read_margins(tmp_path, train_digest="these")
    assert raised.value.where == str(tmp_path / MARGINS)


def test_a_training_keeps_the_margins_of_its_rows():
    """Every row once an epoch, from the logits that the step used."""
    model, rows = tiny_distilbert().train(), tiny_rows(20)
    inject(model, LoRAConfig(rank=2))
    config = TrainingConfig(epochs=2, precision="fp32")
    result = train(model, rows, tiny_rows(8, seed=1), config, pad_token_id=0, show_progress=False)
    assert result.margins["counts"].tolist() == [2.0] * 20
    assert (result.margins["sums"] / 2).abs().max() <= 1
