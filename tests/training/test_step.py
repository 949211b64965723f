"""lora_scratch/training/step.py: one optimizer step, its order and its arithmetic."""

import copy
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from support.tiny import tiny_distilbert, tiny_rows
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.data import collate
from lora_scratch.errors import TrainingError
from lora_scratch.fast.packed import packed
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.tasks import SINGLE_LABEL, make_task
from lora_scratch.training import TrainingConfig, step
from lora_scratch.training.step import Stepper

CPU = torch.device("cpu")
aten = torch.ops.aten
THREE = make_task(SINGLE_LABEL, "abc")


def stepper(model, *, precision="fp32", **settings):
    config = TrainingConfig(learning_rate=1e-2, warmup_ratio=0, **settings)
    return Stepper(model, config, task=THREE, precision=resolve_precision(precision, CPU), total_steps=100)


def batches(*sizes):
    rows, start, found = tiny_rows(), 0, []
    for size in sizes:
        found.append(collate(rows, list(range(start, start + size)), pad_token_id=0))
        start += size
    return found


def trainables(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def adapted():
    return inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8, dropout=0))


@pytest.mark.parametrize("sizes", [(6, 6), (8, 3, 1)])
def test_micro_batches_of_any_sizes_equal_one_batch(sizes):
    """Accumulation weighs rows, not micro-batches: uneven ones change nothing."""
    whole, parts = adapted(), adapted()
    one = stepper(whole)(batches(12))
    many = stepper(parts)(batches(*sizes))
    assert many.loss == pytest.approx(one.loss, rel=1e-6)
    assert many.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-5)
    for name, tensor in trainables(whole).items():
        # Adam divides by |g|, so entries whose gradient is rounding noise may differ by up to the learning rate
        close = torch.isclose(parts.get_parameter(name), tensor, atol=1e-5)
        assert close.float().mean() > 0.95, name


def test_clipping_limits_the_update_but_not_the_reported_norm():
    """Clipping is after unscaling and before the step; the log shows the norm before it."""
    free, clipped = adapted(), adapted()
    first, second = stepper(free, clip_norm=0), stepper(clipped, clip_norm=1e-3)
    seen = []
    second.optimizer.register_step_pre_hook(lambda opt, *_: seen.append(norm_of(second.parameters)))
    assert first(batches(8)).gradient_norm == pytest.approx(second(batches(8)).gradient_norm)
    assert seen[0] == pytest.approx(1e-3, rel=1e-3)


def norm_of(parameters):
    return float(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm())


def test_gradients_are_cleared_after_the_step():
    """The next step starts from nothing."""
    run = stepper(adapted())
    run(batches(4))
    assert all(p.grad is None for p in run.parameters)


def test_a_gradient_that_is_not_finite_leaves_every_weight_in_place():
    """The step is skipped and said to be."""
    model = adapted()
    model.classifier.register_full_backward_hook(lambda *_: (torch.full((4, 32), torch.nan),))
    before = trainables(model)
    report = stepper(model)(batches(4))
    assert report.skipped
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainables(model).items())


def test_training_stops_when_gradients_stay_infinite_and_names_the_rows():
    """A run that can't learn ends with a clear line."""
    model = adapted()
    model.classifier.register_full_backward_hook(lambda *_: (torch.full((4, 32), torch.inf),))
    run = stepper(model, max_skipped=3)
    for _ in range(2):
        run(batches(4))
    with pytest.raises(TrainingError, match=r"step 3: .* not finite 3 steps in a row, last on rows \[0, 1, 2, 3\]"):
        run(batches(4))


def test_bfloat16_and_float16_steps_stay_near_the_float32_step():
    """One AMP path: the loss agrees within the rounding of the dtype, and the weights stay float32."""
    reference = stepper(adapted())(batches(12)).loss
    for name, tolerance in (("bf16", 3e-2), ("fp16", 4e-3)):
        model = adapted()
        assert stepper(model, precision=name)(batches(12)).loss == pytest.approx(reference, rel=tolerance)
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_float16_scaling_does_not_change_the_update():
    """Scale, backward, unscale: the scaler's factor of 65,536 is gone before the optimizer sees the gradient."""
    model = adapted()
    run = stepper(model, precision="fp16")
    norm = run(batches(12)).gradient_norm
    assert run.scaler.is_enabled()
    assert norm == pytest.approx(stepper(adapted())(batches(12)).gradient_norm, rel=2e-2)


def test_the_learning_rate_follows_the_schedule_for_every_group():
    """LoRA+'s group keeps its ratio on the way down."""
    run = stepper(adapted(), loraplus_ratio=4)
    run(batches(4))
    report = run(batches(4))
    assert report.learning_rate == pytest.approx(1e-2 * 0.99)
    rates = sorted({group["lr"] for group in run.optimizer.param_groups})
    assert rates == pytest.approx([1e-2 * 0.99, 4e-2 * 0.99])


def test_a_frozen_weight_is_the_same_object_and_bits_after_a_step():
    """Only the adapter and the head move."""
    model = adapted()
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    bits = copy.deepcopy(frozen)
    stepper(model)(batches(8))
    assert all(torch.equal(p, bits[name]) and p.grad is None for name, p in frozen.items())


def test_a_loss_that_is_not_finite_skips_the_step_though_the_gradient_is(monkeypatch):
    """The gradient of a loss that overflowed says nothing."""
    model = adapted()
    before, real = trainables(model), torch.nn.functional.cross_entropy
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *a, **k: real(*a, **k) + torch.inf)
    report = stepper(model)(batches(4))
    assert report.skipped
    assert report.gradient_norm < torch.inf
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainables(model).items())


def short_of_memory(monkeypatch, *, rows):
    """A device that has memory for so many rows in a forward pass."""
    real = step.classify

    def classify(model, batch):
        if len(batch.labels) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(model, batch)

    monkeypatch.setattr(step, "classify", classify)


def first_gradient(model):
    """A step over 12 and 9 rows: its loss, its gradient by name, and the stepper afterwards."""
    run, found = stepper(model, clip_norm=0), {}
    names = {p: name for name, p in model.named_parameters()}
    hook = run.optimizer.register_step_pre_hook(lambda *_: found.update({names[p]: p.grad.clone() for p in run.parameters}))
    loss = run(batches(12, 9)).loss
    hook.remove()
    return loss, found, run


@pytest.mark.parametrize("path", [nullcontext, packed])
def test_out_of_memory_halves_the_batch_and_gives_the_same_gradient(monkeypatch, path):
    """Equal to 1e-6 in float32 without dropout; said aloud, once for each halving; the next step starts with what fits."""
    whole, halved = adapted(), adapted()
    with path(whole):
        loss, expected, _ = first_gradient(whole)
    short_of_memory(monkeypatch, rows=3)
    with path(halved), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loss_of_pieces, found, run = first_gradient(halved)
        run(batches(12, 9))
    assert run.pieces == 4
    start = "out of memory at step 1: batches go through in"
    assert [str(each.message).split(" pieces")[0] for each in said] == [f"{start} 2", f"{start} 4"]
    assert loss_of_pieces == pytest.approx(loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 1e-6 * gradient.abs().max(), name


def test_no_memory_for_one_row_ends_in_one_line(monkeypatch):
    """There is nothing left to halve."""
    short_of_memory(monkeypatch, rows=0)
    with (
        pytest.warns(UserWarning, match="in (2|4) pieces"),
        pytest.raises(TrainingError, match="step 1: out of memory with one row"),
    ):
        stepper(adapted())(batches(4))


def test_an_error_that_is_not_about_memory_is_not_retried(monkeypatch):
    """A defect shows at once."""
    monkeypatch.setattr(step, "classify", lambda *_: torch.zeros(2, 3) @ torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        stepper(adapted())(batches(4))


class Plain(nn.Module):
    """A classifier that waits for nothing itself."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(60, 8), nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.head(self.embedding(input_ids).mean(1)))


class Waits(TorchDispatchMode):
    """Counts the operators that make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (aten._local_scalar_dense, aten.nonzero, aten.equal, aten.is_nonzero)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_launched_step_waits_for_nothing_and_is_read_later(precision):
    """Loss, norm and whether they are finite stay on the device: on a GPU the host runs ahead."""
    late, prompt = stepper(Plain(), precision=precision), stepper(Plain(), precision=precision)
    prompt.model.load_state_dict(late.model.state_dict())
    given = batches(4, 5)
    late.launch(given)
    with Waits() as waits:
        for _ in range(3):
            late.launch(given)
    assert waits.count == 0 or precision == "fp16"  # unscale_ on a CPU looks at once; on a GPU it does not
    assert late.read() == [prompt(batches(4, 5)) for _ in range(4)]
    assert late.read() == []


def test_steps_read_late_are_counted_as_if_read_at_once():
    """The third of three skipped steps in a row is the one that is named."""
    model = adapted()
    model.classifier.register_full_backward_hook(lambda *_: (torch.full((4, 32), torch.inf),))
    run = stepper(model, max_skipped=3)
    for _ in range(4):
        run.launch(batches(4))
    with pytest.raises(TrainingError, match=r"step 3: .* not finite 3 steps in a row, last on rows \[0, 1, 2, 3\]"):
        run.read()
