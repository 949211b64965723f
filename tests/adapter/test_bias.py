"""Trained biases of the base: which, counted apart, off when disabled, restored, and in the file."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.tiny import tiny_distilbert
from torch import nn

from lora_scratch.adapter import (
    LoRAConfig,
    count_parameters,
    disabled,
    inject,
    merge_all,
    merge_and_remove,
    remove_adapter,
    unmerge_all,
)
from lora_scratch.errors import ConfigError
from lora_scratch.serialization import fingerprint, load_adapter, save_adapter

IDS = torch.randint(1, 60, (3, 7), generator=torch.Generator().manual_seed(0))
MODES = ["lora_only", "all"]


@torch.no_grad()
def logits(model):
    """The model's answer in evaluation mode."""
    return model.eval()(IDS).logits


@torch.no_grad()
def moved(model):
    """Every trainable tensor off its start, as after training."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def adapted(bias, **options):
    """Two targets in each of two layers, with biases."""
    return inject(
        tiny_distilbert(), LoRAConfig(rank=4, alpha=6, dropout=0, targets=["q_lin", "k_lin"], bias=bias, **options)
    )


def trained_names(model):
    """The trainable biases outside the head."""
    return {n for n, p in model.named_parameters() if p.requires_grad and n.endswith(".bias") and "classifier" not in n}


@pytest.mark.parametrize("variant", ["lora", "dora"])
@pytest.mark.parametrize("bias", MODES)
def test_disabled_equals_the_base_with_trained_biases(bias, variant):
    """Bit for bit, and the trained biases are back afterwards; merged or not."""
    base = logits(tiny_distilbert())
    model = moved(adapted(bias, variant=variant))
    trained = logits(model)
    for step in (lambda: None, lambda: merge_all(model), lambda: unmerge_all(model)):
        step()
        with disabled(model):
            assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), trained)


def test_lora_only_trains_the_biases_of_the_adapted_layers():
    """Four of them; the layer norms' and the feed-forward's stay frozen."""
    names = trained_names(adapted("lora_only"))
    assert len(names) == 4
    assert all(name.endswith(("q_lin.base.bias", "k_lin.base.bias")) for name in names)


def test_all_trains_every_bias_of_the_base():
    """Linear layers and norms, adapted or not."""
    model = adapted("all")
    assert len(trained_names(model)) == sum(
        "bias" in n and "classifier" not in n for n, _ in tiny_distilbert().named_parameters()
    )
    assert any("LayerNorm.bias" in name for name in trained_names(model))


def test_none_trains_no_bias():
    """The default."""
    assert not trained_names(adapted("none"))


@pytest.mark.parametrize("bias", MODES)
def test_biases_are_counted_apart(bias):
    """trainable = lora + head + bias."""
    count = count_parameters(adapted(bias))
    assert count.bias == (4 * 32 if bias == "lora_only" else count.trainable - count.lora - count.head)
    assert count.head == count_parameters(adapted("none")).head
    assert count.trainable == count.lora + count.head + count.bias


@pytest.mark.parametrize("bias", MODES)
def test_remove_adapter_restores_biases_and_requires_grad(bias):
    """Every bit and every flag as before."""
    plain = tiny_distilbert()
    plain.distilbert.transformer.layer[0].ffn.lin1.bias.requires_grad_(False)
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in plain.named_parameters()}
    remove_adapter(moved(inject(plain, LoRAConfig(rank=4, targets=["q_lin", "lin1"], bias=bias))))
    after = dict(plain.named_parameters())
    assert list(after) == list(before)
    assert all(torch.equal(after[n], v) and after[n].requires_grad is grad for n, (v, grad) in before.items())


@pytest.mark.parametrize("bias", MODES)
def test_every_trained_bias_survives_a_round_trip(bias, tmp_path):
    """Ours and PEFT read the file as the same function."""
    model = moved(adapted(bias))
    save_adapter(model, tmp_path / "a")
    again, peer = tiny_distilbert(), tiny_distilbert()
    load_adapter(again, tmp_path / "a")
    assert torch.equal(logits(again), logits(model))
    assert torch.equal(logits(PeftModel.from_pretrained(peer, tmp_path / "a")), logits(model))


def test_biases_of_adapted_layers_go_under_pefts_name(tmp_path):
    """`.base_layer.bias` there, the plain name elsewhere."""
    save_adapter(adapted("all"), tmp_path / "a")
    names = set(load_file(tmp_path / "a" / "adapter_model.safetensors"))
    layer = "base_model.model.distilbert.transformer.layer.0"
    assert {f"{layer}.attention.q_lin.base_layer.bias", f"{layer}.sa_layer_norm.bias", f"{layer}.ffn.lin1.bias"} <= names


def test_file_of_peft_with_all_biases_is_read(tmp_path):
    """PEFT adds two more copies of each head bias to such a file; what counts is read, bit for bit."""
    model = moved(adapted("all"))
    save_adapter(model, tmp_path / "a")
    PeftModel.from_pretrained(tiny_distilbert(), tmp_path / "a").save_pretrained(tmp_path / "b")
    assert any("original_module" in name for name in load_file(tmp_path / "b" / "adapter_model.safetensors"))
    again = tiny_distilbert()
    load_adapter(again, tmp_path / "b")
    assert torch.equal(logits(again), logits(model))


def test_merge_and_remove_keeps_the_trained_biases():
    """The plain model computes what the adapted one did."""
    model = moved(adapted("all"))
    expected = logits(model)
    torch.testing.assert_close(logits(merge_and_remove(model)), expected)


@pytest.mark.parametrize("bias", MODES)
def test_fingerprint_of_the_base_does_not_depend_on_trained_biases(bias):
    """They are the adapter's, not the base's."""
    model = adapted(bias)
    before = fingerprint(model)
    assert fingerprint(moved(model)) == before


def test_bias_is_refused_where_there_is_none():
    """lora_only on layers without one would train nothing, silently."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match="no bias to train"):
        inject(model, LoRAConfig(rank=2, targets=["0"], head_modules=[], bias="lora_only"))


def test_bias_is_refused_in_half_precision():
    """A bfloat16 bias loses the small steps of training; the model stays as it was."""
    model = tiny_distilbert().bfloat16()
    with pytest.raises(ConfigError, match=r"bfloat16, in which small steps are lost; expected float32"):
        inject(model, LoRAConfig(rank=2, targets=["q_lin"], bias="all"))
    assert all(p.requires_grad for p in model.parameters())


def test_bias_refuses_an_unknown_mode():
    """Named with the modes there are."""
    with pytest.raises(ConfigError, match=r"--bias: found 'lora'; expected one of none, lora_only, all"):
        LoRAConfig(bias="lora")
