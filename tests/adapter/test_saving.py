"""lora_scratch/adapter/saving.py: no folder is written whose reload has random weights."""

import copy
import pickle

import pytest
import torch
from support.causal import MODELS, TARGETS, user_inputs, user_model
from torch import nn

from lora_scratch.adapter import (
    LoRAConfig,
    adapter_layers,
    dequantize_base,
    inject,
    merge_and_remove,
    quantize_base,
    remove_adapter,
)
from lora_scratch.errors import ConfigError


def adapted(kind="vit"):
    """An adapted model whose update is not zero."""
    model = inject(user_model(kind), LoRAConfig(rank=2, targets=[TARGETS[kind]]))
    for layer in adapter_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    return model


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", ["save_pretrained", "push_to_hub"])
def test_adapted_model_is_not_saved_as_a_plain_one(kind, method, tmp_path):
    """transformers would write names of its own for the adapted layers, and read random weights back."""
    with pytest.raises(ConfigError, match=r"save_adapter\(model, folder\), or call merge_and_remove"):
        getattr(adapted(kind), method)(str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()


def pickled(model):
    """The model after a round trip through pickle."""
    return pickle.loads(pickle.dumps(model))  # noqa: S301


@pytest.mark.parametrize("wrap", [lambda model: model.vit, copy.deepcopy, pickled, torch.compile])
def test_encoder_copies_and_compiled_models_refuse_too(wrap, tmp_path):
    """The habit is the same, and so is the folder."""
    with pytest.raises(ConfigError, match="the model has an adapter"):
        wrap(adapted()).save_pretrained(tmp_path / "saved")


def test_refusal_changes_neither_state_dict_nor_copies():
    """`torch.save(model.state_dict())` holds base and adapter, and loads into a model with an adapter."""
    model = adapted()
    assert set(model.state_dict()) == set(copy.deepcopy(model).state_dict())
    assert not [key for key in model.state_dict() if "save" in key or "dtype" in key]
    other = inject(user_model("vit"), LoRAConfig(rank=2, targets=["q_proj"]))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(**user_inputs("vit")).logits, model(**user_inputs("vit")).logits)


@pytest.mark.parametrize("end", [remove_adapter, merge_and_remove])
def test_model_without_the_adapter_is_saved_and_reloads_exactly(end, tmp_path):
    """The refusal ends with the adapter, also in a copy, and leaves no attribute."""
    model = end(copy.deepcopy(adapted()))
    assert not {"save_pretrained", "push_to_hub"} & {*vars(model), *vars(model.vit)}
    model.save_pretrained(tmp_path / "saved")
    reloaded = type(model).from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(reloaded(**user_inputs("vit")).logits, model(**user_inputs("vit")).logits)


def test_four_bit_base_is_not_saved_until_it_is_dequantized(tmp_path):
    """Its layers are replaced ones too."""
    model = user_model("vit")
    quantize_base(model)
    remove_adapter(inject(model, LoRAConfig(rank=2, targets=["q_proj"])))
    with pytest.raises(ConfigError, match=r"call dequantize_base\(model\) first"):
        model.save_pretrained(tmp_path / "saved")
    dequantize_base(model)
    model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").exists()


def test_models_of_other_libraries_are_left_alone():
    """What has no save_pretrained gets none."""
    model = inject(nn.Sequential(nn.Linear(4, 4)), LoRAConfig(rank=2, targets=["0"], head_modules=[]))
    assert not hasattr(model, "save_pretrained")
