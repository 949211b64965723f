"""AdamW over the adapter and the head, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..adapter import adapter_layers
from .config import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over every trainable tensor. Vectors (biases, magnitudes) have no weight decay; B has LoRA+'s learning rate.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101 (AdamW); Hayou et al. 2024, LoRA+, arXiv:2402.12354, section 4.
    """
    return torch.optim.AdamW(parameter_groups(model, config), lr=config.learning_rate, fused=True)


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """The trainable tensors by (learning rate, weight decay), in the model's order."""
    fast = _output_factors(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate = config.learning_rate * (config.loraplus_ratio if id(parameter) in fast else 1.0)
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _output_factors(model: nn.Module) -> set[int]:
    """The B factors. The layer class says which of its tensors that is, by the name it has in the file."""
    return {
        id(tensor)
        for layer in adapter_layers(model).values()
        for suffix, tensor in layer.adapter_tensors().items()
        if suffix.startswith(("lora_B", "lora_embedding_B"))
    }
