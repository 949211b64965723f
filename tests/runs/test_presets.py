"""lora_scratch/runs/presets.py: the recipe for encoders serves models of one's own and keeps what it says of itself."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from lora_scratch.adapter import LoRAConfig, count_parameters, inject
from lora_scratch.runs import DataOptions, ModelOptions, RunOptions, parse
from lora_scratch.runs.presets import BASIC, PRESETS, RECOMMENDED
from lora_scratch.training import TrainingConfig

KINDS = (ModelOptions, DataOptions, LoRAConfig, TrainingConfig, RunOptions)
OWN = ["--preset", "encoder", "--model", "mine", "--dataset", "rows"]


def test_the_encoder_recipe_takes_ones_own_model_and_data_and_yields_to_flags():
    """The preset first, the flags over it."""
    model, data, adapter, training, _ = parse(KINDS, "", arguments=[*OWN, "--epochs", "2"])
    assert (model.model, data.dataset, training.epochs) == ("mine", "rows", 2)
    assert (adapter.targets, adapter.rank, adapter.alpha) == (["all-linear"], 4, 8.0)
    assert (training.learning_rate, training.schedule, training.head_start) == (1e-3, "cosine", "auto")


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


@pytest.mark.parametrize("name", [name for name in PRESETS if name != RECOMMENDED])
def test_a_preset_names_every_setting_of_the_recommended_recipe(name):
    """Or its run would change with the recipe."""
    assert PRESETS[RECOMMENDED].keys() <= PRESETS[name].keys()


def test_the_basic_preset_is_the_librarys_own_defaults():
    """One word for LoRAConfig() and TrainingConfig()."""
    settings = {**vars(LoRAConfig()), **vars(TrainingConfig())}
    assert PRESETS[BASIC] == {name: settings[name] for name in PRESETS[BASIC]}


def test_without_a_preset_the_recipe_of_the_command_counts():
    """train.py passes the recommended one; the run is not called after it."""
    job = ["--model", "mine", "--dataset", "rows"]
    _, _, adapter, training, run = parse(KINDS, "", arguments=job, recipe=RECOMMENDED)
    assert (adapter.targets, adapter.rank, adapter.alpha) == (["all-linear"], 4, 8.0)
    assert (training.schedule, training.head_start, run.preset) == ("cosine", "auto", None)
    _, _, adapter, training, _ = parse(KINDS, "", arguments=job)
    assert (adapter, training) == (LoRAConfig(), TrainingConfig())


@pytest.mark.parametrize("name", ["demo", "emotion", "basic"])
def test_the_recipe_of_the_command_does_not_reach_a_preset(name):
    """A preset means the same in every command."""
    job = ["--preset", name, "--model", "mine", "--dataset", "rows"]
    plain, other = (parse(KINDS, "", arguments=job, recipe=recipe) for recipe in (BASIC, RECOMMENDED))
    assert plain == other


def test_help_shows_the_defaults_of_the_recipe(capsys):
    """Not those of the library, which the command does not use."""
    with pytest.raises(SystemExit):
        parse(KINDS, "", arguments=["--help"], recipe=RECOMMENDED)
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: ['all-linear'])" in text
    assert "(default: cosine)" in text
