"""lora_scratch/layers/offset.py: a start that is not zero, subtracted from the update instead of from the base."""

import pytest
import torch
from support.tiny import tiny_conv1d
from torch import nn

from lora_scratch.layers import LoRALinear, OffsetLoRALinear, stored_tensors
from lora_scratch.testing import check_all, move_adapter

BASES = {"linear": lambda: nn.Linear(12, 8), "conv1d": lambda: tiny_conv1d(8, 12)}


def make(base="linear", **options):
    """A layer that starts at random factors, neither of them zero."""
    layer = OffsetLoRALinear(BASES[base](), **{"rank": 2, "alpha": 3} | options)
    layer.start_at(torch.randn(2, 12), torch.randn(8, 2))
    return layer


@pytest.mark.parametrize("base", BASES)
def test_offset_obeys_the_laws_of_an_adapter_layer(base):
    """All but the bound on the rank, which is 2·rank here."""
    check_all(lambda: make(base), torch.randn(5, 12), skip=["low_rank"])


@pytest.mark.parametrize("base", BASES)
def test_offset_has_at_most_twice_the_rank(base):
    """ΔW = scaling · (B A − B₀ A₀)."""
    layer = make(base)
    move_adapter(layer)
    assert torch.linalg.matrix_rank(layer.delta_weight()) == 4


def test_offset_is_the_difference_of_two_products():
    """The telescoped factors give B A − B₀ A₀, in float64 to 1e-12."""
    layer = make().double()
    move_adapter(layer)
    expected = layer.scaling * (layer.lora_B @ layer.lora_A - layer.start_B @ layer.start_A)
    torch.testing.assert_close(layer.delta_weight(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_offset_starts_as_the_base_bit_for_bit_with_dropout_and_autocast(training):
    """Every term has a factor of exact zeros, whatever the dtype and the mask."""
    layer = make(dropout=0.5).train(training)
    x = torch.randn(5, 12)
    assert torch.equal(layer(x), layer.base(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer.base(x))
    assert not layer.delta_weight().any()


def test_offset_feels_a_step_below_the_resolution_of_bfloat16():
    """A and A₀ are subtracted in float32: a relative step of 1e-4 acts, although both round to one bfloat16 number."""
    layer = make()
    layer.start_at(torch.ones(2, 12), torch.ones(8, 2))
    with torch.no_grad():
        layer.lora_A.mul_(1 + 1e-4)
    assert torch.equal(layer.lora_A.bfloat16(), layer.start_A.bfloat16())
    x = torch.ones(1, 12)
    with torch.autocast("cpu", torch.bfloat16):
        update = layer.scaling * nn.functional.linear(
            nn.functional.linear(x, layer.plain_factors()[0]), layer.plain_factors()[1]
        )
    torch.testing.assert_close(update.float(), torch.full((1, 8), 1.5 * 2 * 12 * 1e-4), rtol=1e-2, atol=0)


def test_offset_is_stored_as_plain_lora_of_twice_the_rank():
    """The stored factors in a LoRALinear with the same scaling are the same function."""
    layer = make()
    move_adapter(layer)
    stored = stored_tensors(layer)
    plain = LoRALinear(layer.base, 4, 6)
    with torch.no_grad():
        plain.lora_A.copy_(stored["lora_A.weight"])
        plain.lora_B.copy_(stored["lora_B.weight"])
    assert plain.scaling == layer.scaling
    x = torch.randn(5, 12)
    torch.testing.assert_close(plain(x), layer(x))


def test_stored_tensors_of_another_layer_are_its_own():
    """In its own memory, and a write to them counts as a write to the parameter."""
    layer = LoRALinear(nn.Linear(6, 4), 2)
    stored, before = stored_tensors(layer)["lora_A.weight"], layer.lora_A._version
    stored.zero_()
    assert not layer.lora_A.any()
    assert layer.lora_A._version > before


def test_offset_refuses_a_rank_that_could_not_be_stored():
    """Twice the rank has to fit the layer."""
    with pytest.raises(ValueError, match="1 to 4"):
        OffsetLoRALinear(nn.Linear(12, 8), 5)


def test_offset_trains_what_it_calls_a_and_b():
    """Under PEFT's names; the start is no parameter."""
    layer = make()
    named = layer.adapter_tensors()
    assert named.keys() == {"lora_A.weight", "lora_B.weight"}
    assert named["lora_A.weight"] is layer.lora_A
    assert named["lora_B.weight"] is layer.lora_B
