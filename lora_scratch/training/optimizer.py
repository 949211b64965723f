"""AdamW over the adapter and the head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..adapter import adapter_layers
from .config import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW over every trainable tensor.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101 (AdamW); Hayou et al. 2024, LoRA+,
        arXiv:2402.12354, section 4.
    """
    return torch.optim.AdamW(parameter_groups(model, config), lr=config.learning_rate, fused=True)


def make_recordable(optimizer: Any) -> None:
    """Let a CUDA graph of a step be replayed at another learning rate: the rate is a tensor.

    CUDA's fused AdamW reads it as float32; on a CPU it has the bits of a Python number.
    """
    for group in optimizer.param_groups:
        device = group["params"][0].device
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        group["lr"] = torch.tensor(group["lr"], dtype=dtype, device=device)
        group["capturable"] = True
    optimizer._warned_capturable_if_run_uncaptured = True  # the first steps are run as usual


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set the learning rate of a parameter group, in the same memory if it is a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


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
