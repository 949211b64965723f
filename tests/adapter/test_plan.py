"""lora_scratch/adapter/plan.py: what an injection would do, without doing it."""

import pytest
import torch
from support.tiny import tiny_distilbert
from torch import nn

from lora_scratch.adapter import LoRAConfig, adapter_layers, count_parameters, dry_run, inject, is_adapted
from lora_scratch.errors import ConfigError

CONFIGS = [
    {},
    {"variant": "dora", "bias": "all"},
    {"targets": ["all-linear"], "rank_pattern": {"lin1": 3}},
    {"targets": ["q_lin", "word_embeddings"], "bias": "lora_only"},
    {"init": "pissa", "alpha_pattern": {"q_lin": 3.0}},
]


@pytest.mark.parametrize("options", CONFIGS)
def test_dry_run_counts_what_inject_then_trains(options):
    """Layers, ranks, alphas and numbers of parameters agree, for every kind."""
    config = LoRAConfig(rank=4, **options)
    plan, model = dry_run(tiny_distilbert(), config), inject(tiny_distilbert(), config)
    layers, count = adapter_layers(model), count_parameters(model)
    assert [layer.name for layer in plan.layers] == list(layers)
    assert [(layer.rank, layer.alpha) for layer in plan.layers] == [(layer.rank, layer.alpha) for layer in layers.values()]
    assert sum(layer.parameters for layer in plan.layers) == count.lora
    assert sum(p.numel() for head in plan.heads.values() for p in head.parameters()) == count.head
    assert sum(p.numel() for p in plan.biases.values()) == count.bias


@pytest.mark.parametrize("options", CONFIGS)
def test_dry_run_changes_nothing(options):
    """Not the weights, not requires_grad, not torch's random state."""
    model = tiny_distilbert()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    str(dry_run(model, LoRAConfig(rank=4, **options)))
    assert not is_adapted(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_dry_run_knows_the_rank_that_pissa_is_stored_at():
    """Twice the rank has to fit: 16 does in 32 -> 32, 17 does not."""
    dry_run(tiny_distilbert(), LoRAConfig(rank=16, init="pissa"))
    with pytest.raises(ConfigError, match=r"rank 17 on .*q_lin with init pissa, .* twice the rank; expected at most 16"):
        dry_run(tiny_distilbert(), LoRAConfig(rank=17, init="pissa"))


def test_layer_that_can_not_be_built_leaves_the_model_as_it_was():
    """What only the layer's class knows is found before anything is replaced; requires_grad is put back."""
    model = nn.ModuleDict({"first": nn.Linear(8, 8), "table": nn.Embedding(9, 8, max_norm=1.0)})
    with pytest.raises(ConfigError, match=r"table: max_norm is 1.0"):
        inject(model, LoRAConfig(rank=2, targets=["first", "table"], head_modules=[]))
    assert type(model["first"]) is nn.Linear
    assert not is_adapted(model)
    assert all(p.requires_grad for p in model.parameters())


def test_dry_run_prints_a_table_with_shapes_and_counts():
    """One row a layer, then totals, the head and the biases."""
    table = str(dry_run(tiny_distilbert(), LoRAConfig(rank=4, targets=["word_embeddings", "lin1"], layers=None, bias="all")))
    lines = [line.split("  ") for line in table.splitlines()]
    assert lines[0][0] == "module"
    assert "distilbert.embeddings.word_embeddings" in table
    assert "Embedding  60 -> 32" in table
    assert "Linear     32 -> 48" in table
    assert "3 layers, lora, init default: 1,008 parameters" in table
    assert "head pre_classifier, trained in full: 1,056 parameters" in table
    assert "biases of the base" in table


def test_dry_run_is_the_plan_of_the_real_model():
    """DistilBERT's shape at rank 8 on q, k and v: 221,184 parameters, as PEFT counts."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    with torch.device("meta"):
        model = DistilBertForSequenceClassification(DistilBertConfig(num_labels=2))
    plan = dry_run(model, LoRAConfig(rank=8))
    assert sum(layer.parameters for layer in plan.layers) == 221_184
