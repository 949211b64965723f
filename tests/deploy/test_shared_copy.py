"""lora_scratch/deploy/shared_copy.py: an adapter read as load_adapter reads it, and the model not touched."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import logits, record, tiny
from support.tiny import tiny_distilbert

from lora_scratch import AdapterBank
from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.deploy.shared_copy import load_into_shared_copy, own_labels
from lora_scratch.errors import AdapterFileError
from lora_scratch.serialization import load_adapter, save_adapter
from lora_scratch.testing import move_adapter

WEIGHTS = "adapter_model.safetensors"


def trained(*, labels=3, **options):
    """Adapter and head away from their start."""
    model = inject(tiny_distilbert(labels=labels), LoRAConfig(rank=2, alpha=3, dropout=0.0, **options))
    move_adapter(model)
    with torch.no_grad():
        model.classifier.weight.add_(0.1)
    return model.eval()


@pytest.mark.parametrize("bias", ["none", "all"])
def test_twin_answers_as_the_adapted_model_and_the_model_stays(tmp_path, bias):
    """Bit for bit, both; the weights that stay frozen are the model's own memory."""
    folder = save_adapter(trained(bias=bias), tmp_path / "a")
    model, separate = tiny_distilbert(), tiny_distilbert()
    before = record(model)
    load_adapter(separate, folder)
    twin = load_into_shared_copy(model, folder)
    assert torch.equal(logits(twin.model), logits(separate))
    assert record(model) == before
    mine, theirs = (m.distilbert.transformer.layer[0] for m in (model, twin.model))
    assert mine.ffn.lin1.weight.data_ptr() == theirs.ffn.lin1.weight.data_ptr()
    assert mine.attention.q_lin.weight.data_ptr() == theirs.attention.q_lin.weight.data_ptr()


def test_twin_of_a_model_in_a_bank_is_plain():
    """The bank's layers are left out, its slots are not copied, and the base is compared as always."""
    bank = AdapterBank(tiny_distilbert())
    bank.add("first", trained())
    twin = load_into_shared_copy(bank.model, trained(targets=["k_lin"]))
    assert torch.equal(logits(twin.model), logits(trained(targets=["k_lin"])))
    assert not any("lora_A" in name for name, _ in twin.model.named_buffers())


def test_head_may_have_another_number_of_outputs(tmp_path):
    """As many as the file has; the names come with it."""
    folder = save_adapter(trained(labels=5), tmp_path / "a", notes={"labels": list("abcde")})
    twin = load_into_shared_copy(tiny_distilbert(labels=3), folder)
    assert torch.equal(logits(twin.model), logits(trained(labels=5)))
    assert twin.labels == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("key", ["classifier.bias", "classifier.weight"])
def test_head_whose_weight_and_bias_disagree_is_refused(tmp_path, key):
    """Filling up would make an answer out of it."""
    folder = save_adapter(trained(labels=5), tmp_path / "a")
    (folder / "provenance.json").unlink()
    tensors = load_file(folder / WEIGHTS)
    tensors[f"base_model.model.{key}"] = tensors[f"base_model.model.{key}"][:3].clone()
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(AdapterFileError, match=r"classifier.(weight|bias) has shape \(5.*, expected \(3"):
        load_into_shared_copy(tiny_distilbert(labels=3), folder)


def test_own_labels_are_those_of_the_config():
    """Or none."""
    assert own_labels(tiny("bert", labels=2)) == ("LABEL_0", "LABEL_1")
    assert own_labels(torch.nn.Linear(1, 1)) == ()
