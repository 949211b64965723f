"""scripts/benchmarks/acceptance: every proof holds in small form, and fails where what it proves is broken."""

from types import SimpleNamespace

import pytest
import torch

from lora_scratch.commands.benchmarks.acceptance import equality, lever_speed, loop_proofs, memory_proofs, parts, row_proofs
from lora_scratch.commands.benchmarks.acceptance import setup as acceptance_setup
from lora_scratch.commands.benchmarks.acceptance.recorder import RepeatingRecorder
from lora_scratch.commands.benchmarks.acceptance.setup import Setup, build_model, random_rows
from lora_scratch.fast import cuda_graphs
from lora_scratch.fast.path import FastPath
from lora_scratch.fast.segments import exact_attention
from lora_scratch.training import loop, state

CPU = Setup(torch.device("cpu"))


class StaleRecorder(RepeatingRecorder):
    """Replays nothing: the loss and the gradients of no batch."""

    def record(self, computation):
        recorded, result = super().record(computation)
        recorded.computation = lambda: result.new_tensor(1.0)
        return recorded, result


class OtherDropout(RepeatingRecorder):
    """Replays with random numbers of another stream, as a generator that is not part of the graph."""

    def record(self, computation):
        def seeded():
            torch.manual_seed(99)
            return computation()

        return super().record(seeded)


def test_recorded_steps_are_compared_with_eager_ones():
    """With dropout and accumulation, in all precisions: bits from the fake, and every shape was recorded."""
    finding = equality.graph_against_eager(CPU)
    assert finding.holds is True
    assert [each["equal_bits"] for each in finding.figures.values()] == [True] * 3
    assert {each["recorded_shapes"] for each in finding.figures.values()} == {6}
    assert finding.line.startswith("small form on a CPU, with a fake recorder: fp32: equal bits")


@pytest.mark.parametrize("recorder", [StaleRecorder, OtherDropout])
def test_graphs_that_replay_something_else_are_not_accepted(recorder, monkeypatch):
    """Stale losses and zero gradients, or other random numbers: outside the tolerance of float32."""
    monkeypatch.setattr(Setup, "recorder", lambda self: recorder())
    monkeypatch.setattr(equality, "TOLERANCES", {"fp32": equality.TOLERANCES["fp32"]})
    finding = equality.graph_against_eager(CPU)
    assert finding.holds is False
    assert "fp32 recorded 0 shapes: trains without CUDA graphs: a recorded graph computes something else" in finding.line
    monkeypatch.setattr(torch, "allclose", lambda *_, **__: True)  # the test at the recording, off
    monkeypatch.setattr(cuda_graphs.Snapshot, "is_near", lambda *_: True)
    assert "fp32 differs" in equality.graph_against_eager(CPU).line


def test_graphs_that_were_never_recorded_prove_nothing(monkeypatch):
    """The reason is told."""
    monkeypatch.setattr(Setup, "recorder", lambda self: RepeatingRecorder(refuses="record"))
    monkeypatch.setattr(equality, "TOLERANCES", {"fp32": equality.TOLERANCES["fp32"]})
    finding = equality.graph_against_eager(CPU)
    assert finding.holds is False
    assert "fp32 recorded 0 shapes: trains without CUDA graphs: operation not permitted" in finding.line


def test_rows_by_number_are_the_padded_ones_and_their_graphs_the_eager_steps():
    """In bits for the graphs of the fake; to the tolerance for padding and buckets, which are summed in another order."""
    padded, graphs, kernels = (
        proof(CPU) for proof in (row_proofs.rows_against_padded, row_proofs.rows_graph_against_eager, row_proofs.kernels)
    )
    assert [finding.holds for finding in (padded, graphs, kernels)] == [True] * 3
    assert all(errors["equal_bits"] and errors["recorded_shapes"] >= 1 for errors in graphs.figures.values())
    assert padded.figures["fp32"]["loss_error"] < 1e-5 > padded.figures["fp32, large buckets"]["loss_error"]


def test_rows_that_are_mixed_up_are_not_accepted(monkeypatch):
    """Attention over all tokens: the losses and the kernel's own test show it."""

    def mixing(q, k, v, starts, longest, scaling, dropout):
        alone = [torch.tensor([0, len(x)], dtype=torch.int32) for x in (q, k)]
        return exact_attention(q, k, v, alone, longest, scaling, dropout)

    monkeypatch.setattr(row_proofs, "kernel_for", lambda *_: mixing)
    assert "fp32 differs" in row_proofs.rows_against_padded(CPU).line
    monkeypatch.setattr(row_proofs, "exact_attention", mixing)
    assert row_proofs.kernels(CPU).holds is False


def test_every_lever_of_a_gpu_is_timed():
    """With all, and without each."""
    finding = lever_speed.lever_speed(CPU)
    assert [*finding.figures["batch 4"]] == ["all", "without graphs", "without packing", "without both"]
    assert all(value > 0 for value in finding.figures["batch 4"].values())


def test_a_model_that_can_not_be_captured_trains_on():
    """At the rehearsal and in the capture; one warning each."""
    finding = equality.fallback(CPU)
    assert finding.holds is True
    assert [len(each["warned"]) for each in finding.figures.values()] == [1, 1]


@pytest.mark.parametrize(
    ("broken", "problem"),
    [("drops", "dropout does not drop"), ("refusal", "it was recorded"), ("numbers", "its losses are not those of eager")],
)
def test_a_broken_fallback_is_not_accepted(broken, problem, monkeypatch):
    """Dropout that stays off, a recording all the same, and other random numbers after the failure."""
    if broken == "drops":
        monkeypatch.setattr(equality, "DROPOUT", 0.0)
    elif broken == "refusal":
        monkeypatch.setattr(equality, "RepeatingRecorder", lambda refuses: RepeatingRecorder())
    else:
        monkeypatch.setattr(cuda_graphs, "set_random_state", lambda state: torch.manual_seed(99))
    finding = equality.fallback(CPU)
    assert finding.holds is False
    assert problem in finding.line


def test_an_error_that_is_no_number_is_not_close():
    """Wherever it stands among the losses."""
    assert equality.relative_error([1.0, 2.0], [1.0, 2.2]) == pytest.approx(0.1)
    for losses in ([float("nan"), 2.0], [1.0, float("nan")]):
        errors = {"loss_error": equality.relative_error([1.0, 2.0], losses), "weight_error": 0.0}
        assert not equality.is_close(errors, "bf16")


class SyncMode:
    """torch.cuda.set_sync_debug_mode on a machine without a GPU."""

    def __init__(self):
        self.mode, self.steps_in_error_mode = "default", 0

    def set(self, mode):
        self.mode = mode


@pytest.fixture
def sync_mode(monkeypatch):
    fake = SyncMode()
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", fake.set)
    monkeypatch.setitem(loop.READ_EVERY, "cpu", 5)
    return fake


def test_no_step_between_two_readings_waits(sync_mode, monkeypatch):
    """All of them run under the error mode, the readings do not, and the mode is as before at the end."""
    modes = []
    usual = loop.Stepper.launch

    def launch(self, *arguments, **options):
        modes.append(sync_mode.mode)
        return usual(self, *arguments, **options)

    monkeypatch.setattr(loop.Stepper, "launch", launch)
    usual_read = loop.Stepper.read
    finding = loop_proofs.no_host_wait(CPU, warm=8, steps=15)
    assert finding.holds is True
    assert finding.line == "15 steps launched without a wait"
    assert modes.count("error") == 15 == len(modes) - modes.index("error")
    assert sync_mode.mode == "default"
    assert loop.Stepper.read is usual_read


def test_a_step_that_waits_is_an_error(sync_mode, monkeypatch):
    """torch raises; the part fails with its message."""

    def build(setup, *, dropout):
        def wait(*_):
            if sync_mode.mode == "error":
                raise RuntimeError("called a synchronizing CUDA operation")

        model = build_model(setup, dropout=dropout)
        model.register_forward_hook(wait)
        return model

    monkeypatch.setattr(loop_proofs, "build_model", build)
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        loop_proofs.no_host_wait(CPU, warm=8, steps=15)
    assert sync_mode.mode == "default"


def test_a_loop_that_ends_before_enough_steps_proves_nothing(sync_mode, monkeypatch):
    """A few rows only."""
    monkeypatch.setattr(loop_proofs, "random_rows", lambda count, longest: random_rows(40, longest=longest))
    assert loop_proofs.no_host_wait(CPU, warm=2, steps=15).holds is False


def test_a_resumed_training_is_the_undisturbed_one():
    """In bits on a CPU, with dropout, stopped between two checkpoints."""
    finding = loop_proofs.resume(CPU)
    assert finding.holds is True
    assert finding.figures["equal_bits"] is True


def test_a_resumed_training_with_other_random_numbers_is_not_accepted(monkeypatch):
    """The generators of the checkpoint are not put back."""
    monkeypatch.setattr(state, "set_random_state", lambda state: None)
    assert loop_proofs.resume(CPU).holds is False


def test_losses_here_are_those_of_a_cpu(monkeypatch):
    """The same to 1e-3; another model is not."""
    finding = loop_proofs.cpu_against_cuda(CPU)
    assert finding.holds is True
    assert 0 < finding.figures["loss_error"] < 1e-4  # the two paths differ, and the losses would show it
    seeds = iter(range(2))

    def build(setup, *, dropout):
        model = build_model(setup, dropout=dropout)
        with torch.no_grad():
            model.classifier.weight.mul_(1 + 1e-2 * next(seeds))
        return model

    monkeypatch.setattr(loop_proofs, "build_model", build)
    assert loop_proofs.cpu_against_cuda(CPU).holds is False


@pytest.mark.parametrize(("mixed", "holds"), [(129, True), (131, False)])
def test_memory_of_all_widths_is_at_most_1_3_times_that_of_the_widest(mixed, holds, monkeypatch):
    """What graphs keep is judged; the most on the way, and from narrow to wide, is only told."""
    orders = []

    def reserved(setup, widths):
        orders.append(list(widths))
        return {1: (100, 150), 2: (mixed, 190), 3: (500, 900)}[len(orders)]

    monkeypatch.setattr(memory_proofs, "_reserved_by", reserved)
    finding = memory_proofs.reserved_memory(CPU)
    assert finding.holds is holds
    assert finding.figures["ratio"] == mixed / 100
    assert "1.90 at the peak, 5.00 from narrow to wide" in finding.line
    assert orders[0] == [128] * 4
    assert orders[2] == sorted(orders[1]) != orders[1]


def test_memory_is_that_of_steps_which_are_recorded(monkeypatch):
    """Every width comes often enough, and nothing of it is held afterwards."""
    seen = []
    monkeypatch.setattr(FastPath, "close", lambda self: seen.append(len(self.graphs.recorded)))
    kept, peak = memory_proofs._reserved_by(CPU, [8, 16, 8, 16] * 2)
    assert kept <= peak
    assert seen == [0, 3]  # of the model's own path, and of the stepper's: two widths and the update


def test_training_goes_on_in_pieces_when_memory_runs_out(monkeypatch):
    """With the losses of a run that had enough; where it never ran out, nothing is proven."""
    finding = memory_proofs.out_of_memory(CPU)
    assert finding.holds is True
    assert finding.figures["pieces"] == 2
    monkeypatch.setattr(memory_proofs, "_refuse_many_rows", lambda *_: None)
    assert memory_proofs.out_of_memory(CPU).holds is False


def test_the_limit_of_memory_is_above_the_model_and_lifted_afterwards(monkeypatch):
    """As a share of the GPU's memory, also after an error."""
    fractions = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=1000))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: fractions.append(share))
    setup, held = Setup(torch.device("cuda")), SimpleNamespace(model_bytes=100)
    with pytest.raises(ZeroDivisionError), memory_proofs._limit(setup, None, held, 150):
        raise ZeroDivisionError
    assert fractions == [0.25, 1.0]


def test_every_batch_of_the_proofs_has_padding_and_every_shape_comes_back():
    """A batch without padding may take another attention kernel, which draws other random numbers."""
    steps = equality.steps_of(CPU)
    shapes = [tuple(batch.input_ids.shape) for step in steps for batch in step]
    assert all((batch.attention_mask == 0).any() for step in steps for batch in step)
    assert all(shapes.count(shape) >= 3 for shape in shapes)
    assert len({len(step) for step in steps}) == 1


def test_the_small_model_is_the_same_in_all_bits_and_its_losses_depend_on_what_it_computes():
    """Else a proof that compares losses would hold for any model."""
    one, other = (build_model(CPU, dropout=0.0) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    (batch,) = acceptance_setup.mixed_steps(CPU, count=1, rows=[16], widths=[16])[0]
    logits = one(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert logits.std() > 0.5
    for layer in parts_of_adapter(one):
        torch.nn.init.zeros_(layer)
    assert (one(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits - logits).abs().max() > 1e-2


def parts_of_adapter(model):
    return [p for name, p in model.named_parameters() if "lora_B" in name]


def test_parts_have_names_of_their_own_and_budgets():
    """Proofs that need no speed come first; every batch size has its gate."""
    names = [part.name for part in parts.PARTS]
    assert len(set(names)) == len(names)
    gates = {part.name: part.gate.bound for part in parts.PARTS if part.gate}
    assert gates == {"speed-32": 4.0, "speed-256": 1.5, "speed-1024": 1.0}
    assert all(part.budget_s > 0 for part in parts.PARTS)
