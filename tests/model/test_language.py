"""lora_scratch/model/language.py: an output layer over the vocabulary is no head."""

import pytest
from support.causal import MODELS, TARGETS, user_inputs, user_model
from support.families import tiny

from lora_scratch.adapter import LoRAConfig, count_parameters, inject, quantize_base
from lora_scratch.adapter.state import adapter_state
from lora_scratch.model.language import language_heads

LANGUAGE_MODELS = [kind for kind in MODELS if kind != "vit"]


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_language_model_gets_lora_and_no_head(kind):
    """Llama's lm_head was most of the trained numbers; GPT-2's is tied, and the injection was refused."""
    model = inject(user_model(kind), LoRAConfig(rank=2, targets=[TARGETS[kind]]))
    count = count_parameters(model)
    assert adapter_state(model).config.head_modules == []
    assert count.head == 0
    assert count.trainable == count.lora > 0
    assert model(**user_inputs(kind)).logits.isfinite().all()


@pytest.mark.parametrize("kind", [*LANGUAGE_MODELS, "untied t5"])
def test_all_linear_leaves_the_output_layer_out(kind):
    """As in PEFT: an update of the output layer is as large as the vocabulary."""
    model = user_model("t5", tie_word_embeddings=False) if kind == "untied t5" else user_model(kind)
    heads = language_heads(model)
    assert heads == ["cls" if kind == "bert" else "lm_head"]
    inject(model, LoRAConfig(rank=2, targets=["all-linear"]))
    assert not [target for target in adapter_state(model).config.targets if target.startswith(tuple(heads))]


def test_four_bits_leave_the_output_layer_out():
    """Its rounding would go straight into the probabilities."""
    assert not [name for name in quantize_base(user_model("llama")).names if name.startswith("lm_head")]


def test_head_that_is_named_is_trained():
    """The default is for the output layer; whoever names it gets it."""
    model = inject(user_model("llama"), LoRAConfig(rank=2, targets=["q_proj"], head_modules=["lm_head"]))
    assert count_parameters(model).head == 50 * 32


@pytest.mark.parametrize("family", ["bert", "gpt2", "distilbert"])
def test_classifier_is_no_language_model(family):
    """Its head is trained in full."""
    model = tiny(family)
    assert language_heads(model) == []
    assert count_parameters(inject(model, LoRAConfig(rank=2, targets=["all-linear"]))).head > 0
