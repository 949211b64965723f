"""lora_scratch/model/families.py: every line of the table against a real model of the family."""

import pytest
from support.families import tiny
from torch import nn

from lora_scratch.model.families import FAMILIES, default_heads, family_name, family_of


@pytest.mark.parametrize("name", FAMILIES)
def test_every_name_of_a_family_is_a_module_of_its_models(name):
    """Query, key, value and output are linear layers, one for each block; `blocks` holds the list of blocks."""
    model, parts = tiny(name), FAMILIES[name]
    depth = model.config.num_hidden_layers
    for part in (*parts.query_key_value, parts.output):
        layers = [module for place, module in model.named_modules() if place.endswith(f".{part}")]
        assert len(layers) == depth, part
        assert all(isinstance(layer, nn.Linear) for layer in layers), part
    assert len(getattr(model.base_model, parts.blocks).layer) == depth


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_told_by_its_model_type(name):
    """Its line of the table, and heads that are no part of the encoder."""
    model = tiny(name)
    assert (family_name(model), family_of(model)) == (name, FAMILIES[name])
    assert default_heads(model)
    assert model.base_model_prefix not in default_heads(model)


def test_a_model_that_is_in_no_line_has_no_family():
    """A bare layer has no name of a family at all, GPT-2 has one that is not in the table."""
    assert (family_name(nn.Linear(1, 1)), family_of(nn.Linear(1, 1))) == ("", None)
    assert (family_name(tiny("gpt2")), family_of(tiny("gpt2"))) == ("gpt2", None)
