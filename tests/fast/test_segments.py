"""fast/segments.py: a kernel that is wrong on the machine at hand is not used, whatever is wrong with it."""

import re

import pytest
import torch
import torch.nn.functional as F

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.fast import path, segments
from lora_scratch.fast.packed import packed
from lora_scratch.fast.segments import choose_kernel, exact_attention, kernel_fault
from lora_scratch.runtime.precision import Precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _fresh_choice():
    """The choice is kept for the process."""
    choose_kernel.cache_clear()
    yield
    choose_kernel.cache_clear()


def mixes_rows(q, k, v, starts, longest, scaling, dropout):
    """Reads all tokens as one row."""
    alone = [torch.tensor([0, len(x)], dtype=torch.int32) for x in (q, k)]
    return exact_attention(q, k, v, alone, longest, scaling, dropout)


def keeps_everything(q, k, v, starts, longest, scaling, dropout):
    """Takes a probability and drops nothing, as varlen_attn does."""
    return exact_attention(q, k, v, starts, longest, scaling, 0.0)


def drops_without_scaling(q, k, v, starts, longest, scaling, dropout):
    """Halves the mean where it drops half."""
    return exact_attention(q, k, v, starts, longest, scaling, dropout) * (1 - dropout)


def forgets_the_scaling(q, k, v, starts, longest, scaling, dropout):
    """Multiplies by 1."""
    return exact_attention(q, k, v, starts, longest, 1.0, dropout)


def leaves_the_last_row(q, k, v, starts, longest, scaling, dropout):
    """Writes nothing, so not a number, where the last row is."""
    output = exact_attention(q, k, v, starts, longest, scaling, dropout)
    rows = torch.arange(len(output)) >= starts[0][-2]
    return output.masked_fill(rows[:, None, None], torch.nan)


def refuses(q, k, v, starts, longest, scaling, dropout):
    """Is not made for this GPU."""
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nmore")


class _DropsAnew(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v, dropout):
        ctx.dropout = dropout
        return F.dropout(v, dropout)

    @staticmethod
    def backward(ctx, grad):
        return F.dropout(grad, ctx.dropout), None


def drops_other_entries_backward(q, k, v, starts, longest, scaling, dropout):
    """The backward pass draws a mask of its own."""
    return exact_attention(q, k, _DropsAnew.apply(v, dropout), starts, longest, scaling, 0.0)


FAULTS = {
    mixes_rows: "off by",
    keeps_everything: "drops by another law",
    drops_without_scaling: "drops by another law",
    forgets_the_scaling: "off by",
    leaves_the_last_row: "off by nan",
    refuses: "raises RuntimeError: FlashAttention only supports Ampere GPUs or newer.$",
    drops_other_entries_backward: "drops other entries in its backward pass",
}


@pytest.mark.parametrize("head_dim", [8, 64])
def test_the_formula_passes_its_own_test(head_dim):
    """And the random numbers are as before."""
    before = torch.get_rng_state()
    assert kernel_fault(exact_attention, CPU, torch.float32, head_dim) == ""
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kernel", FAULTS, ids=lambda kernel: kernel.__name__)
def test_every_kind_of_fault_is_found(kernel):
    """Outputs, gradients, the law of dropout, the mask of the backward pass, errors."""
    fault = kernel_fault(kernel, CPU, torch.float32, 16)
    assert re.search(FAULTS[kernel], fault), fault


def test_the_first_kernel_that_is_right_is_chosen(monkeypatch):
    """Else none, with a line for each: first that of flash attention, where the dtype has it."""
    monkeypatch.setattr(segments, "flash_attention", refuses)
    monkeypatch.setattr(segments, "efficient_attention", exact_attention)
    assert choose_kernel(CPU, torch.bfloat16, 16) == (exact_attention, "")
    monkeypatch.setattr(segments, "efficient_attention", mixes_rows)
    kernel, fault = choose_kernel(CPU, torch.float16, 16)
    assert kernel is None
    assert fault.startswith(
        "refuses raises RuntimeError: FlashAttention only supports Ampere GPUs or newer.; mixes_rows is off"
    )
    assert choose_kernel(CPU, torch.float32, 16)[1].startswith("mixes_rows is off")


def test_a_gpu_without_a_right_kernel_trains_with_padding_and_says_so_once(monkeypatch):
    """One line, and the graphs stay."""
    from support.families import tiny

    model = inject(tiny("bert"), LoRAConfig(rank=4, alpha=8), seed=0)
    monkeypatch.setattr(path, "CudaRecorder", lambda device: "a recorder")
    monkeypatch.setattr(path, "choose_kernel", lambda *_: (None, "flash_attention is off by 1.0e+00 of the rms"))
    with packed(model), pytest.warns(UserWarning, match="trains with padding on this GPU: flash_attention is off") as said:
        chosen = path.gpu_path(model, Precision(torch.bfloat16, CUDA))
    assert len(said) == 1
    assert chosen.kernel is None
    assert chosen.graphs.recorder == "a recorder"


def test_each_lever_can_be_left_out(monkeypatch):
    """For measurements; without trained tensors there is nothing to record."""
    from support.families import tiny

    model = inject(tiny("bert"), LoRAConfig(rank=4, alpha=8), seed=0)
    precision = Precision(torch.float32, CUDA)
    monkeypatch.setattr(path, "CudaRecorder", lambda device: "a recorder")
    monkeypatch.setattr(path, "choose_kernel", lambda *_: (exact_attention, ""))
    with packed(model):
        chosen = {name: path.gpu_path(model, precision, without=[name]) for name in path.LEVERS}
        both = path.gpu_path(model, precision)
        frozen = path.gpu_path(model.requires_grad_(False), precision)
    assert (both.kernel, both.records_steps) == (exact_attention, True)
    assert (chosen["graphs"].kernel, chosen["graphs"].records_steps) == (exact_attention, False)
    assert (chosen["packing"].kernel, chosen["packing"].records_steps) == (None, True)
    assert (frozen.kernel, frozen.records_steps) == (None, False)
