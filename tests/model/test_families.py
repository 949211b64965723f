"""lora_scratch/model/families.py: every line of the table against a real model of the family."""

import pytest
from support.tiny_models import tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_scratch.adapter.targets import find_targets
from lora_scratch.model.families import FAMILIES, default_heads, family_name, family_note, family_of
from lora_scratch.study.section7 import targets

HEADS = {
    "deberta": ["pooler", "classifier"],
    "deberta-v2": ["pooler", "classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "eurobert": ["dense", "classifier"],
    "modernbert": ["head", "classifier"],
    "xlm": ["sequence_summary"],
    "xlnet": ["sequence_summary", "logits_proj"],
    **{name: ["score"] for name in ("gpt2", "llama", "qwen2", "qwen3")},
    **{name: ["classification_head"] for name in ("bart", "t5")},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_target_and_output_of_a_family_is_a_layer_of_each_of_its_blocks(name):
    """They are linear layers, and as many of each name; `blocks` holds the list of blocks."""
    model, parts = tiny_model(name), FAMILIES[name]
    heads = default_heads(model)
    assert sorted(heads) == sorted(HEADS.get(name, ["classifier"]))
    for part in (*parts.targets, *filter(None, [parts.output])):
        layers = find_targets(model, [part], variant="lora", heads=heads).values()
        assert all(isinstance(layer, nn.Linear | Conv1D) for layer in layers), part
    if parts.blocks:
        assert len(getattr(model.base_model, parts.blocks).layer) == model.config.num_hidden_layers


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_told_by_its_model_type(name):
    """Its line of the table."""
    model = tiny_model(name)
    assert (family_name(model), family_of(model)) == (name, FAMILIES[name])
    assert family_note(model) == FAMILIES[name].lacks


def test_a_model_that_is_in_no_line_has_no_family_and_it_is_said(monkeypatch):
    """A bare layer has no name of a family at all."""
    assert (family_name(nn.Linear(1, 1)), family_of(nn.Linear(1, 1))) == ("", None)
    model = tiny_model("gpt2")
    monkeypatch.delitem(FAMILIES, "gpt2")
    assert family_of(model) is None
    assert family_note(model) == (
        "no default targets for the family gpt2: without --targets, every linear layer outside the head is adapted"
    )


def test_projections_that_are_one_layer_are_not_three():
    """GPT-2 computes queries, keys and values together: section 7 of the paper needs them apart."""
    assert FAMILIES["gpt2"].query_key_value == []
    assert FAMILIES["t5"].query_key_value == ["q", "k", "v"]
    assert targets("mpnet", "qo") == ["attn.q", "attn.o"]
