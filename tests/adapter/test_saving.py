"""lora_scratch/adapter/saving.py: what `save_pretrained` writes reloads with the same outputs."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from safetensors import safe_open
from support.causal import MODELS, TARGETS, user_inputs, user_model
from torch import nn

from lora_scratch.adapter import (
    LoRAConfig,
    adapter_layers,
    dequantize_base,
    disabled,
    inject,
    merge_and_remove,
    quantize_base,
    remove_adapter,
)
from lora_scratch.errors import ConfigError, MergeError


def adapted(kind="vit", **settings):
    """An adapted model whose update is not zero."""
    model = inject(user_model(kind), LoRAConfig(rank=2, targets=[TARGETS[kind]], **settings))
    for layer in adapter_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    return model


def outputs(model, kind="vit"):
    """The logits of the two rows."""
    with torch.no_grad():
        return model(**user_inputs(kind)).logits


def reloaded(model, folder, **options):
    """A model of the same class, read from the folder, after a check that nothing in it is random."""
    again, info = type(model).from_pretrained(folder, output_loading_info=True, **options)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    return again.eval()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_saved_model_reloads_with_the_same_outputs(kind, variant, tmp_path):
    """The plain model with merged weights is written; the adapted one stays as it is, bit for bit."""
    model = adapted(kind, variant=variant)
    before, keys = outputs(model, kind), set(model.state_dict())
    with pytest.warns(UserWarning, match="gets the plain model, adapter merged; save_adapter writes the adapter alone"):
        model.save_pretrained(tmp_path / "saved")
    again = reloaded(model, tmp_path / "saved")
    assert torch.allclose(outputs(again, kind), before, atol=2e-5)
    assert not torch.allclose(outputs(again, kind), outputs(user_model(kind), kind), atol=5e-5)
    assert torch.equal(outputs(model, kind), before)
    assert set(model.state_dict()) == keys
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        assert not [key for key in set(file.keys()) if "lora" in key or ".base." in key]


def pickled(model):
    """The model after a round trip through pickle."""
    return pickle.loads(pickle.dumps(model))  # noqa: S301


@pytest.mark.filterwarnings("ignore:.*gets the plain model")
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, torch.compile])
def test_copies_and_compiled_models_save_themselves(copied, tmp_path):
    """A copy saves its own weights, not those of the model it was copied from."""
    model = adapted()
    other = copied(model)
    layer = next(iter(adapter_layers(other).values()))
    nn.init.normal_(layer.lora_B, std=0.5)
    other.save_pretrained(tmp_path / "saved")
    assert torch.allclose(
        outputs(reloaded(model, tmp_path / "saved")), outputs(model if copied is torch.compile else other), atol=2e-5
    )


@pytest.mark.filterwarnings("ignore:.*gets the plain model")
def test_encoder_alone_is_saved_merged(tmp_path):
    """`model.vit` is a model of its own, with adapted layers."""
    model = adapted()
    model.vit.save_pretrained(tmp_path / "saved")
    again = reloaded(model.vit, tmp_path / "saved", add_pooling_layer=False)
    with torch.no_grad():
        pair = [m(**user_inputs("vit")).last_hidden_state for m in (again, model.vit)]
    assert torch.allclose(*pair, atol=2e-5)


@pytest.mark.filterwarnings("ignore:.*gets the plain model")
def test_a_disabled_adapter_is_not_saved(tmp_path):
    """What is written is what the model computes: inside `disabled`, the base."""
    model = adapted()
    with disabled(model):
        model.save_pretrained(tmp_path / "saved")
    assert torch.equal(outputs(reloaded(model, tmp_path / "saved")), outputs(user_model("vit")))


@pytest.mark.filterwarnings("ignore:.*gets the plain model")
def test_four_bit_base_is_saved_as_numbers(tmp_path):
    """With an adapter and without one."""
    model = user_model("vit")
    quantize_base(model)
    model.save_pretrained(tmp_path / "base")
    assert torch.allclose(outputs(reloaded(model, tmp_path / "base")), outputs(model), atol=2e-5)
    inject(model, LoRAConfig(rank=2, targets=["q_proj"]))
    nn.init.normal_(next(iter(adapter_layers(model).values())).lora_B)
    model.save_pretrained(tmp_path / "saved")
    assert torch.allclose(outputs(reloaded(model, tmp_path / "saved")), outputs(model), atol=2e-5)
    remove_adapter(model)
    dequantize_base(model)
    assert "save_pretrained" not in vars(model)


@pytest.mark.filterwarnings("ignore:.*gets the plain model")
def test_state_dict_of_the_caller_is_checked(tmp_path):
    """Accelerate's users pass it. The model's own values are written; a part of a tensor is refused."""
    model = adapted()
    model.save_pretrained(tmp_path / "saved", state_dict=model.state_dict())
    assert torch.allclose(outputs(reloaded(model, tmp_path / "saved")), outputs(model), atol=2e-5)
    part = {name: tensor.flatten()[:1] for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match="split over processes"):
        model.save_pretrained(tmp_path / "part", state_dict=part)


def test_weight_that_is_not_finite_is_refused(tmp_path):
    """Before anything is written."""
    model = adapted()
    next(iter(adapter_layers(model).values())).lora_B.data[0, 0] = torch.nan
    with pytest.raises(MergeError, match="the merged weight is not finite"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.filterwarnings("ignore:.*gets the plain model")
def test_plain_state_is_not_loaded_into_an_adapted_model(tmp_path):
    """With strict=False torch would leave the adapted layers out without an error."""
    model, plain = adapted(), user_model("vit")
    before = outputs(model)
    with pytest.raises(ConfigError, match=r"that of a plain model: it has vit.*weight and no tensor of its adapter"):
        model.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(outputs(model), before)
    remove_adapter(model).load_state_dict(plain.state_dict())


def test_state_dict_is_as_before_and_loads_into_an_adapted_model():
    """`torch.save(model.state_dict())` holds base and adapter."""
    model = adapted()
    assert set(model.state_dict()) == set(copy.deepcopy(model).state_dict())
    other = inject(user_model("vit"), LoRAConfig(rank=2, targets=["q_proj"]))
    other.load_state_dict(model.state_dict())
    assert torch.equal(outputs(other), outputs(model))


@pytest.mark.parametrize("end", [remove_adapter, merge_and_remove])
def test_model_without_the_adapter_is_saved_as_usual(end, tmp_path):
    """No attribute and no hook stays, also in a copy."""
    model = end(copy.deepcopy(adapted()))
    assert not {"save_pretrained"} & {*vars(model), *vars(model.vit)}
    assert not model._load_state_dict_pre_hooks
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(outputs(reloaded(model, tmp_path / "saved")), outputs(model))


def test_model_is_freed_when_its_last_name_is_gone():
    """Its saver holds it weakly: no cycle keeps gigabytes until the next collection."""
    model = adapted()
    reference = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert reference() is None
    finally:
        gc.enable()


def test_models_of_other_libraries_are_left_alone():
    """What has no save_pretrained gets none."""
    model = inject(nn.Sequential(nn.Linear(4, 4)), LoRAConfig(rank=2, targets=["0"], head_modules=[]))
    assert not hasattr(model, "save_pretrained")
