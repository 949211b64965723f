"""`all-linear`: every linear layer outside the head, and nothing that can't be adapted without harm."""

import pytest
import torch
from support.tiny import tiny_distilbert
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from lora_scratch.adapter import LoRAConfig, dry_run, inject
from lora_scratch.errors import TargetError

GPT2 = GPT2Config(
    vocab_size=60,
    n_embd=32,
    n_layer=2,
    n_head=2,
    n_positions=32,
    num_labels=3,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=1,
)


def planned(model, **options):
    """The last components of what would be adapted, and the plan."""
    plan = dry_run(model, LoRAConfig(rank=4, targets=["all-linear"], **options))
    return sorted({layer.name.rpartition(".")[2] for layer in plan.layers}), plan


def test_all_linear_leaves_out_the_head():
    """Six kinds of layers in DistilBERT; pre_classifier and classifier are trained in full instead."""
    kinds, plan = planned(tiny_distilbert())
    assert kinds == ["k_lin", "lin1", "lin2", "out_lin", "q_lin", "v_lin"]
    assert len(plan.layers) == 12
    assert list(plan.heads) == ["pre_classifier", "classifier"]


def test_all_linear_takes_a_head_that_is_not_trained():
    """With no head modules the head is a linear layer like others."""
    kinds, _ = planned(tiny_distilbert(), head_modules=[], rank_pattern={"classifier": 3})
    assert {"pre_classifier", "classifier"} <= set(kinds)


def test_all_linear_means_conv1d_in_gpt2_and_no_embedding():
    """What GPT-2 has for linear layers."""
    kinds, plan = planned(GPT2ForSequenceClassification(GPT2))
    assert kinds == ["c_attn", "c_fc", "c_proj"]
    assert list(plan.heads) == ["score"]


def test_all_linear_leaves_out_a_tied_output_layer():
    """lm_head has the embedding's weight: adapting it would untie the two."""
    model = GPT2LMHeadModel(GPT2)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert "lm_head" not in planned(model, head_modules=[])[0]


def test_all_linear_becomes_names_in_the_config():
    """So the file says exactly what was adapted, and PEFT's own idea of all-linear does not come in."""
    _, plan = planned(tiny_distilbert(), layers=[1], exclude=["lin1"])
    assert plan.config.targets == [layer.name for layer in plan.layers]
    assert all(".1." in name and "lin1" not in name for name in plan.config.targets)
    assert len(plan.layers) == 5


def test_all_linear_adapts_and_starts_as_the_base():
    """The whole encoder, bit for bit."""
    ids = torch.randint(1, 60, (2, 5))
    expected = tiny_distilbert()(ids).logits
    model = inject(tiny_distilbert(), LoRAConfig(rank=4, dropout=0, targets=["all-linear"], variant="dora"))
    assert torch.equal(model(ids).logits, expected)


def test_all_linear_without_linear_layers_is_refused():
    """Nothing to adapt is an error, not an empty adapter."""
    with pytest.raises(TargetError, match="no linear layer is left"):
        planned(nn.Sequential(nn.LayerNorm(3)), head_modules=[])
