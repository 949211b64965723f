"""lora_scratch/serialization/contents.py: what is collected is what is trained, and what the file holds."""

import pytest
import torch
from safetensors.torch import load_file
from support.families import tiny

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.errors import ConfigError
from lora_scratch.serialization import AdapterContents, save_adapter
from lora_scratch.testing import move_adapter

OPTIONS = [{}, {"variant": "dora"}, {"bias": "all"}, {"bias": "lora_only"}, {"head_modules": ["classifier"]}]


def adapted(family="distilbert", **options):
    """A model whose adapter is away from its start."""
    model = inject(tiny(family), LoRAConfig(**{"rank": 4, "alpha": 6, "dropout": 0.0} | options))
    move_adapter(model)
    return model


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_trained_tensors_are_the_memory_of_the_trainable_parameters(options):
    """All of them and no other: what loading writes to is what training changed."""
    model = adapted(**options)
    trainable = {p.data_ptr() for p in model.parameters() if p.requires_grad}
    assert {tensor.data_ptr() for tensor in AdapterContents.of(model).trained.values()} == trainable


@pytest.mark.parametrize("options", [*OPTIONS, {"init": "pissa"}], ids=str)
def test_tensors_are_those_of_the_file(tmp_path, options):
    """Bit for bit, and every one of them."""
    model = adapted(**options)
    contents = AdapterContents.of(model)
    stored = load_file(save_adapter(model, tmp_path / "a") / "adapter_model.safetensors")
    assert contents.tensors.keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in contents.tensors.items())


def test_companions_are_the_frozen_tensors_that_peft_takes_for_heads():
    """A trained bias of such a module is none of them."""
    names = {"base_model.model.pre_classifier.weight", "base_model.model.pre_classifier.bias"}
    contents = AdapterContents.of(adapted(head_modules=["classifier"]))
    assert contents.companions.keys() == names
    assert contents.tensors.keys() - contents.trained.keys() == names
    with_bias = AdapterContents.of(adapted(head_modules=["classifier"], bias="all"))
    assert with_bias.companions.keys() == {"base_model.model.pre_classifier.weight"}
    assert "base_model.model.pre_classifier.bias" in with_bias.biases


def test_conv1d_says_that_it_stores_in_out():
    """PEFT needs to know."""
    assert AdapterContents.of(adapted("gpt2", targets=["c_attn"])).stores_in_out
    assert not AdapterContents.of(adapted()).stores_in_out


def test_a_plain_model_has_none():
    """Nothing was injected."""
    with pytest.raises(ConfigError, match="the model has no adapter"):
        AdapterContents.of(tiny("distilbert"))
