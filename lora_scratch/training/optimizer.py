"""AdamW over the adapter and the head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..adapter import adapter_layers
from .config import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW over every trainable tensor.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101 (AdamW); Hayou et al. 2024, LoRA+,
        arXiv:2402.12354, section 4.
    """
    return torch.optim.AdamW(parameter_groups(model, config), lr=config.learning_rate, fused=True)


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Return the trainable tensors by learning rate and weight decay, in the model's order.

    Vectors (biases, magnitudes) have no weight decay. B has LoRA+'s learning rate.
    """
    factors_b = _output_factors(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            ratio = config.loraplus_ratio if id(parameter) in factors_b else 1.0
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((config.learning_rate * ratio, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


def _output_factors(model: nn.Module) -> set[int]:
    """Return the ids of the B factors, by the names that the layer classes give them."""
    return {
        id(tensor)
        for layer in adapter_layers(model).values()
        for suffix, tensor in layer.adapter_tensors().items()
        if suffix.startswith(("lora_B", "lora_embedding_B"))
    }
