"""lora_scratch/training/guard.py: an adapter that does not learn is an error, and so is a frozen weight that moves."""

import pytest
import torch
from support.tiny import tiny_distilbert

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.errors import TrainingError
from lora_scratch.training.guard import MovementGuard


@torch.no_grad()
def move_adapter(model, *, but=()):
    for name, layer in adapter_layers(model).items():
        if name not in but:
            for tensor in layer.adapter_tensors().values():
                tensor.add_(1e-3)


def adapted():
    return inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8))


def test_guard_is_silent_when_every_adapter_tensor_moved():
    """The healthy case."""
    model = adapted()
    guard = MovementGuard(model)
    move_adapter(model)
    guard.check()


def test_guard_names_the_modules_that_stand_still():
    """A dead module is named, with its tensors."""
    model = adapted()
    guard = MovementGuard(model)
    dead = "distilbert.transformer.layer.1.attention.k_lin"
    move_adapter(model, but=[dead])
    with pytest.raises(TrainingError, match=f"2 adapter tensors have not moved, first {dead}.lora_A.weight"):
        guard.check()


@pytest.mark.parametrize("change", ["one bit", "two values swapped"])
def test_guard_names_a_frozen_weight_that_changed(change):
    """One changed bit is enough, and so is a mere change of order."""
    model = adapted()
    guard = MovementGuard(model)
    move_adapter(model)
    weight = model.distilbert.transformer.layer[0].ffn.lin1.weight.data
    if change == "one bit":
        weight.view(torch.int32)[3, 4] ^= 1
    else:
        weight[0, 0], weight[5, 5] = weight[5, 5].clone(), weight[0, 0].clone()
    with pytest.raises(TrainingError, match=r"frozen weights have changed: .*layer\.0\.ffn\.lin1\.weight"):
        guard.check()
