"""lora_scratch/layers/conv1d.py: LoRA where the weight stands as (in, out)."""

import pytest
import torch
from support.tiny import tiny_conv1d
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_scratch.layers import LoRAConv1D, LoRALinear, adapter_class
from lora_scratch.layers.conv1d import out_in, stores_in_out
from lora_scratch.testing import check_all, move_adapter


def make(**options):
    """A layer whose in, out, rank and alpha are all different."""
    return LoRAConv1D(tiny_conv1d(4, 6), **{"rank": 2, "alpha": 3} | options)


@pytest.mark.parametrize("options", [{}, {"rslora": True, "alpha": 5}, {"dropout": 0.5}])
def test_conv1d_obeys_the_laws_of_an_adapter_layer(options):
    """All of them."""
    check_all(lambda: make(**options), torch.randn(3, 5, 6))


def test_conv1d_equals_lora_on_the_transposed_linear_layer():
    """The same A and B on nn.Linear with Wᵀ give the same output and the transposed ΔW."""
    layer = make()
    move_adapter(layer)
    linear = nn.Linear(6, 4)
    twin = LoRALinear(linear, 2, 3)
    twin.load_state_dict({**layer.state_dict(), "base.weight": layer.weight.T})
    x = torch.randn(5, 6)
    torch.testing.assert_close(layer(x), twin(x))
    assert torch.equal(layer.delta_weight(), twin.delta_weight().T)
    layer.merge()
    twin.merge()
    torch.testing.assert_close(layer(x), twin(x))


def test_conv1d_is_recognised_by_its_full_name():
    """transformers' class is found without importing it; a class that only has its short name is not it."""
    imposter = type("Conv1D", (nn.Linear,), {})
    assert adapter_class("lora", Conv1D(4, 6)) is LoRAConv1D
    assert adapter_class("lora", imposter(4, 6)) is None
    assert stores_in_out(Conv1D(4, 6))
    assert not stores_in_out(nn.Linear(4, 6))


def test_out_in_is_the_weight_as_out_by_in():
    """(out, in) for both, and its own inverse."""
    conv, linear = Conv1D(4, 6), nn.Linear(6, 4)
    assert out_in(conv, conv.weight).shape == out_in(linear, linear.weight).shape == (4, 6)
    assert out_in(conv, out_in(conv, conv.weight)).shape == conv.weight.shape


@pytest.mark.parametrize(
    ("options", "message"), [({"rank": 5}, "1 to 4"), ({"alpha": -1}, "alpha"), ({"dropout": 1}, "dropout")]
)
def test_conv1d_refuses_arguments_out_of_bounds(options, message):
    """The same bounds as LoRALinear's."""
    with pytest.raises(ValueError, match=message):
        make(**options)
