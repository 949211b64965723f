"""lora_scratch/adapter/targets.py: weights in two places are kept tied or the wish is refused, never silently untied."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.adapter.targets import shared_names
from lora_scratch.errors import ConfigError


def bert(*, tied):
    """A masked language model whose output layer has, or has not, the embedding's weight."""
    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        tie_word_embeddings=tied,
    )
    return BertForMaskedLM(config).eval()


def test_shared_names_are_those_of_the_other_place():
    """Found by memory, from either side; nothing for an untied model."""
    decoder, table = "cls.predictions.decoder", "bert.embeddings.word_embeddings"
    assert shared_names(bert(tied=True), table) == [f"{decoder}.weight"]
    assert f"{table}.weight" in shared_names(bert(tied=True), decoder)
    assert not shared_names(bert(tied=False), table)


def test_tied_embedding_is_refused_as_a_target():
    """The error names the other place; the model is as it was, still tied."""
    model = bert(tied=True)
    with pytest.raises(ConfigError, match=r"word_embeddings: it shares its weight with cls.predictions.decoder.weight"):
        inject(model, LoRAConfig(rank=4, targets=["word_embeddings"], head_modules=[]))
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_untied_embedding_is_adapted():
    """And starts as the base."""
    model, ids = bert(tied=False), torch.randint(1, 60, (2, 5))
    expected = model(ids).logits
    inject(model, LoRAConfig(rank=4, targets=["word_embeddings", "query"], head_modules=[]))
    assert torch.equal(model(ids).logits, expected)


def test_tied_head_module_is_refused():
    """Training it in full would train the embedding too."""
    with pytest.raises(ConfigError, match=r"cls: it shares its weight with bert.embeddings.word_embeddings.weight"):
        inject(bert(tied=True), LoRAConfig(rank=4, targets=["query"], head_modules=["cls"]))


def test_other_layers_of_a_tied_model_are_adapted_and_the_tie_kept():
    """Nothing else about a tied model is special."""
    model = inject(bert(tied=True), LoRAConfig(rank=4, targets=["query"], head_modules=[]))
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_module_in_two_places_is_refused():
    """Replacing it in one place would leave the other unadapted."""
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"first": shared, "second": shared})
    with pytest.raises(ConfigError, match=r"first: it shares its weight with second\.weight, second\.bias"):
        inject(model, LoRAConfig(rank=2, targets=["first"], head_modules=[]))
