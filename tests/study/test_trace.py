"""lora_scratch/study/trace.py: the steps are those of the dense formula in float64, and end where the layer ends."""

import math

import pytest
import torch
from support.tiny import tiny_conv1d
from torch import nn

from lora_scratch.layers import DoRALinear, LoRAConv1D, LoRAEmbedding, LoRALinear, NF4Linear, OffsetLoRALinear
from lora_scratch.study.trace import scaling_in_words, trace

KINDS = {
    "lora": lambda: LoRALinear(nn.Linear(6, 4), rank=3, alpha=5),
    "lora without bias": lambda: LoRALinear(nn.Linear(6, 4, bias=False), rank=3, alpha=5),
    "lora on four bits": lambda: LoRALinear(NF4Linear(nn.Linear(6, 4)), rank=3, alpha=5),
    "rslora": lambda: LoRALinear(nn.Linear(6, 4), rank=3, alpha=5, rslora=True),
    "conv1d": lambda: LoRAConv1D(tiny_conv1d(4, 6), rank=3, alpha=5),
    "offset": lambda: OffsetLoRALinear(nn.Linear(6, 4), rank=2, alpha=5),
    "dora": lambda: DoRALinear(nn.Linear(6, 4), rank=3, alpha=5),
    "dora without bias": lambda: DoRALinear(nn.Linear(6, 4, bias=False), rank=3, alpha=5),
    "dora on conv1d": lambda: DoRALinear(tiny_conv1d(4, 6), rank=3, alpha=5),
}


def trained(make):
    """The layer in evaluation with random adapter tensors and start."""
    torch.manual_seed(0)
    layer = make().eval()
    for tensor in (*layer.adapter_tensors().values(), getattr(layer, "start_B", torch.empty(1))):
        tensor.data.normal_()
    return layer


def dense(layer):
    """W as (out, in), A, B and b in float64."""
    weight = layer.weight.detach().double()
    weight = weight if weight.shape == (4, 6) else weight.T
    return weight, layer.lora_A.detach().double(), layer.lora_B.detach().double(), layer.bias


def near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["lora", "lora without bias", "lora on four bits", "rslora", "conv1d"])
def test_trace_steps_equal_the_dense_formula(kind):
    """x Aᵀ, (x Aᵀ) Bᵀ, s times it, x Wᵀ + b and their sum, each to 1e-12."""
    layer, x = trained(KINDS[kind]), torch.randn(2, 5, 6)
    weight, lora_A, lora_B, bias = dense(layer)
    rows, found = x.reshape(10, 6).double(), trace(layer, x)
    base = rows @ weight.T + (0 if bias is None else bias.detach().double())
    scaling = 5 / math.sqrt(3) if kind == "rslora" else 5 / 3
    steps = found.steps
    near(steps["x Aᵀ"], rows @ lora_A.T)
    near(steps["(x Aᵀ) Bᵀ"], rows @ (lora_B @ lora_A).T)
    near(found.update, scaling * rows @ (lora_B @ lora_A).T)
    near(found.base, base)
    near(found.output, rows @ (weight + scaling * lora_B @ lora_A).T + (base - rows @ weight.T))
    assert ("b" in found.shapes) == (bias is not None) == ("+ b" in found.formula)
    assert found.unseen == ""


@pytest.mark.parametrize("kind", ["dora", "dora without bias", "dora on conv1d"])
def test_trace_through_dora_equals_the_dense_formula(kind):
    """The gain is m over the row norms of W + s B A; the update is what (g V − W) adds."""
    layer, x = trained(KINDS[kind]), torch.randn(5, 6)
    weight, lora_A, lora_B, bias = dense(layer)
    direction = weight + 5 / 3 * lora_B @ lora_A
    gain = layer.magnitude.detach().double() / direction.square().sum(1).sqrt()
    found, rows = trace(layer, x), x.double()
    steps = found.steps
    near(steps["g = m / ‖W + s B A‖"][3], gain)
    near(steps["(g − 1) ⊙ x Wᵀ"], rows @ ((gain - 1)[:, None] * weight).T)
    near(steps["g ⊙ s · (x Aᵀ) Bᵀ"], rows @ (gain[:, None] * (direction - weight)).T)
    near(found.update, rows @ (gain[:, None] * direction - weight).T)
    near(found.output, rows @ (gain[:, None] * direction).T + (0 if bias is None else bias.detach().double()))


def test_trace_gives_a_row_of_zeros_in_dora_the_gain_zero():
    """A row without a direction stays zero."""
    layer = trained(KINDS["dora"])
    layer.weight.data[1], layer.lora_B.data[1] = 0, 0
    found = trace(layer, torch.randn(5, 6))
    assert found.steps["g = m / ‖W + s B A‖"][:, 1].tolist() == [0.0] * 5
    assert found.update[:, 1].tolist() == [0.0] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_trace_ends_at_what_the_layer_says(kind):
    """In float32, to rounding."""
    layer, x = trained(KINDS[kind]), torch.randn(2, 5, 6)
    expected = layer(x).detach().reshape(10, 4).double()
    torch.testing.assert_close(trace(layer, x).output, expected, rtol=1e-5, atol=1e-5)


def test_trace_through_an_embedding_takes_columns_of_A():
    """Row i of the table plus s · B A[:, i]."""
    layer = trained(lambda: LoRAEmbedding(nn.Embedding(9, 4), rank=2, alpha=3))
    ids = torch.tensor([[3, 0, 8]])
    found, lora_A, lora_B = trace(layer, ids), layer.lora_embedding_A.double(), layer.lora_embedding_B.double()
    near(found.update, 1.5 * (lora_B @ lora_A).T[ids[0]].detach())
    near(found.base, layer.weight.double()[ids[0]])
    near(found.output, found.base + found.update)
    torch.testing.assert_close(found.output.float(), layer(ids)[0].detach())


def test_trace_says_what_it_does_not_show():
    """An offset's start, and the inside of a kind that it does not know."""

    class Other(LoRALinear):
        """May compute anything."""

        def forward(self, x):
            return self.base(x) + 1

    assert "plain LoRA of twice the rank" in trace(trained(KINDS["offset"]), torch.randn(2, 6)).unseen
    found = trace(trained(lambda: Other(nn.Linear(6, 4), rank=3)), torch.randn(2, 6))
    assert "the steps inside a Other" in found.unseen
    torch.testing.assert_close(found.update, torch.ones(2, 4, dtype=torch.float64))


def test_moved_is_the_norm_of_the_update_over_that_of_the_base_by_row():
    """Worked by hand: base (3, 4), update (0, 1) gives 1/5; no update gives 0, also on a base of zeros."""
    layer = LoRALinear(nn.Linear(2, 2, bias=False), rank=1, alpha=1).eval()
    layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [4.0, 0.0]]))
    layer.lora_A.data.copy_(torch.tensor([[1.0, 0.0]]))
    layer.lora_B.data.copy_(torch.tensor([[0.0], [1.0]]))
    moved = trace(layer, torch.tensor([[1.0, 0.0], [0.0, 1.0]])).moved()
    assert moved.tolist() == [pytest.approx(0.2), 0.0]


def test_scaling_in_words_follows_the_layer():
    """Alpha over r, over √r, or the number alone."""
    assert scaling_in_words(KINDS["lora"]()) == "s = alpha / r = 5 / 3 = 1.66667"
    assert scaling_in_words(KINDS["rslora"]()) == "s = alpha / √r = 5 / √3 = 2.88675"
    layer = KINDS["lora"]()
    layer.scaling = 0.125
    assert scaling_in_words(layer) == "s = 0.125"
