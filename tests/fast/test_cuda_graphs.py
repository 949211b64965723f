"""lora_scratch/fast/cuda_graphs.py: batches that are replayed give the losses and gradients of batches that are not."""

import copy

import pytest
import torch
from support.tiny import tiny_distilbert, tiny_rows

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.data import collate
from lora_scratch.fast.cuda_graphs import CudaRecorder
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.training import MetricsLog, TrainingConfig, train
from lora_scratch.training.step import Stepper

ROWS = tiny_rows()
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class Tape:
    """Does on a CPU what a CUDA graph does: a replay computes from the same buffers into the same tensor."""

    def __init__(self, *, refuses=None):
        self.refuses, self.recordings, self.replays, self.runs = refuses, 0, 0, 0

    def run(self, computation):
        self.runs += 1
        return computation()

    def record(self, computation):
        if self.refuses is not None:
            raise self.refuses
        self.recordings += 1
        result = torch.zeros(())

        def replay():
            self.replays += 1
            result.copy_(computation())

        return replay, result


def stepper(*, device="cpu", precision="fp32", dropout=0.0):
    torch.manual_seed(0)
    model = inject(tiny_distilbert(dropout=dropout), LoRAConfig(rank=4, alpha=8, dropout=dropout), seed=0).train().to(device)
    config = TrainingConfig(learning_rate=1e-2, warmup_ratio=0)
    return Stepper(model, config, precision=resolve_precision(precision, torch.device(device)), total_steps=100)


def batches(device="cpu"):
    """Steps of one and two micro-batches, in three shapes, each of which comes back."""
    groups = [
        [[0, 1, 2]],
        [[3, 4, 5], [6, 7]],
        [[8, 9, 10]],
        [[11, 12, 13], [14, 15]],
        [[16, 17, 18]],
        [[19, 20, 21], [22, 23]],
    ]
    rows = ROWS.to(device)
    return [[collate(rows, each, pad_token_id=0, multiple=ROWS.max_tokens) for each in group] for group in groups]


def outcome(run, steps):
    """Reports of the steps, and the weights after them."""
    torch.manual_seed(1)
    reports = [run(step) for step in steps]
    return reports, {name: p.detach().clone() for name, p in run.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_replayed_steps_are_the_steps_in_every_bit(precision):
    """Also with dropout, with micro-batches of other shapes in between, and with float16's scale."""
    plain, graphed, tape = stepper(precision=precision, dropout=0.1), stepper(precision=precision, dropout=0.1), Tape()
    graphed.use_graphs(tape)
    expected, found = outcome(plain, batches()), outcome(graphed, batches())
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], tensor) for name, tensor in expected[1].items())
    assert (tape.recordings, tape.replays, tape.runs) == (3, 6, 3)  # each shape: once as usual, then recorded and replayed


def test_a_parameter_without_a_gradient_is_still_without_one():
    """A gradient of zeros in its place would decay it, and nobody would see that it learns nothing."""
    run = stepper()
    run.use_graphs(Tape())
    run.model.register_parameter("bystander", torch.nn.Parameter(torch.ones(2)))
    run.optimizer.add_param_group({"params": [run.model.bystander], "lr": 1.0, "weight_decay": 0.5})
    run.peak_rates.append(1.0)
    outcome(run, batches())
    assert run.model.bystander.grad is None
    assert run.model.bystander.tolist() == [1, 1]


def test_what_can_not_be_recorded_goes_on_as_usual_and_is_said_once():
    """The same numbers, one warning."""
    plain, graphed = stepper(), stepper()
    graphed.use_graphs(Tape(refuses=RuntimeError("operation not permitted when stream is capturing\nmore")))
    with pytest.warns(UserWarning, match=r"^trains without CUDA graphs: operation not permitted .* capturing$") as said:
        found = outcome(graphed, batches())
    expected = outcome(plain, batches())
    assert len(said) == 1
    assert all(torch.equal(found[1][name], tensor) for name, tensor in expected[1].items())


def test_memory_that_runs_out_while_recording_is_the_steppers_to_handle():
    """It goes through the batch in pieces; those are other shapes."""
    run = stepper()
    run.use_graphs(Tape(refuses=torch.OutOfMemoryError("CUDA out of memory")))
    same = [batches()[0], batches()[0]]
    expected, _ = outcome(stepper(), same)
    with pytest.warns(UserWarning, match="batches go through in 2 pieces"):
        found, _ = outcome(run, same)
    assert [each.loss for each in found] == pytest.approx([each.loss for each in expected], rel=1e-5)


def test_a_wider_batch_has_the_same_loss_and_gradient():
    """Filling takes no part: width is rounded up so that few shapes serve all batches."""
    narrow, wide = stepper(), stepper()
    short = (ROWS.lengths < ROWS.max_tokens).nonzero().flatten()[:3].tolist()
    one, other = (collate(ROWS, short, pad_token_id=0, multiple=multiple) for multiple in (1, ROWS.max_tokens))
    assert one.input_ids.shape[1] < other.input_ids.shape[1]
    first, second = narrow([one]), wide([other])
    assert first.loss == pytest.approx(second.loss, rel=1e-6)
    assert first.gradient_norm == pytest.approx(second.gradient_norm, rel=1e-5)


def config(**settings):
    return TrainingConfig(epochs=3, batch_size=4, learning_rate=1e-2, precision="fp32", **settings)


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_replays_what_it_computes(precision):
    """One graph for each shape, and the weights of the steps that were launched kernel by kernel."""
    plain, graphed = stepper(device="cuda", precision=precision), stepper(device="cuda", precision=precision)
    graphed.use_graphs(CudaRecorder())
    expected, found = outcome(plain, batches("cuda")), outcome(graphed, batches("cuda"))
    assert len(graphed.backward.recorded) == 3
    for name, tensor in expected[1].items():
        assert torch.allclose(found[1][name], tensor, atol=1e-4), name


@needs_gpu
def test_a_gpu_is_not_waited_for_between_two_readings():
    """Once its shape is recorded, a step launches and goes on: torch turns any synchronisation into an error here."""
    run = stepper(device="cuda", precision="bf16")
    run.use_graphs(CudaRecorder())
    steps = batches("cuda")
    outcome(run, steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in steps:
            run.launch(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not any(report.skipped for report in run.read())


@needs_gpu
def test_training_on_a_gpu_learns_what_training_on_a_cpu_learns():
    """The whole loop: resident rows, rounded widths, graphs, late readings; a line for every step all the same."""
    results = {}
    for device in ("cpu", "cuda"):
        log = MetricsLog()
        model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8, dropout=0.0), seed=0)
        train(model, ROWS, ROWS, config(device=device), pad_token_id=0, log=log, show_progress=False)
        results[device] = [event["loss"] for event in log.events if event["event"] == "step"]
    assert results["cuda"] == pytest.approx(results["cpu"], rel=1e-2)


def test_the_tape_is_no_cheat():
    """It computes from the buffers of the recording: a batch that was not copied into them would show."""
    run, tape = stepper(), Tape()
    run.use_graphs(tape)
    first, second, third = (collate(ROWS, rows, pad_token_id=0, multiple=12) for rows in ([0, 1], [2, 3], [4, 5]))
    losses = [float(copy.deepcopy(run).backward(batch, 2)) for batch in (first, second, third)]
    assert [float(run.backward(batch, 2)) for batch in (first, second, third)] == losses
