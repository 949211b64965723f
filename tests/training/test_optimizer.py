"""lora_scratch/training/optimizer.py: who is trained, at which rate, with which decay."""

from support.tiny import tiny_distilbert

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.training import TrainingConfig
from lora_scratch.training.optimizer import parameter_groups


def adapted():
    return inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8))


def test_groups_hold_every_trainable_tensor_once_and_nothing_else():
    """The optimizer never sees a frozen weight."""
    model = adapted()
    grouped = [id(p) for group in parameter_groups(model, TrainingConfig()) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_biases_have_no_weight_decay():
    """Decay is for matrices alone."""
    for group in parameter_groups(adapted(), TrainingConfig(weight_decay=0.1)):
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.1}


def test_loraplus_multiplies_the_rate_of_b_alone():
    """LoRA+ (Hayou et al. 2024): a larger step for B."""
    model = adapted()
    groups = parameter_groups(model, TrainingConfig(learning_rate=1e-3, loraplus_ratio=16))
    fast = {id(p) for group in groups if group["lr"] == 16e-3 for p in group["params"]}
    assert fast == {id(layer.lora_B) for layer in adapter_layers(model).values()}
    assert {group["lr"] for group in groups} == {1e-3, 16e-3}
