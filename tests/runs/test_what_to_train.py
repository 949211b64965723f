"""lora_scratch/runs/what_to_train.py: what requires a gradient."""

import torch
from support.tiny import tiny_distilbert

from lora_scratch.adapter import LoRAConfig, adapter_layers, is_adapted
from lora_scratch.runs import make_trainable

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
