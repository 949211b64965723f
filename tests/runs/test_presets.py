"""lora_scratch/runs/presets.py: the recipe for encoders serves models of one's own and keeps what it says of itself."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from lora_scratch.adapter import LoRAConfig, count_parameters, inject
from lora_scratch.runs import DataOptions, ModelOptions, RunOptions, parse
from lora_scratch.training import TrainingConfig

KINDS = (ModelOptions, DataOptions, LoRAConfig, TrainingConfig, RunOptions)
OWN = ["--preset", "encoder", "--model", "mine", "--dataset", "rows"]


def test_the_encoder_recipe_takes_ones_own_model_and_data_and_yields_to_flags():
    """The preset first, the flags over it."""
    model, data, adapter, training, _ = parse(KINDS, "", arguments=[*OWN, "--epochs", "2"])
    assert (model.model, data.dataset, training.epochs) == ("mine", "rows", 2)
    assert (adapter.targets, adapter.rank, adapter.alpha) == (["all-linear"], 4, 8.0)
    assert (training.learning_rate, training.schedule, training.head_start) == (1e-3, "cosine", "probe")


def test_the_encoder_recipe_names_no_model():
    """It is a recipe, not a job: without a model and rows of one's own it is wrong usage."""
    with pytest.raises(SystemExit, match="2"):
        parse(KINDS, "", arguments=["--preset", "encoder"])


def test_the_encoder_recipe_trains_under_one_percent_of_minilm():
    """MiniLM's size (6 layers of 384, 30,522 words): A, B and the head are 0.75 % of all parameters."""
    _, _, adapter, *_ = parse(KINDS, "", arguments=OWN)
    shape = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=6)
    with torch.device("meta"):
        model = BertForSequenceClassification(shape)
    counts = count_parameters(inject(model.to_empty(device="cpu"), adapter))
    assert counts.trainable / counts.total == pytest.approx(0.0075, abs=1e-4)
