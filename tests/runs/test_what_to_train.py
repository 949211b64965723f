"""lora_scratch/runs/what_to_train.py: what requires a gradient."""

from dataclasses import replace

import pytest
import torch
from support.tiny import tiny_distilbert

from lora_scratch.adapter import LoRAConfig, adapter_layers, is_adapted
from lora_scratch.errors import ConfigError
from lora_scratch.model.base import Base
from lora_scratch.runs import make_trainable, resolve_head_start, resolve_trainable
from lora_scratch.training import TrainingConfig

CONFIG = LoRAConfig(rank=2, alpha=3)


def trained_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_adapter_alone_leaves_the_head_frozen():
    """A and B of every target, nothing else."""
    model = tiny_distilbert()
    make_trainable(model, "adapter", CONFIG, seed=0)
    assert trained_names(model) == {f"{name}.lora_{side}" for name in adapter_layers(model) for side in "AB"}


def test_all_is_every_parameter_in_float32_and_no_adapter():
    """GradScaler refuses float16 gradients."""
    model = tiny_distilbert().half()
    make_trainable(model, "all", CONFIG, seed=0)
    assert not is_adapted(model)
    assert trained_names(model) == {name for name, _ in model.named_parameters()}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_head_is_the_head_alone():
    """No adapter, and the base is as it was."""
    model = tiny_distilbert()
    make_trainable(model, "head", replace(CONFIG, head_modules=["classifier"]), seed=0)
    assert not is_adapted(model)
    assert trained_names(model) == {"classifier.weight", "classifier.bias"}


def test_bitfit_is_every_bias_and_the_head():
    """Those of the norms too, as in the paper."""
    model = tiny_distilbert()
    make_trainable(model, "bitfit", replace(CONFIG, head_modules=["pre_classifier", "classifier"]), seed=0)
    biases = {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    assert trained_names(model) == biases | {"pre_classifier.weight", "classifier.weight"}
    assert "distilbert.embeddings.LayerNorm.bias" in biases


def test_bitfit_refuses_a_model_without_biases():
    """As Llama is."""
    with pytest.raises(ConfigError, match="--trainable bitfit: the model has no biases"):
        make_trainable(torch.nn.Linear(3, 2, bias=False), "bitfit", CONFIG, seed=0)


def base_of(model, *new):
    return Base(model, None, "tiny", tuple(new))


@pytest.mark.parametrize("trainable", ["head", "bitfit"])
def test_random_values_outside_the_head_are_refused(trainable):
    """The model would keep noise; the message names the module."""
    base = base_of(tiny_distilbert(), "pre_classifier.weight", "classifier.weight")
    assert resolve_trainable(base, trainable, CONFIG, base_precision="full").head_modules == ["pre_classifier", "classifier"]
    with pytest.raises(ConfigError, match=r"pre_classifier\.weight would keep random values"):
        resolve_trainable(base, trainable, replace(CONFIG, head_modules=["classifier"]), base_precision="full")
    with pytest.raises(ConfigError, match=f"--trainable {trainable}: with --base_precision nf4"):
        resolve_trainable(base, trainable, CONFIG, base_precision="nf4")


@pytest.mark.parametrize(
    ("new", "keeps", "start"),
    [((), False, "loaded"), (("classifier.weight",), False, "auto"), (("classifier.weight",), True, "loaded")],
)
def test_a_trained_head_is_not_thrown_away_for_a_fit(new, keeps, start):
    """`auto` fits a new head alone; the base's own and that of the adapter to start from stay."""
    base = base_of(tiny_distilbert(), *new)
    assert resolve_head_start(TrainingConfig(head_start="auto"), base, keeps_head=keeps).head_start == start
    probe = TrainingConfig(head_start="probe")
    if keeps:  # the record would say that the head was kept
        with pytest.raises(ConfigError, match=r"--head_start probe: --start_from keeps its .*leave --head_start out"):
            resolve_head_start(probe, base, keeps_head=True)
    else:
        assert resolve_head_start(probe, base, keeps_head=False).head_start == "probe"
