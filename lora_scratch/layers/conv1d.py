r"""LoRA on transformers' `Conv1D`, the linear layer of GPT-2, which stores its weight as (in, out).

    y = x W + b + scaling · (dropout(x) Aᵀ) Bᵀ        W (in, out),  ΔW = scaling · (B A)ᵀ

A and B are what they are on `nn.Linear`; only the side on which the weight stands is another. The class is recognized by
its full name, so nothing here imports transformers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .lora import LowRankLayer, at_least_float32
from .registry import register

CONV1D = "transformers.pytorch_utils.Conv1D"


def stores_in_out(base: nn.Module) -> bool:
    """Whether this is transformers' Conv1D, whose weight is (in, out)."""
    return f"{type(base).__module__}.{type(base).__qualname__}" == CONV1D


def out_in(base: nn.Module, weight: Tensor) -> Tensor:
    """A weight of `base` as (out, in), or an (out, in) matrix as `base` stores it: Conv1D has the transpose of Linear's."""
    return weight.T if stores_in_out(base) else weight


@register("lora", CONV1D)
class LoRAConv1D(LowRankLayer):
    """y = x W + b + scaling · (dropout(x) Aᵀ) Bᵀ, with W (in, out) and b frozen. Arguments as for `LoRALinear`.

    Shape: lora_A (rank, in), lora_B (out, rank); x (..., in) -> (..., out).

    Raises:
        ValueError: an argument out of bounds.
    """

    def feature_counts(self) -> tuple[int, int]:
        """Return in and out of the layer, whose weight is (in, out)."""
        in_features, out_features = self.weight.shape
        return in_features, out_features

    def forward(self, x: Tensor) -> Tensor:
        """x W + b + scaling · (dropout(x) Aᵀ) Bᵀ. Shape: x (..., in) -> (..., out)."""
        if self.merged_weight is not None and self.enabled:
            return F.linear(x, self.merged_weight.T, self.bias)
        y: Tensor = self.base(x)  # (..., out)
        if not self.enabled:
            return y
        low = F.linear(self.dropout(x), self.lora_A.to(x.dtype))  # (..., rank)
        return y + self.scaling * F.linear(low, self.lora_B.to(low.dtype))

    def delta_weight(self) -> Tensor:
        """ΔW = scaling · (B A)ᵀ, shape (in, out), in float32 or wider also under autocast."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            product: Tensor = at_least_float32(self.lora_B) @ at_least_float32(self.lora_A)
            return self.scaling * product.T

    def effective_weight(self) -> Tensor:
        """W + scaling · (B A)ᵀ, shape (in, out), in float32 or wider."""
        return self.weight + self.delta_weight()

    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        """A and B under PEFT's names."""
        return {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B}
