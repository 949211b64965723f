r"""LoRA on transformers' `Conv1D`, the linear layer of GPT-2, which stores its weight as (in, out).

    y = x W + b + scaling · (dropout(x) Aᵀ) Bᵀ        W (in, out),  ΔW = scaling · (B A)ᵀ

A and B have the same shapes as on `nn.Linear`; W and ΔW are transposed. The class is recognized by
its full name, so this file does not import transformers.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .lora import LowRankLayer
from .registry import register

CONV1D = "transformers.pytorch_utils.Conv1D"


def stores_in_out(base: nn.Module) -> bool:
    """Return whether the layer is transformers' Conv1D, whose weight is (in, out)."""
    return f"{type(base).__module__}.{type(base).__qualname__}" == CONV1D


def out_in(base: nn.Module, weight: Tensor) -> Tensor:
    """Convert a weight of `base` to (out, in), or an (out, in) matrix to the shape in `base`."""
    return weight.T if stores_in_out(base) else weight


@register("lora", CONV1D)
class LoRAConv1D(LowRankLayer):
    """y = x W + b + scaling · (dropout(x) Aᵀ) Bᵀ, with W and b frozen. See `LowRankLayer`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return y. Shape: x (..., in) -> (..., out). Dtype: autocast's, else that of x."""
        if self.merged_weight is not None and self.enabled:
            return F.linear(x, self.merged_weight.T, self.bias)
        y: Tensor = self.base(x)  # (..., out)
        if not self.enabled:
            return y
        low = F.linear(self.dropout(x), self.lora_A.to(x.dtype))  # (..., rank)
        return y + self.scaling * F.linear(low, self.lora_B.to(low.dtype))

    def delta_weight(self) -> Tensor:
        """Return ΔW = scaling · (B A)ᵀ, shape (in, out), in float32 or wider."""
        return self.scaled_product(self.lora_A, self.lora_B).T
