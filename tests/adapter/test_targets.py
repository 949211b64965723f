"""lora_scratch/adapter/targets.py: whole dotted components, every pattern matches, and the head is left out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.families import tiny
from torch import nn

from lora_scratch.adapter.targets import (
    check_rank,
    default_targets,
    find_heads,
    find_targets,
    matches,
    nearest,
)
from lora_scratch.errors import ConfigError, TargetError
from lora_scratch.model.families import FAMILIES, default_heads

component = st.text("abk_0", min_size=1, max_size=3)


def found(model, *patterns, heads=()):
    """The names that the patterns find."""
    return list(find_targets(model, patterns, variant="lora", heads=heads))


@given(st.lists(component, min_size=1, max_size=4), st.lists(component, min_size=1, max_size=4))
def test_pattern_matches_exactly_when_its_components_are_the_last_ones(name, pattern):
    """The definition, in lists."""
    assert matches(".".join(name), ".".join(pattern)) == (name[-len(pattern) :] == pattern)


@pytest.mark.parametrize(
    "pattern", ["lin", "_lin", "in", "attention.q", "er.0.attention.q_lin", "layer", "0", "q_lin.", ".q_lin", ""]
)
def test_part_of_a_component_matches_nothing(pattern):
    """PAINS 2: `lin` never means `q_lin`, and a container is no layer."""
    with pytest.raises(TargetError, match="--targets"):
        found(tiny("distilbert"), pattern)


def test_targets_come_in_the_order_of_the_model_whatever_the_order_of_the_patterns():
    """One pattern twice, or two that overlap, adapt a module once."""
    model = tiny("distilbert")
    name = "distilbert.transformer.layer.{}.attention.{}"
    expected = [name.format(layer, part) for layer in (0, 1) for part in ("q_lin", "v_lin")]
    assert found(model, "v_lin", "q_lin") == expected
    assert found(model, "q_lin", "v_lin", "attention.v_lin", "q_lin") == expected
    assert found(model, "layer.1.attention.k_lin") == [name.format(1, "k_lin")]


def test_typo_names_the_nearest_and_lists_what_there_is():
    """PAINS 8 and 9: also where the other patterns match; the names are in the error as data too."""
    with pytest.raises(TargetError) as caught:
        found(tiny("distilbert"), "q_lin", "kq_lin")
    message = str(caught.value)
    assert "no module is called 'kq_lin'; nearest: " in message
    assert " q_lin (2 of 32x32), k_lin (2 of 32x32)" in message
    assert "lin1 (2 of 48x32)" in message
    assert {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"} <= set(caught.value.available)
    assert nearest("kq_lin", caught.value.available)[0] in ("q_lin", "k_lin")


def test_module_that_can_not_be_adapted_is_named_with_its_type():
    """A LayerNorm has no low-rank update."""
    with pytest.raises(TargetError, match=r"sa_layer_norm is a LayerNorm, which lora can't adapt; there are .*q_lin"):
        found(tiny("distilbert"), "sa_layer_norm")


def test_subclass_of_a_linear_layer_is_not_taken_for_one():
    """It may compute something else: exact types only."""

    class Quantized(nn.Linear):
        pass

    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": Quantized(4, 4)})
    assert found(model, "a") == ["a"]
    with pytest.raises(TargetError, match="b is a Quantized"):
        found(model, "b")


def test_head_modules_are_no_targets():
    """PAINS 3: `dense` means the encoder's, not RoBERTa's classifier.dense, which is trained in full."""
    model = tiny("roberta")
    names = found(model, "dense", heads=default_heads(model))
    assert len(names) == 6
    assert all(name.startswith("roberta.encoder.") for name in names)
    with pytest.raises(TargetError, match="no module is called 'out_proj'"):
        found(model, "out_proj", heads=default_heads(model))


def test_head_is_left_out_by_whole_components():
    """A head called `cls` does not take `cls_token_proj` with it."""
    model = nn.ModuleDict({"cls": nn.Linear(4, 4), "cls_proj": nn.Linear(4, 4)})
    assert found(model, "cls_proj", heads=["cls"]) == ["cls_proj"]


@pytest.mark.parametrize(
    ("family", "targets", "heads"),
    [
        ("distilbert", ["q_lin", "k_lin", "v_lin"], ["pre_classifier", "classifier"]),
        ("bert", ["query", "key", "value"], ["classifier"]),
        ("roberta", ["query", "key", "value"], ["classifier"]),
        ("electra", ["query", "key", "value"], ["classifier"]),
    ],
)
def test_family_has_its_targets_and_its_head(family, targets, heads):
    """The presets, and the head found by standing beside the encoder."""
    model = tiny(family)
    assert default_targets(model) == targets
    assert default_heads(model) == heads
    assert len(found(model, *targets, heads=heads)) == 6


def test_family_without_a_preset_lists_its_layers():
    """PAINS 9: what could be named, with counts and shapes."""
    with pytest.raises(
        TargetError, match=r"the model is of no family, .*; name the modules to adapt; there are 0 \(1 of 3x4\)"
    ):
        default_targets(nn.Sequential(nn.Linear(4, 3)))
    assert default_heads(nn.Sequential(nn.Linear(4, 3))) == []


def test_family_without_a_line_in_the_table_is_adapted_in_all_linear_layers(monkeypatch):
    """Whatever its attention is called; the head is trained as a whole."""
    model = tiny("bert")
    monkeypatch.delitem(FAMILIES, "bert")
    assert default_targets(model) == ["all-linear"]
    names = found(model, "all-linear", heads=default_heads(model))
    assert len(names) == 13  # six layers a block, and the pooler
    assert "classifier" not in names


@pytest.mark.parametrize("name", ["classifer", "pre_classifier.", "distilbert.classifier", "dropout", ""])
def test_head_is_found_by_exact_name_only(name):
    """PAINS 2 and 8: no ending, no typo, no module without parameters."""
    with pytest.raises(TargetError, match=r"no module with parameters is called .* exactly; nearest: ") as caught:
        find_heads(tiny("distilbert"), ["classifier", name])
    assert "classifier" in caught.value.available
    assert "" not in caught.value.available


def test_head_name_does_not_take_its_endings_along():
    """PAINS 2: `classifier` is not `pre_classifier`."""
    assert list(find_heads(tiny("distilbert"), ["classifier"])) == ["classifier"]


def test_rank_above_the_smaller_side_is_refused_with_the_shape():
    """PAINS 44: it would add parameters and no freedom. At the bound it is taken."""
    layer = nn.Linear(6, 4, device=torch.device("meta"))
    check_rank("lin", layer, 4)
    with pytest.raises(ConfigError, match="--rank: rank 5 on lin, which is 6 -> 4; expected at most 4"):
        check_rank("lin", layer, 5)
