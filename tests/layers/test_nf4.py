"""lora_scratch/layers/nf4.py: the levels of the paper, the nearest code for every weight, the product."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dispatched import dispatched
from torch import nn

from lora_scratch.layers import DoRALinear, LoRALinear, NF4Linear, OffsetLoRALinear, initialize
from lora_scratch.layers.nf4 import BLOCK, nf4_levels
from lora_scratch.testing import check_all, move_adapter

# Dettmers et al. 2023, appendix E
PAPER = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
WIDEST_GAP = 1 - 0.6961928009986877  # between the two lowest levels


def linear(inputs=96, outputs=40, *, bias=True, dtype=torch.float32, seed=0, std=0.02):
    """A layer with normal weights, as trained ones are about."""
    made = nn.Linear(inputs, outputs, bias=bias)
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return made.to(dtype)


def test_levels_are_those_of_the_paper():
    """Derived from normal quantiles, not written down: to the last digit that float32 prints."""
    assert nf4_levels().tolist() == pytest.approx(PAPER, abs=2e-7)
    assert nf4_levels()[7] == 0


def test_every_weight_gets_the_nearest_level_of_its_block():
    """No other of the sixteen levels, times the same scale, is closer."""
    base = linear(inputs=64, outputs=20)
    layer = NF4Linear(base)
    scales = layer._block_scales()[:, None, None]
    candidates = scales * nf4_levels()  # (blocks, 1, 16)
    weight = base.weight.detach().view(-1, BLOCK, 1)
    best = (weight - candidates).abs().amin(2)
    found = (layer.weight.view(-1, BLOCK) - weight[..., 0]).abs()
    assert torch.allclose(found, best, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 40),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_error_is_bounded_by_half_a_gap_and_half_a_step(inputs, outputs, seed, dtype):
    """|Ŵ − W| ≤ s · gap/2 + step/2 for any size, also odd ones and ones that fill no block."""
    base = linear(inputs, outputs, seed=seed, dtype=dtype)
    layer = NF4Linear(base)
    scales = layer._block_scales().repeat_interleave(BLOCK)[: inputs * outputs].view(outputs, inputs)
    steps = layer.constants.view(torch.float32)[1:]
    bound = scales * WIDEST_GAP / 2 + steps.max() / 2 + 1e-9
    assert layer.weight.shape == base.weight.shape
    assert ((layer.weight - base.weight.float()).abs() <= bound).all()


def test_a_normal_weight_loses_about_nine_percent_and_half_the_levels_of_int4_waste_nothing():
    """The relative error of NF4 on normal numbers, below that of sixteen even steps over the same range."""
    base = linear(768, 768)
    weight = base.weight.detach()
    error = (NF4Linear(base).weight - weight).norm() / weight.norm()
    blocks = weight.view(-1, BLOCK)
    step = 2 * blocks.abs().amax(1, keepdim=True) / 15
    even = ((blocks / step - 0.5).round() + 0.5).mul(step).view_as(weight)
    assert 0.08 < error < 0.10
    assert error < 0.95 * (even - weight).norm() / weight.norm()


def test_weight_takes_0_129_of_its_float32_bytes():
    """4 + 8/64 + 32/(64 · 256) bits of 32, and one float32 for the mean."""
    base = linear(768, 768)
    assert NF4Linear(base).stored_bytes == 768 * 768 // 2 + 768 * 768 // 64 + 4 * (768 * 768 // (64 * 256)) + 4
    assert NF4Linear(base).stored_bytes / (4 * base.weight.numel()) == pytest.approx(0.129, abs=5e-4)


def test_zeros_stay_zeros_and_equal_weights_stay_themselves():
    """A pruned block, a block of one magnitude, and a layer of nothing but zeros."""
    base = linear(64, 3, bias=False)
    with torch.no_grad():
        base.weight[0] = 0
        base.weight[1] = 0.25
    layer = NF4Linear(base)
    assert not layer.weight[0].any()
    assert torch.allclose(layer.weight[1], torch.tensor(0.25), rtol=1e-2)
    nn.init.zeros_(base.weight)
    assert not NF4Linear(base).weight.any()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(96,), (5, 96), (2, 3, 96)])
def test_product_and_gradient_are_those_of_the_dense_formula(bias, shape):
    """y = x Ŵᵀ + b and dL/dx = dL/dy Ŵ in float64; the codes have no gradient."""
    layer = NF4Linear(linear(bias=bias)).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    dense = x @ layer.weight.double().T + (layer.bias if bias else 0.0)
    found = layer(x)
    assert torch.allclose(found, dense, atol=1e-13)
    weights = torch.randn_like(found)
    assert torch.allclose(
        torch.autograd.grad((found * weights).sum(), x)[0], torch.autograd.grad((dense * weights).sum(), x)[0], atol=1e-13
    )
    assert not [name for name, _ in layer.named_parameters() if name != "bias"]


def test_gradient_agrees_with_finite_differences():
    """The hand-written backward pass, checked by torch."""
    layer = NF4Linear(linear(6, 4)).double()
    assert torch.autograd.gradcheck(layer, torch.randn(3, 6, dtype=torch.float64, requires_grad=True))


def test_nothing_dense_is_kept_for_the_backward_pass():
    """Neither x nor Ŵ: in its memory the layer is as small in training as on the disk."""
    layer, kept = NF4Linear(linear(bias=False)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(5, 96, requires_grad=True)).sum().backward()
    assert not [t for t in kept if t.numel() > 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_compute_dtype_is_autocasts_or_that_of_x(dtype):
    """Rounded once from float32, like a dense frozen weight."""
    layer = NF4Linear(linear())
    x = torch.randn(5, 96)
    with torch.autocast("cpu", dtype=dtype):
        found = layer(x)
    assert found.dtype is dtype
    expected = nn.functional.linear(x.to(dtype), layer.weight.to(dtype)) + layer.bias.to(dtype)
    assert torch.equal(found, expected)
    assert layer.to(dtype)(x.to(dtype)).dtype is dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_moving_the_model_to_another_dtype_leaves_the_weight_alone(dtype):
    """Scales in bfloat16 would be 0.4 % off: they are stored as bytes, which `.to(dtype)` does not touch."""
    layer = NF4Linear(linear())
    before = layer.weight.clone()
    assert torch.equal(layer.to(dtype).weight, before)
    assert layer.weight.dtype is torch.float32


def test_state_dict_restores_every_bit():
    """Into a layer that was quantized from other numbers."""
    one, other = NF4Linear(linear(seed=1)), NF4Linear(linear(seed=2))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.weight, other.weight)
    assert set(one.state_dict()) == {"codes", "scales", "constants", "bias"}


def test_a_product_makes_no_levels_and_copies_nothing_from_another_device():
    """The table of levels lies beside the codes: on a GPU a copy from the host waits, and no graph can record it."""
    layer, x = NF4Linear(linear()), torch.randn(2, 3, 96, requires_grad=True)
    with dispatched() as operators:
        layer(x).sum().backward()
    assert not {"linspace", "special_ndtri", "flip", "lift_fresh"} & set(operators.names)
    copies = [options.get("dtype") for name, options in operators.calls if name == "_to_copy"]
    assert copies == [torch.int32, torch.float32] * 2  # codes and scales, in the forward pass and in the backward pass
    assert len(operators.kernels) <= 25


def test_the_table_of_levels_moves_with_the_layer_and_is_copied_with_it():
    """To another device, into another dtype without a rounded bit, and by deepcopy; no file holds it."""
    layer = NF4Linear(linear())
    table = layer.pairs.clone()
    assert layer.pairs.view(torch.float32).unique().tolist() == nf4_levels().tolist()
    assert torch.equal(copy.deepcopy(layer).pairs, table)
    assert copy.deepcopy(layer).pairs.data_ptr() != layer.pairs.data_ptr()
    assert torch.equal(copy.deepcopy(layer).to(torch.bfloat16).half().pairs, table)
    assert "pairs" not in layer.state_dict()
    assert layer.to("meta").pairs.device.type == "meta"


def test_the_quantized_layer_leaves_the_one_it_came_from_alone():
    """Its weight in every bit, and whether its bias wants a gradient."""
    base = linear()
    before = base.weight.clone()
    NF4Linear(base)
    assert torch.equal(base.weight, before)
    assert base.bias.requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(value):
    """One such number would take its whole block with it."""
    base = linear()
    with torch.no_grad():
        base.weight[3, 5] = value
    with pytest.raises(ValueError, match="expected finite numbers"):
        NF4Linear(base)


@pytest.mark.parametrize("bias", [True, False])
def test_lora_on_four_bits_obeys_the_laws_of_an_adapter_layer(bias):
    """All but those that merge, which is refused, or that put the base into another dtype, which codes do not have."""
    merging = ["merge_equals_forward", "unmerge_restores", "modes_leave_weights", "disabled_is_base"]
    other_dtypes = ["dense_formula", "dtypes_and_shapes"]
    layer = partial(LoRALinear, rank=2, alpha=3)
    check_all(lambda: layer(NF4Linear(linear(6, 4, bias=bias))), torch.randn(5, 6), skip=[*merging, *other_dtypes])


def test_lora_on_four_bits_is_the_dense_formula():
    """x Ŵᵀ + b + scaling · x Aᵀ Bᵀ, away from the start."""
    layer = LoRALinear(NF4Linear(linear(12, 7)), rank=3, alpha=5)
    move_adapter(layer)
    x = torch.randn(4, 12)
    dense = x @ (layer.base.weight + 5 / 3 * layer.lora_B @ layer.lora_A).T + layer.bias
    assert torch.allclose(layer(x), dense, atol=1e-5)
    assert torch.allclose(layer.effective_weight(), layer.base.weight + layer.delta_weight())


@pytest.mark.parametrize("cls", [LoRALinear, DoRALinear, OffsetLoRALinear])
def test_merging_into_four_bits_is_refused_and_changes_nothing(cls):
    """The update would have to be rounded to sixteen levels: call dequantize_base first."""
    layer = cls(NF4Linear(linear(12, 8)), rank=2, alpha=3)
    with pytest.raises(RuntimeError, match=r"^merge: the base is quantized; call dequantize_base\(model\) first$"):
        layer.merge()
    assert not layer.merged


def test_dora_on_four_bits_has_the_row_norms_of_the_quantized_weight():
    """V = Ŵ + scaling · B A, and its gradient reaches A, B and the magnitude."""
    layer = DoRALinear(NF4Linear(linear(12, 7)), rank=3, alpha=5, dropout=0.2)
    assert torch.equal(layer.magnitude, layer.base.weight.norm(dim=1)) or torch.allclose(
        layer.magnitude, layer.base.weight.norm(dim=1)
    )
    move_adapter(layer)
    total = layer.base.weight + 5 / 3 * layer.lora_B @ layer.lora_A
    assert torch.allclose(layer.row_norm(), total.norm(dim=1), rtol=1e-5)
    layer(torch.randn(4, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.adapter_tensors().values())


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_starts_from_the_weight_work_on_four_bits(method):
    """The principal part of Ŵ; the layer starts as its base, exactly."""
    layer = OffsetLoRALinear(NF4Linear(linear(12, 8)), rank=2, alpha=3)
    initialize(layer, method)
    x = torch.randn(4, 12)
    assert layer.lora_B.abs().sum() > 0
    assert torch.equal(layer(x), layer.base(x))


@pytest.mark.parametrize("weight", [torch.ones(4, 8, dtype=torch.int64), torch.empty(0, 8)])
def test_a_weight_without_numbers_to_round_is_refused(weight):
    """Whole numbers, and none at all."""
    linear = nn.Linear(8, 4)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(ValueError, match="weight"):
        NF4Linear(linear)


def test_it_says_what_it_is():
    """In a model that is printed."""
    assert "in_features=64, out_features=4, bias=True, 4 bits" in repr(NF4Linear(nn.Linear(64, 4)))
    assert "bias=False" in repr(NF4Linear(nn.Linear(64, 4, bias=False)))
